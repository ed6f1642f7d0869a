"""Makes parsers from the dataclasses of this package, and words what is wrong in one line.

jsonargparse parses; this module tells it which options there are, and rewords its complaints.
"""

import dataclasses
import re
import shlex
import types
from argparse import SUPPRESS, Action, _SubParsersAction
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeAlias, TypeVar, Union, get_args, get_origin

import yaml
from jsonargparse import (  # type: ignore[attr-defined]  # it exports ActionConfigFile undeclared
    ActionConfigFile,
    ActionYesNo,
    ArgumentParser,
    DefaultHelpFormatter,
)

from leash.ps.errors import UsageError
from leash.ps.options.base import (
    expand_home,
    flag,
    groups,
    is_argument,
    is_program,
    takes_many,
)
from leash.ps.options.outer_optimizer import renamed_option
from leash.ps.options.plan import with_range_apart
from leash.ps.options.server import in_todays_terms, renamed_run_option
from leash.ps.words import did_you_mean

_MEANING: Final = {
    int: "a whole number", float: "a number", bool: "true or false",
    str: "a text; in a YAML file put it between quotes",  # on a command line every value is text
}  # fmt: skip
_INTEGER: Final = "tag:yaml.org,2002:int"
SHELLS: Final = ("bash", "zsh", "tcsh")

Config = TypeVar("Config")
Found: TypeAlias = "re.Match[str]"


class OneLineParser(ArgumentParser):
    """A parser that raises UsageError with one line, where argparse prints the usage and exits."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(_one_line(self, message)) from ex


class HelpFormatter(DefaultHelpFormatter):
    """Writes each option once, with its value once, and with its default if it has one."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, max_help_position=30, **settings)  # type: ignore[no-untyped-call]

    def _get_help_string(self, action: Action) -> str:
        default = "yes" if action.default is True else action.default
        tells = default not in (None, False, SUPPRESS) and bool(action.option_strings)
        return (action.help or "") + (f" (default: {default})" if tells else "")

    def _format_action(self, action: Action) -> str:
        if isinstance(
            action, _SubParsersAction
        ):  # argparse would write one more line above the commands
            return "".join(map(self._format_action, self._iter_indented_subactions(action)))
        return super()._format_action(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)

    def _format_action_invocation(self, action: Action) -> str:
        if not action.option_strings or action.nargs == 0 or isinstance(action, ActionYesNo):
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        # jsonargparse begins the value of --print-config, "[=flags]", with a backspace.
        return f"{', '.join(action.option_strings)} {value}".replace(" \b", "")


def new_parser(prog: str, about: str, **settings: Any) -> OneLineParser:
    """Makes a parser with `--help` and without options of its own."""
    parser = OneLineParser(
        prog=prog, description=about, formatter_class=HelpFormatter, add_help=False,
        # An abbreviated option would mean another one as soon as a new option begins alike.
        allow_abbrev=False, **settings,
    )  # fmt: skip
    parser.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def parser_for(prog: str, options: type[Any]) -> OneLineParser:
    """Makes the parser of a command that takes these options."""
    words = "".join(_word(f) for _, fs in groups(options) for f in fs if is_argument(f))
    program = "".join(
        f" [{f.name.upper()} [ARGUMENT ...]]" for f in dataclasses.fields(options) if is_program(f)
    )
    parser = new_parser(
        prog, options.__doc__ or "", usage=f"{prog} {words}[options]{program}",
        print_config="--print-config",
    )  # fmt: skip
    parser.add_argument(
        "--config", action=_SettingsFile, metavar="FILE.yaml",
        help="read settings from this file, such as a run's config.yaml; "
        "options after it on the command line win",
    )  # fmt: skip
    parser._option_string_actions["--print-config"].help = "print all settings as YAML, and end"
    for title, fields in groups(options):
        group = parser.add_argument_group(title)
        for field in fields:
            _add_option(group, field)
    return parser


def _word(field: "dataclasses.Field[Any]") -> str:
    """Writes an argument without a flag for the usage line."""
    name = field.name.upper()
    return f"{name[:-1]} [{name[:-1]} ...] " if takes_many(field) else f"[{name}] "


def options_from(parsed: Any, options: type[Config]) -> Config:
    """Makes the dataclass from what a parser of `parser_for` has parsed."""
    return options(
        **{
            # Not as an attribute: a Namespace has methods, such as `keys`, beside its values.
            f.name: tuple(parsed[f.name]) if takes_many(f) else parsed[f.name]
            for f in dataclasses.fields(options)  # type: ignore[arg-type]
        }
    )


