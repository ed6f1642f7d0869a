"""The `leash` command: translates words of a command line into calls, and does nothing else.

A command's module is imported when the command runs, so `leash server` never sees PyTorch, and a
wrong argument is answered before anything heavy is loaded.
"""

import errno
import importlib
import logging
import os
import re
import signal
import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from leash._extras import install_command, package_of
from leash.ps import interrupt

if TYPE_CHECKING:
    from leash.ps.errors import LeashError
    from leash.ps.options.base import Options
    from leash.ps.options.parser import OneLineParser

PROG: Final = "leash"
ABOUT: Final = (
    "A parameter server: fast and slow machines train one PyTorch model together, and nobody runs "
    "further ahead than the leash that you give."
)
EXAMPLES: Final = """\
examples:
  leash launch --workers 4 --policy ssp --bound 3 --dataset digits --slow 0,0,0,0.05
  leash keys new keys --workers 2
  leash server --bind tcp://0.0.0.0:29500 --keys keys --workers 2
  leash worker --server tcp://HOST:29500 --key worker-1.key --rank 1 --dataset digits

`leash COMMAND --help` lists the options of a command. For completion in your shell:
  leash --print-completion bash > ~/.local/share/bash-completion/completions/leash
"""


# What torch says where the host has no memory for a tensor.
TORCH_LACKS_MEMORY: Final = "can't allocate memory|not enough memory"
MORE_MEMORY: Final = (
    "take a smaller --batch-size or a smaller model, or give this process more memory (ulimit -v, "
    "a container's limit, or the host's)"
)


@dataclass(frozen=True, slots=True)
class Command:
    """What one word after `leash` stands for; both places are module:name, below `leash`."""

    options: str  # the dataclass of its options
    target: str  # the function that takes them and returns the exit status
    about: str


COMMANDS: Final = {
    "launch": Command("ps.options.launch:LaunchOptions", "ps.launch.command:run",
                      "train: server and workers, here or on hosts"),
    "server": Command("ps.options.server:ServerOptions", "ps.server.loop:serve",
                      "keep the parameters of a run"),
    "worker": Command("ps.options.worker:WorkerOptions", "worker.train.command:run",
                      "train on a share of the data"),
    "evaluate": Command("ps.options.commands:EvaluateOptions", "worker.train.evaluator:run",
                        "measure a run's test accuracy"),
    "status": Command("ps.options.commands:StatusOptions", "ps.commands.status:run",
                      "show how a run stands"),
    "runs": Command("ps.options.commands:RunsOptions", "ps.commands.runs:run",
                    "list the runs in a folder"),
    "report": Command("ps.report.options:ReportOptions", "ps.report.command:run",
                      "show runs as a page of pictures"),
    "page": Command("ps.options.page:RunPageOptions", "ps.live.command:run",
                    "show a run as a page, live or when it has ended"),
    "em": Command("ps.options.em:EmOptions", "worker.em.command:run",
                  "fit mixtures to MNIST's digits by EM"),
    "set": Command("ps.options.commands:SetOptions", "ps.commands.set:run",
                   "change the policy of a run that goes on"),
    "save": Command("ps.options.commands:SaveOptions", "ps.commands.save:run",
                    "save a checkpoint of a run that goes on"),
    "stop": Command("ps.options.commands:StopOptions", "ps.commands.stop:run",
                    "end a run, with its last checkpoint"),
    "leave": Command("ps.options.commands:DismissOptions", "ps.commands.leave:run",
                     "tell workers to leave a run that goes on"),
    "keys": Command("ps.options.commands:KeysOptions", "ps.commands.keys:run",
                    "make keys, so that nobody else takes part"),
    "doctor": Command("ps.options.commands:DoctorOptions", "ps.commands.doctor:run",
                      "check this installation and a server"),
    "experiment": Command("ps.experiments.options:ExperimentOptions", "ps.experiments.command:run",
                          "repeat an experiment of several runs"),
    "demo": Command("ps.demo.options:DemoOptions", "ps.demo.command:run",
                    "see unequal machines in lockstep and on the leash"),
    "simulate": Command("ps.simulate.options:SimulateOptions", "ps.simulate.command:run",
                        "predict a run before it is paid for"),
    "bench": Command("bench.options:BenchOptions", "bench.command:run",
                     "measure, side by side with others"),
}  # fmt: skip


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
    name, options = parse(words)
    options.check()
    try:
        return resolve(COMMANDS[name].target)(options)
    except ImportError as error:
        package = package_of(error)
        if package is None:
            raise
        raise _unusable(package, error) from error


