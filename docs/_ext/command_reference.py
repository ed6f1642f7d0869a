"""Writes the page of all commands from the commands' own options, when the site is built."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final

from leash.ps.cli import COMMANDS, options_of
from leash.ps.options.base import flag, groups, is_argument, is_program
from leash.ps.options.parser import parser_for

PAGE: Final = "reference/commands"
MARK: Final = "<!-- the commands -->"  # where they stand in the page


def all_commands() -> str:
    """All commands with their options, in Markdown."""
    return "\n".join(line for name in COMMANDS for line in _command(name))


def _command(name: str) -> Iterator[str]:
    options = options_of(COMMANDS[name])
    parser = parser_for(f"leash {name}", options)
    yield f"## leash {name}\n"
    yield f"{options.__doc__}\n"
    yield f"```\n{parser.format_usage().removeprefix('usage: ').strip()}\n```\n"
    actions = {action.dest: action for action in parser._actions}
    for title, fields in groups(options):
        yield f"**{title[:1].upper()}{title[1:]}**\n"
        yield "| | default | |"
        yield "| --- | --- | --- |"
        for field in fields:
            yield _row(field, actions[field.name])
        yield ""


def _row(field: "dataclasses.Field[Any]", action: Any) -> str:
    return (
        f"| {_cell(_name(field, action))} | {_default(field)} | {_cell(field.metadata['help'])} |"
    )


def _name(field: "dataclasses.Field[Any]", action: Any) -> str:
    """How the option is written, with its other names and what stands for its value."""
    if is_argument(field):
        return f"`{field.name.upper()}`"
    if is_program(field):
        return f"`{flag(field.name)} {action.metavar}`"
    if field.type is bool:
        return f"`{flag(field.name)}`, `--no-{field.name.replace('_', '-')}`"
    value = action.metavar or "VALUE"
    return ", ".join(f"`{name} {value}`" for name in action.option_strings)


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.type is bool:
        return "yes" if field.default else "no"
    return "" if field.default in (None, "", ()) else f"`{field.default}`"


def _cell(text: str) -> str:
    """A cell's text, in which nothing but what stands between backticks is markup."""
    pieces = " ".join(text.replace("|", "\\|").split()).split("`")
    pieces[::2] = [re.sub(r"([*<_\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def on_source_read(_: Any, docname: str, source: list[str]) -> None:
    if docname == PAGE:
        source[0] = source[0].replace(MARK, all_commands())


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", on_source_read)
    return {"parallel_read_safe": True}