def with_flagged_program(words: Sequence[str], options: type[Any]) -> list[str]:
    """Makes one option of a program's name and the words behind it, which are the program's own.

    Args:
        words: of the command line, behind the command's name.
        options: the command's; one without a program keeps its words as they are.
    """
    field = next(filter(is_program, dataclasses.fields(options)), None)
    if field is None:
        return list(words)
    known = parser_for("", options)._option_string_actions
    begin = 0
    while begin < len(words) and words[begin].startswith("-") and words[begin] != "--":
        action = known.get(words[begin])
        takes_a_word = action is not None and action.nargs is None
        begin += 1 + takes_a_word
    program = words[begin:][1:] if words[begin : begin + 1] == ["--"] else words[begin:]
    return [*words[:begin], *([f"{flag(field.name)}={shlex.join(program)}"] if program else [])]


def with_infinity(words: Sequence[str], options: type[Any]) -> list[str]:
    """Writes "inf" as YAML has it, by which jsonargparse reads numbers, where a number is expected.

    Args:
        words: of the command line, behind the command's name.
        options: the command's.
    """
    numbers = {
        name
        for f in dataclasses.fields(options)
        if _plain_type(f.type) is float
        for name in (flag(f.name), *f.metadata["aliases"])
    }
    written = list(words)
    for place, word in enumerate(words):
        name, is_given, value = word.partition("=")
        if name in numbers and value == "inf":
            written[place] = f"{name}=.inf"
        elif name in numbers and not is_given and words[place + 1 : place + 2] == ["inf"]:
            written[place + 1] = ".inf"
    return written


def _add_option(group: Any, field: "dataclasses.Field[Any]") -> None:
    names = [flag(field.name), *field.metadata["aliases"]]
    about = {"help": field.metadata["help"], "default": field.default}
    if field.type is bool:
        group.add_argument(names[0], action=ActionYesNo(yes_prefix="", no_prefix="no-"), **about)
        return
    if takes_many(field):
        about["default"] = []
        group.add_argument(
            field.name, nargs="*", type=str, metavar=field.name.upper()[:-1], **about
        )
        return
    metavar = field.metadata["metavar"] or _metavar(field)
    if field.metadata.get("several"):
        group.add_argument(*names, nargs="+", action=_Joined, metavar=metavar, **about)
        return
    if is_argument(field):
        group.add_argument(field.name, nargs="?", type=field.type, metavar=metavar, **about)
        return
    group.add_argument(*names, type=field.type, metavar=metavar, **about)


def _metavar(field: "dataclasses.Field[Any]") -> str:
    choices = _choices(field.type)
    return f"{{{','.join(choices)}}}" if choices else field.name.rpartition("_")[2].upper()


def _plain_type(annotation: Any) -> Any:
    """The type of an annotation, without its None."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    return next(arg for arg in get_args(annotation) if arg is not types.NoneType)


def _choices(annotation: Any) -> tuple[str, ...]:
    plain = _plain_type(annotation)
    return get_args(plain) if get_origin(plain) is Literal else ()


class _SettingsLoader(yaml.SafeLoader):
    """Reads YAML as people mean it: `2:8` is a text, where YAML 1.1 takes it for 2 x 60 + 8."""


_SettingsLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _INTEGER]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_SettingsLoader.add_implicit_resolver(
    _INTEGER, re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)  # fmt: skip


def settings_from_yaml(text: str) -> Any:
    """Reads a file of settings, or of an experiment.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    return yaml.load(text, _SettingsLoader)  # it is made of SafeLoader


class _SettingsFile(ActionConfigFile):
    """Reads a file of settings, also one that an earlier release wrote under other names."""

    def __call__(self, parser: Any, cfg: Any, path: Any, option: str | None = None) -> None:
        own_name = {
            name: action.dest
            for flagged, action in parser._option_string_actions.items()
            if flagged.startswith("--")
            and (name := flagged[2:].replace("-", "_")) not in (action.dest, f"no_{action.dest}")
        }
        text = _by_new_names(expand_home(path), own_name)
        super().__call__(parser, cfg, text, option)  # type: ignore[no-untyped-call]