def parse(words: Sequence[str]) -> "tuple[str, Options]":
    """Finds the command that these words name, and reads its options.

    Raises:
        UsageError: a wrong argument.
        SystemExit: --help or its like was asked for, and has been printed.
    """
    from leash.ps.options.commands import require_one_number_of_workers
    from leash.ps.options.parser import options_from, with_flagged_program, with_infinity
    from leash.ps.options.plan import with_counted_learners, with_worker_range
    from leash.ps.options.rule import for_drop
    from leash.ps.options.server import with_demo_logs
    from leash.ps.policy import DROP

    if words and words[0] in COMMANDS:
        options = options_of(COMMANDS[words[0]])
        behind = with_flagged_program(words[1:], options)
        words = [words[0], *with_infinity(behind, options)]
    require_one_number_of_workers(words)
    words = with_demo_logs(with_worker_range(with_counted_learners(words)))
    parsed = build_parser().parse_args(list(words))
    name: str = parsed.command
    if getattr(parsed[name], "policy", None) == DROP.name and for_drop(words) != words:
        parsed = build_parser().parse_args(for_drop(words))
    return name, options_from(parsed[name], options_of(COMMANDS[name]))


def build_parser() -> "OneLineParser":
    """Makes the parser of `leash`, with one below it for each command."""
    from leash.ps.options.parser import add_completion, new_parser, parser_for

    parser = new_parser(PROG, ABOUT, usage=f"{PROG} COMMAND [options]", epilog=EXAMPLES)
    parser.add_argument("--version", action=_ShowVersion, nargs=0, dest=SUPPRESS, default=SUPPRESS,
                        help="show version, commit and instruction set")  # fmt: skip
    add_completion(parser)
    commands = parser.add_subcommands(
        dest="command", title="commands", description=None, metavar="COMMAND"
    )
    for name, command in COMMANDS.items():
        below = parser_for(f"{PROG} {name}", options_of(command))
        commands.add_subcommand(name, below, help=command.about)
        below.prog = f"{PROG} {name}"  # without the "[options]" that argparse puts in between
    return parser


class _ShowVersion(Action):
    """Prints what is installed, which nothing but this option has to find out."""

    def __call__(self, parser: Any, *_: Any, **__: Any) -> None:
        from leash._version import version_and_commit
        from leash.ps._core import instruction_set

        print(f"{PROG} {version_and_commit()}, {instruction_set()} kernels")
        parser.exit()


def resolve(target: str) -> Callable[[Any], int]:
    """Imports the function that a command runs."""
    function: Callable[[Any], int] = _named(target)
    return function


def options_of(command: Command) -> "type[Options]":
    """Imports the dataclass of a command's options."""
    options: type[Options] = _named(command.options)
    return options


def _named(place: str) -> Any:
    """Imports what ``module:name`` names, below `leash`."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(f"leash.{module}"), name)
    except OSError as error:
        if module.startswith("ps."):  # which has no PyTorch, and so none of its shared libraries
            raise
        raise ImportError(str(error), name="torch") from error


def _unusable(package: str, error: ImportError) -> "LeashError":
    from leash.ps.errors import LeashError

    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return LeashError(f"{package} is not installed: {install_command(package)}")
    return LeashError(
        f"{package} is there and does not import ({error}); remove it, then "
        f"{install_command(package)}"
    )


def _without_core(error: ImportError) -> "LeashError | None":
    """What to say if it is the compiled core that does not import; otherwise None."""
    from leash.ps.errors import LeashError
    from leash.ps.words import CORE_ANEW

    if str(error).startswith("LEASH_ISA: "):
        return LeashError(str(error))
    if error.name == "leash.ps._core":
        return LeashError(f"the compiled core does not import: {error}; {CORE_ANEW}")
    return None


def _status_of(error: BaseException, words: Sequence[str]) -> int:
    """Gives the exit status for the error that ended a command, and prints its text in one line."""
    from leash.ps.errors import ArgumentError, LeashError, StoppingError, UsageError
    from leash.ps.words import why_stopped

    # Code that a signal interrupts may raise any error; the status is the signal's all the same.
    if (number := interrupt.received()) is not None:
        return 128 + number
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        # A full disk or a file that nobody may read is told by its name; it is no fault of ours.
        logging.getLogger("leash.ps.cli").debug("the traceback", exc_info=error)
        error = LeashError(f"{error.filename}: {error.strerror}")
    if is_about_memory(error):
        logging.getLogger("leash.ps.cli").debug("the traceback", exc_info=error)
        what = f"out of memory: {error}" if str(error) else "out of memory"
        error = LeashError(f"{what}; {MORE_MEMORY}")
    if isinstance(error, ImportError):
        logging.getLogger("leash.ps.cli").debug("the traceback", exc_info=error)
        error = _without_core(error) or error
    if not isinstance(error, LeashError):
        raise error
    command = f"{PROG} {words[0]}" if words and words[0] in COMMANDS else PROG
    text = error.as_option if isinstance(error, ArgumentError) else str(error)
    if isinstance(error, StoppingError):
        text = f"the run is over: {why_stopped(text)}"
    line = " ".join(text.split())
    # Not __name__: under `python -m leash.ps.cli` that is no logger of ours, and not silent.
    logging.getLogger("leash.ps.cli").error("%s", line)
    print(f"{command}: {line}", file=sys.stderr)
    return 2 if isinstance(error, UsageError) else 1


def is_about_memory(error: BaseException) -> bool:
    """Whether there was no memory, of the host or of a GPU: numpy and torch say so in own ways."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(re.search(TORCH_LACKS_MEMORY, str(error)))


if __name__ == "__main__":
    main()
