"""The `leash` command: translates words into calls, nothing else.

A command's module is imported when the command runs, so `leash server` never sees PyTorch, and a
wrong argument is answered before anything heavy is loaded.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from leash.ps import interrupt

if TYPE_CHECKING:
    from leash.ps.options.base import Options
    from leash.ps.options.parser import OneLineParser

PROG: Final = "leash"
ABOUT: Final = (
    "A parameter server: fast and slow machines train one PyTorch model together, and nobody runs "
    "further ahead than the leash that you give."
)
EXAMPLES: Final = """\
examples:
  leash launch --workers 4 --policy ssp --staleness 3 --dataset digits --slow 0,0,0,0.05
  leash server --bind tcp://0.0.0.0:29500 --workers 2
  leash worker --server tcp://HOST:29500 --rank 1 --dataset digits

`leash COMMAND --help` lists the options of a command. For completion in your shell:
  leash --print-completion bash > ~/.local/share/bash-completion/completions/leash
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One word after `leash`."""

    config: str  # the dataclass of leash.ps.options.commands that holds its settings
    target: str  # module:function, which takes them and returns the exit status
    about: str


COMMANDS: Final = {
    "launch": Command(
        "LaunchConfig", "leash.ps.commands.launch:run", "train on this machine: server and workers"
    ),
    "server": Command("ServerConfig", "leash.ps.server.loop:serve", "keep the parameters of a run"),
    "worker": Command(
        "WorkerConfig", "leash.worker.train.trainer:run", "train on a share of the data"
    ),
    "evaluate": Command(
        "EvaluateConfig", "leash.worker.train.evaluator:run", "measure a run's test accuracy"
    ),
    "status": Command("StatusConfig", "leash.ps.commands.status:run", "show how a run stands"),
    "report": Command(
        "ReportConfig", "leash.ps.report.command:run", "show runs as a page of pictures"
    ),
    "em": Command(
        "EmConfig", "leash.worker.em.command:run", "fit mixtures to MNIST's digits by EM"
    ),
    "set": Command(
        "SetConfig", "leash.ps.commands.set:run", "change the policy of a run that goes on"
    ),
    "doctor": Command(
        "DoctorConfig", "leash.ps.commands.doctor:run", "check this installation and a server"
    ),
    "experiment": Command(
        "ExperimentConfig",
        "leash.ps.experiments.command:run",
        "repeat an experiment of several runs",
    ),
    "simulate": Command(
        "SimulateConfig", "leash.ps.simulate.command:run", "predict a run before it is paid for"
    ),
    "bench": Command("BenchConfig", "leash.bench.command:run", "measure, side by side with others"),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs one command, and exits with its status."""
    interrupt.raise_on_signals()
    interrupt.end_with_parent()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        status = run(words)
    except BaseException as error:
        status = _status_of(error, words)
    interrupt.ignore_signals()
    raise SystemExit(status)


def run(words: Sequence[str]) -> int:
    """Runs the command that these words name; returns its exit status."""
    name, config = parse(words)
    config.check()
    return resolve(COMMANDS[name].target)(config)


def parse(words: Sequence[str]) -> "tuple[str, Options]":
    """The command that these words name, and its settings.

    Raises:
        UsageError: a wrong argument.
        SystemExit: --help or its like was asked for, and has been printed.
    """
    from leash.ps.options import commands as configs
    from leash.ps.options.parser import config_from

    parsed = build_parser().parse_args(list(words))
    name: str = parsed.command
    settings: type[Options] = getattr(configs, COMMANDS[name].config)
    return name, config_from(parsed[name], settings)


def build_parser() -> "OneLineParser":
    """The parser of `leash`, with one below it for each command."""
    from leash import __version__
    from leash.ps.options import commands as configs
    from leash.ps.options.parser import add_completion, new_parser, parser_for

    parser = new_parser(PROG, ABOUT, usage=f"{PROG} COMMAND [options]", epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}",
                        help="show the version")  # fmt: skip
    add_completion(parser)
    commands = parser.add_subcommands(
        dest="command", title="commands", description=None, metavar="COMMAND"
    )
    for name, command in COMMANDS.items():
        below = parser_for(f"{PROG} {name}", getattr(configs, command.config))
        commands.add_subcommand(name, below, help=command.about)
        below.prog = f"{PROG} {name}"  # without the "[options]" that argparse puts in between
    return parser


def resolve(target: str) -> Callable[[Any], int]:
    """The function that ``module:function`` names."""
    module, _, function = target.partition(":")
    found: Callable[[Any], int] = getattr(importlib.import_module(module), function)
    return found


def _status_of(error: BaseException, words: Sequence[str]) -> int:
    """The exit status for what ended a command; says what is to be said, in one line."""
    from leash.ps.errors import LeashError, UsageError

    # Code that was interrupted may raise anything; what ended it is the signal all the same.
    if (number := interrupt.received()) is not None:
        return 128 + number
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError):  # whoever read has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if not isinstance(error, LeashError):
        raise error
    command = f"{PROG} {words[0]}" if words and words[0] in COMMANDS else PROG
    print(f"{command}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    main()