def _by_new_names(path: str, own_name: Mapping[str, str]) -> str:
    """The path of the file; if it has other names than today's, its text with those instead.

    A file that cannot be read is left to the parser, which says what is wrong with it.
    """
    try:
        settings = settings_from_yaml(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return path
    if not isinstance(settings, dict):
        return path
    renamed = _by_own_names(with_range_apart(in_todays_terms(settings)), own_name)
    if renamed == settings:
        return path
    return yaml.safe_dump(renamed)


def _by_own_names(settings: Mapping[str, Any], own_name: Mapping[str, str]) -> dict[str, Any]:
    """Renames settings that have the name of another flag of their option, such as test_bsz.

    Raises:
        UsageError: one is there under two names.
    """
    renamed: dict[str, Any] = {}
    for name, value in settings.items():
        own = own_name.get(name, name)
        if own in renamed or (own != name and own in settings):
            raise UsageError(f"{name} {value}: the file says {own}, too; give {own} alone")
        renamed[own] = value
    return renamed


class _Joined(Action):
    """Joins several words with commas: ``--k 1 2 10`` is ``--k 1,2,10``."""

    def __call__(self, parser: Any, namespace: Any, words: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, ",".join(words))


class _PrintCompletion(Action):
    """Prints the completion script of a shell, and ends."""

    def __call__(self, parser: Any, _: Any, shell: Any, option: str | None = None) -> NoReturn:
        print(parser.get_completion_script(f"shtab-{shell}"))
        raise SystemExit(0)


def add_completion(parser: OneLineParser) -> None:
    """Adds the option that prints a completion script for a shell."""
    # The second name is the one that jsonargparse gave this option for years.
    parser.add_argument(
        "--print-completion", "--print_shtab", action=_PrintCompletion, choices=SHELLS,
        dest=SUPPRESS, default=SUPPRESS, help="print the completion script of this shell",
    )  # fmt: skip


# Wording what is wrong, in one line.


def _one_line(parser: OneLineParser, message: str) -> str:
    """Rewords a message of jsonargparse or argparse."""
    for pattern, reword in _WORDINGS:
        if found := re.match(pattern, message, re.DOTALL):
            return reword(parser, found)
    return f"{_flat(message)} {_see_help(parser)}"


def _wrong_value(parser: OneLineParser, found: Found) -> str:
    *command, dest = found[1].split(".")
    chosen = _below(parser, command[0] if command else "")
    action = next((a for a in chosen._actions if a.dest == dest), None)
    value = re.search(r"(?:Got|Given) value: (.*)", found[2], re.DOTALL)
    hint = getattr(action, "_typehint", None)
    if action is None or value is None or hint is None:
        return f"{flag(dest)}: {_flat(found[2])}"
    given = set(action.option_strings) & {word.partition("=")[0] for word in parser.args or ()}
    name = flag(dest) if action.option_strings else dest
    return f"{given.pop() if given else name} {_flat(value[1])}: expected {_expected(hint)}"


def _misused_option(parser: OneLineParser, found: Found) -> str:
    complaint = re.sub("ignored explicit argument .*", "takes no value", found[2])
    return f"{found[1]}: {_flat(complaint)} {_see_help(parser)}"


def _unknown_argument(parser: OneLineParser, found: Found) -> str:
    name = found[1].partition("=")[0]
    if (renamed := renamed_option(name) or renamed_run_option(name)) is not None:
        return renamed
    chosen = _below(parser, (parser.args or [""])[0])
    known = [name for action in chosen._actions for name in action.option_strings]
    kind = "option" if found[1].startswith("-") else "argument"
    return _unknown(kind, found[1], known, chosen)


def _unknown_command(parser: OneLineParser, found: Found) -> str:
    return _unknown("command", found[1], _commands(parser), parser)


def _unknown_setting(parser: OneLineParser, found: Found) -> str:
    chosen = _below(parser, found[1])
    return _unknown("setting", found[2], [action.dest for action in chosen._actions], chosen)


def _no_command(parser: OneLineParser, _: Found) -> str:
    return f"give a command: {', '.join(_commands(parser))} {_see_help(parser)}"


def _wrong_file(_: OneLineParser, found: Found) -> str:
    return f"--config: not a file of settings: {_flat(found[0])}"


_WORDINGS: Final[tuple[tuple[str, Callable[[OneLineParser, Found], str]], ...]] = (
    (r'Parser key "([\w.]+)":\s*(.*)', _wrong_value),
    (r"argument COMMAND: invalid choice: '(.*?)'", _unknown_command),
    (r"argument (-[^:/]+)\S*: (.*)", _misused_option),
    (r"unrecognized arguments: (\S+)", _unknown_argument),
    (r"Subcommand '(\w+)' does not accept option '(.*?)'", _unknown_setting),
    (r'expected "command"', _no_command),
    (r"(Problems parsing|Unexpected) config.*", _wrong_file),
)


def _expected(annotation: Any) -> str:
    if choices := _choices(annotation):
        return f"one of {', '.join(choices)}"
    plain = _plain_type(annotation)
    return _MEANING.get(plain, str(plain))


def _unknown(kind: str, word: str, known: list[str], parser: OneLineParser) -> str:
    """Says that a word is unknown, and which known one is nearest."""
    name = word.partition("=")[0]
    alike = (other for other in known if other.startswith("-") == name.startswith("-"))
    by_letters = {other.lstrip("-"): other for other in alike}  # their dashes say nothing
    hint = did_you_mean(name.lstrip("-"), by_letters)
    return f"unknown {kind} {name}{'; ' if hint else ' '}{hint}{_see_help(parser)}"


def _commands(parser: OneLineParser) -> list[str]:
    return list(parser._subcommands_action.choices) if parser._subcommands_action else []


def _below(parser: OneLineParser, word: str) -> OneLineParser:
    """The parser of the command that this word names; this parser if it names none."""
    commands = parser._subcommands_action
    found: OneLineParser = (
        commands.choices[word] if commands and word in commands.choices else parser
    )
    return found


def _see_help(parser: OneLineParser) -> str:
    return f"(see {parser.prog} --help)"


def _flat(text: str) -> str:
    return " ".join(text.split())
