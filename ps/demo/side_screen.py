"""Shows both sides of the demo while they run: a column for each."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leash.ps.commands.live_screen import Screen
from leash.ps.commands.printing import print_line
from leash.ps.commands.run_table import RunState, epoch_of, waiting_for
from leash.ps.demo.sides import TARGET_ACCURACY, Side
from leash.ps.words import DONE, NONE, TAKES_PART, accuracy_text, percent

SIDES_WIDTH: Final = 76  # columns at most
CELLS: Final = 10  # of a bar of waiting
NOT_YET: Final = ""

Column = Callable[["SideView"], RenderableType]


class SideView:
    """What is known of one side so far.

    Attributes:
        side: which one.
        state: how its run stands; None before it has begun.
        reached_s: when its test accuracy came to the target; None until it has.
    """

    def __init__(self, side: Side) -> None:
        self.side: Final = side
        self.state: RunState | None = None
        self.reached_s: float | None = None

    def note(self, state: RunState) -> None:
        """Takes how the run stands now."""
        self.state = state
        accuracies = [share for share in state["test_accuracy_by_epoch"] if share is not None]
        if self.reached_s is None and max(accuracies, default=0.0) >= TARGET_ACCURACY:
            self.reached_s = state["train_seconds"]

    @property
    def begun(self) -> RunState | None:
        """How the run stands, once it trains; None before."""
        return self.state if self.state is not None and self.state["started"] else None


class SideScreen(Screen):
    """The screen of one run, which draws both sides. It opens and closes nothing."""

    def __init__(self, view: SideView, draw: Callable[[], None], console: Console) -> None:
        super().__init__(console)
        self._view: Final = view
        self._draw: Final = draw

    def show(self, state: RunState) -> None:
        self._view.note(state)
        self._draw()

    def say(self, line: str) -> None:
        super().say(f"{self._view.side.name}: {line}")


class SideLines(Screen):
    """The screen of one run where there is no terminal: lines, and what `SideScreen` notes."""

    def __init__(self, view: SideView, console: Console) -> None:
        super().__init__(console)
        self._view: Final = view

    def show(self, state: RunState) -> None:
        self._view.note(state)
        super().show(state)


class BothSides:
    """Draws both sides over themselves again and again; without a terminal it prints lines."""

    def __init__(self, sides: Sequence[Side], console: Console) -> None:
        self.views: Final = [SideView(side) for side in sides]
        self._console: Final = console
        self._live: Final = Live(console=console, auto_refresh=False)

    def __enter__(self) -> "BothSides":
        if self._console.is_terminal:
            self._live.start()
            self.draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def screen_of(self, view: SideView) -> Screen:
        """Makes the screen of the run of one side."""
        if self._console.is_terminal:
            return SideScreen(view, self.draw, self._console)
        self._console.print()
        print_line(self._console, f"{view.side.name} ({view.side.how})")
        return SideLines(view, self._console)

    def draw(self) -> None:
        """Draws both sides as they are now."""
        self._live.update(sides_table(self.views), refresh=True)

    def draw_at_last(self) -> None:
        """Draws them for good: the table stays, also where there is no terminal."""
        if self._console.is_terminal:
            self.draw()
        else:
            self._console.print(sides_table(self.views))


def sides_table(views: Sequence[SideView]) -> RenderableType:
    """Makes the table: a row for each figure, a column for each side."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False, expand=True,
        header_style="bold", border_style="dim",
    )  # fmt: skip
    table.add_column("", no_wrap=True, style="dim")
    for view in views:
        table.add_column(view.side.name, ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_row("", *(Text(view.side.how, "dim") for view in views))
    for name, cell in _rows(views[0].side.options.workers):
        table.add_row(name, *(cell(view) for view in views))
    return Constrain(Group(Text(), table), SIDES_WIDTH)  # apart from what was said above


def _rows(workers: int) -> list[tuple[str, Column]]:
    waits = [(f"machine {rank} waits", _waiting_of(rank)) for rank in range(1, workers + 1)]
    return [
        ("progress", _progress_of),
        ("", _bar_of),
        *waits,
        ("steps a second", _begun(lambda state: f"{state['steps_per_second']:.1f}")),
        ("test accuracy", _begun(_accuracy)),
        (f"{percent(TARGET_ACCURACY)} after", _reached),
    ]


def _begun(text: Callable[[RunState], str]) -> Column:
    return lambda view: Text(text(view.begun)) if view.begun is not None else Text(NOT_YET)


def _progress_of(view: SideView) -> Text:
    if view.state is None:
        return Text("comes next", "dim")
    if not view.state["started"]:
        return Text(waiting_for(view.state), "yellow", overflow="ellipsis")
    seconds = f"{view.state['train_seconds']:.1f} s"
    if view.state["finished"]:
        return Text(f"finished after {seconds}", "green")
    return Text(f"{epoch_of(view.state)}, {seconds}")


def _bar_of(view: SideView) -> RenderableType:
    if view.begun is None:
        return Text(NOT_YET)
    state = view.begun
    done = [row["epoch"] for row in state["table"] if row["state"] in (*TAKES_PART, DONE)]
    total = (state["planned_epochs"] or 1) * max(1, len(done))
    return ProgressBar(total=total, completed=sum(done), complete_style="green")


def _waiting_of(rank: int) -> Column:
    def cell(view: SideView) -> Text:
        rows: list[dict[str, Any]] = view.begun["table"] if view.begun is not None else []
        share = next((row["wait_fraction"] for row in rows if row["worker"] == rank), None)
        if share is None:
            return Text(NONE if rows else NOT_YET)
        waiting = round(CELLS * share)
        return Text.assemble(("█" * waiting, "yellow"), ("░" * (CELLS - waiting), "dim"),
                             f" {percent(share)}")  # fmt: skip

    return cell


def _accuracy(state: RunState) -> str:
    return NONE if state["test_accuracy"] is None else accuracy_text(state["test_accuracy"])


def _reached(view: SideView) -> Text:
    if view.reached_s is None:
        return Text(NOT_YET if view.begun is None else NONE)
    return Text(f"{view.reached_s:.1f} s", "bold")
