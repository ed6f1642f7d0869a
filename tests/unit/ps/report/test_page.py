"""The page of every kind of run: well formed, complete in itself, and without foreign markup."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from leash.ps.errors import UsageError
from leash.ps.page.view import asset
from leash.ps.report.writing import write_report
from support.runs import Event, simulate, write_run

VOID = {"meta", "br", "path", "use", "rect", "line"}


class Checker(HTMLParser):
    """Every tag is closed, in order; notes what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.views: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            local = (value or "").startswith("#")
            if name in ("src", "href", "srcset", "action", "data") and not local:
                self.fetched.append(f"{tag} {name}={value}")
            assert not name.startswith("on"), (tag, name)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)
        elif data.startswith('{"sections":'):
            self.views.append(json.loads(data))


def strings(value: Any) -> Iterator[str]:
    """All text in a view."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def checked(page: Path) -> Checker:
    checker = Checker()
    checker.feed(page.read_text("utf-8"))
    checker.close()
    return checker


def check(page: Path) -> str:
    """The words of the page and of its view."""
    checker, html = checked(page), page.read_text("utf-8")
    assert checker.open == []
    assert checker.fetched == []
    assert not {"iframe", "link", "object", "img"} & set(checker.tags)
    own = html.replace(asset("uPlot.min.js"), "").replace(asset("uPlot.min.css"), "")
    assert not re.search(r"https?:|@import|url\((?!#)|fetch\(|import\(|XMLHttp", own)
    assert "viewport" in html
    assert "prefers-color-scheme: dark" in html
    return " ".join(" ".join([*checker.words, *strings(checker.views)]).split())


def steady(seconds: float) -> Callable[[int], float]:
    return lambda _: seconds


def evaluated(events: Sequence[Event], accuracy: float | None = 0.9) -> list[Event]:
    last_t = float(events[-1]["t"])
    return [*events, {"t": last_t, "event": "evaluated", "epoch": 1, "accuracy": accuracy,
                      "loss": 0.25, "samples": 100}]  # fmt: skip


def with_step_events(events: Sequence[Event], step_events: int) -> list[Event]:
    """What would have been recorded of the same run."""
    return [
        {**e, "step_events": step_events} if e["event"] == "started" else e
        for e in events
        if e["event"] not in ("push", "step") or (step_events and e["step"] % step_events == 0)
    ]


SUMMARY: Event = {
    "policy": "ssp", "bound": 3, "steps": 60, "max_lag": 3, "mean_staleness": 1.5,
    "max_staleness": 4, "ended": "done", "wait_fraction_by_worker": {"1": 0.5, "2": 0.1},
}  # fmt: skip
TWO = evaluated(simulate([steady(0.1), steady(0.3)], steps=30, bound=3))
STARTED = TWO[:4]

KINDS: dict[str, tuple[list[Event], Event | None, list[str]]] = {
    "usual": (TWO, SUMMARY, ["90.00 %", "Test accuracy over time", "What each worker did"]),
    "interrupted": (TWO[:60], {**SUMMARY, "ended": "SIGINT"}, ["ended early: stopped by Ctrl-C"]),
    "incomplete": (
        TWO,
        {**SUMMARY, "ended": "incomplete", "unfinished": [
            {"worker": 2, "state": "evicted", "epochs": "2-5", "samples": 4365},
        ]},
        ["ended early: incomplete (not trained: worker 2 (evicted): epochs 2-5 of its share, "
         "4365 samples)"],
    ),
    "killed": (TWO[:60], None, ["no summary: it goes on, or was killed"]),
    "no evaluation": (TWO[:-1], SUMMARY, ["What each worker did"]),
    "a regression": (evaluated(TWO[:-1], None), SUMMARY, ["test loss 0.25", "Loss over time"]),
    "one worker": (evaluated(simulate([steady(0.1)], 30, 0)), SUMMARY, ["nobody to wait for"]),
    "64 workers": (simulate([steady(0.1)] * 64, 8, 0), {**SUMMARY, "steps": 512}, ["64 workers"]),
    "thousands of steps": (
        evaluated(simulate([steady(0.01), steady(0.03)], 2000, 3)), {**SUMMARY, "steps": 4000},
        ["A closer look", "The height of a colour is its share"],
    ),
    "no step": (STARTED, {**SUMMARY, "steps": 0}, ["No step was taken"]),
    "never began": (STARTED[:3], None, ["never began"]),
    "nothing": ([], None, ["never began"]),
    "sampled": (with_step_events(TWO, 5), SUMMARY, ["Too little was recorded", "one step in 5"]),
    "unrecorded": (with_step_events(TWO, 0), SUMMARY, ["Waiting, from a push to its answer: 30 %"]),
}  # fmt: skip


@pytest.fixture
def no_png(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is enough: drawing everything again as PNG files takes as long."""
    monkeypatch.setattr("leash.ps.report.pictures.drawing.write_png", lambda picture, path: None)


@pytest.mark.usefixtures("no_png")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_a_readable_page(tmp_path: Path, kind: str) -> None:
    events, summary, expected = KINDS[kind]
    run = write_run(tmp_path / "my run", events, {"lr": 0.1}, summary)
    page = write_report([run], run)
    assert page == run / "report.html"
    words = check(page)
    for words_expected in ("my run", *expected):
        assert words_expected in words


def test_what_is_on_the_page_lies_beside_it_as_png(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", KINDS["thousands of steps"][0], {}, SUMMARY)
    page = write_report([run], tmp_path / "out" / "mine.html")
    pictures = sorted(path.name for path in (tmp_path / "out" / "mine").iterdir())
    assert pictures == [
        "accuracy-over-steps.png", "accuracy-over-time.png", "closer-look.png", "lag.png",
        "loss-over-steps.png", "loss-over-time.png", "staleness.png", "step-times.png",
        "steps-per-second.png", "time-shares.png", "timeline.png",
    ]  # fmt: skip
    (view,) = checked(page).views
    shown = [picture for section in view["sections"] for picture in section["pictures"]]
    assert len(shown) == len(pictures)
    for path in (tmp_path / "out" / "mine").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_of_several_runs_lie_beside_their_page_too(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / n, evaluated(TWO), {"lr": n}, SUMMARY) for n in ("one", "two")]
    page = write_report(runs, tmp_path / "both.html")
    pictures = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert pictures == [
        "accuracy-over-steps.png", "accuracy-over-time.png", "lag.png", "loss-over-steps.png",
        "loss-over-time.png", "staleness.png", "steps-per-second.png", "time-shares.png",
        "timeline-1.png", "timeline-2.png",
    ]  # fmt: skip
    (view,) = checked(page).views
    assert len(pictures) == sum(len(section["pictures"]) for section in view["sections"])


@pytest.mark.usefixtures("no_png")
def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"{lr}-{seed}", TWO, {"lr": lr, "seed": seed}, SUMMARY)
        for lr in (0.1, 0.2)
        for seed in range(6)
    ]
    words = check(write_report(runs, tmp_path / "out"))
    assert "12 runs side by side" in words
    assert "They differ in lr and seed." in words
    assert "lr 0.1" in words
    for run in runs:
        assert f"Workers of {run.name}" in words


@pytest.mark.parametrize("kind", ["never began", "nothing", "no step", "unrecorded", "sampled"])
def test_a_run_of_which_little_is_known_stands_beside_another(tmp_path: Path, kind: str) -> None:
    events, summary, _ = KINDS[kind]
    runs = [
        write_run(tmp_path / "whole", TWO, {"lr": 0.1}, SUMMARY),
        write_run(tmp_path / "other", events, {"lr": 0.2}, summary),
    ]
    for chosen in (runs, [runs[1], write_run(tmp_path / "twin", events, {"lr": 0.3}, summary)]):
        words = check(write_report(chosen, tmp_path / "out"))
        assert "2 runs side by side" in words


@pytest.mark.usefixtures("no_png")
def test_a_run_that_ended_early_is_marked_beside_others(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", TWO, {"lr": 0.1}, SUMMARY)
    early = write_run(tmp_path / "early", TWO[:60], {"lr": 0.2}, {**SUMMARY, "ended": "SIGINT"})
    words = check(write_report([whole, early], tmp_path / "out"))
    assert words.count("ended early: stopped by Ctrl-C") == 1
    assert "early ended early: stopped by Ctrl-C" in words  # beside what it suffers from
    assert "early ended early – – 3.9 s" in words  # in the table
    assert "early ended early In short" in words  # in the legend
    assert "Workers of early, which ended early" in words


@pytest.mark.usefixtures("no_png")
def test_the_legend_counts_the_seeds_that_ended_early(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"{lr}-{seed}", TWO, {"lr": lr, "seed": seed},
                  {**SUMMARY, "ended": "SIGINT" if (lr, seed) == (0.1, 2) else "done"})
        for lr in (0.1, 0.2) for seed in (1, 2)
    ]  # fmt: skip
    words = check(write_report(runs, tmp_path / "out"))
    assert "lr 0.1 1 of 2 ended early lr 0.2 In short" in words


@pytest.mark.usefixtures("no_png")
def test_a_policy_that_changed_and_times_at_full_scale_are_shown(tmp_path: Path) -> None:
    change = {"t": 4.0, "event": "policy_changed", "policy": "dssp", "bound": 7}
    summary = {**SUMMARY, "samples_twice": 12}
    run = write_run(tmp_path / "run", sorted([*TWO, change], key=lambda e: float(e["t"])),
                    {"time_scale": 0.1}, summary)  # fmt: skip
    words = check(write_report([run], run))
    assert "dssp 7" in words
    assert "time × 10 = full scale" in words
    assert "90 s at full scale" in words
    assert "samples used twice 12" in words


@pytest.mark.usefixtures("no_png")
def test_names_and_settings_are_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert('x')&\"$a$"
    options = {"lr": evil, "</style><img src=x onerror=y>": evil}
    runs = [write_run(tmp_path / n, TWO, {**options, "seed": n}, {**SUMMARY, "ended": evil})
            for n in (evil, "other")]  # fmt: skip
    for chosen in (runs, runs[:1]):
        assert evil in check(write_report(chosen, tmp_path / "out"))


def test_what_is_no_run_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run: expected a run directory"):
        write_report([tmp_path], tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("no_png")
def test_who_was_lost_is_told_of_one_run_and_of_several(tmp_path: Path) -> None:
    left = {"t": 3.0, "event": "left", "worker": 2, "reason": "evicted"}
    rest = [e for e in TWO if e.get("worker") != 2 or e["t"] < 3.0]
    lost = sorted([*rest, left], key=lambda e: float(e["t"]))
    runs = [
        write_run(tmp_path / "lost", lost, {}, SUMMARY),
        write_run(tmp_path / "whole", TWO, {}, SUMMARY),
    ]  # fmt: skip
    for chosen in (runs[:1], runs):
        page = write_report(chosen, tmp_path / "out")
        assert check(page).count("worker 2 was gone from 2 s on (evicted).") == 1
        assert page.read_text().count('class="card diagnosis lost"') == 1
