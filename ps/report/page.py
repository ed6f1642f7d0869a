"""Writes the page: one file with everything in it, light or dark as the reader's screen is.

Names and settings may be any text that people wrote, so all of it goes through `text`.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from typing import Final

from leash._version import __version__
from leash.ps.options.launch import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.page.html import diagnosis_card, ending, text, top_of
from leash.ps.page.keys import View, run_key
from leash.ps.page.several import sections_of_several
from leash.ps.page.view import SCRIPTS, as_script_data, asset, sections
from leash.ps.report.analysis.diagnosis import Diagnosis
from leash.ps.report.analysis.figures import key_figures, value_of
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.settings import differing_settings, effective, mattering_settings
from leash.ps.report.pictures.lineup import Shown
from leash.ps.words import listed, seconds, setting

DRAW: Final = (
    'Leash.draw(document.getElementById("pictures"),'
    ' JSON.parse(document.getElementById("view").textContent).sections);'
)
PICTURES: Final = (
    '<div id="pictures"></div>'
    "<noscript>The pictures of this page need JavaScript. They lie beside it as PNG files, too."
    "</noscript>"
)
TABLE_FIGURES: Final = (
    "test accuracy", "test loss", "training", "steps/s", "waiting", "largest lag",
    "mean staleness",
)  # fmt: skip


def page_of(run: Run, diagnosis: Diagnosis) -> str:
    """Writes the whole page of one run."""
    return _whole(run.name, sections(run), [
        top_of(run, diagnosis, "Leash report"), _again(run), PICTURES, _own_settings(run),
        _footer([run]),
    ])  # fmt: skip


def page_of_several(shown: Sequence[Shown], diagnoses: Sequence[Diagnosis]) -> str:
    """Writes the whole page of several runs side by side."""
    runs = [s.run for s in shown]
    return _whole(f"{len(runs)} runs", sections_of_several(shown), [
        _several(shown, diagnoses), PICTURES, _differences(runs), _footer(runs),
    ])  # fmt: skip


def _whole(title: str, pictures: Sequence[View], parts: Sequence[str]) -> str:
    """A page with these parts, and with pictures that its scripts draw."""
    data = as_script_data({"sections": list(pictures)})
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(title)} – Leash report</title>",
        f"<style>\n{asset('uPlot.min.css')}{asset('page.css')}</style>", "</head>", "<body>",
        "<main>", *parts, "</main>", *(f"<script>{asset(name)}</script>" for name in SCRIPTS),
        f'<script type="application/json" id="view">{data}</script>', f"<script>{DRAW}</script>",
        "</body>", "</html>", "",
    ])  # fmt: skip


def _again(run: Run) -> str:
    """The command line that runs it again, to copy."""
    config = run.path / "config.yaml"
    if not config.is_file():
        return ""
    command = "launch" if "server_restarts" in run.options else "server"
    words = shlex.join(["leash", command, "--config", str(config)])
    return f'<p class="again">Run it again: <code>{text(words)}</code></p>'


# The top.


def _named(shown: Shown) -> str:
    return f"<h3>{_swatch(shown)} {text(shown.run.name)}{_red(ending(shown.run))}</h3>"


def _red(how: str) -> str:
    return f'<small class="early">{text(how)}</small>' if how else ""


def _several(shown: Sequence[Shown], diagnoses: Sequence[Diagnosis]) -> str:
    runs = [s.run for s in shown]
    names = listed([name.replace("_", " ") for name in differing_settings(runs)][:8])
    differ = f"They differ in {names}." if names else "Their settings are the same."
    entries = "".join(
        f"<li>{diagnosis_card(diagnosis, _named(s))}</li>"
        for s, diagnosis in zip(shown, diagnoses, strict=True)
    )
    return (
        f'<header><p class="eyebrow">Leash report</p><h1>{len(runs)} runs side by side</h1>'
        f"<p>{text(differ)}</p></header>"
        f"{_legend(shown)}"
        f"<section><h2>In short</h2>{_table(shown, diagnoses)}</section>"
        f'<section><h2>What they suffer from</h2><ul class="runs">{entries}</ul></section>'
    )


def _table(shown: Sequence[Shown], diagnoses: Sequence[Diagnosis]) -> str:
    by_run = [key_figures(s.run, d) for s, d in zip(shown, diagnoses, strict=True)]
    names = [n for n in TABLE_FIGURES if any(f.name == n for figures in by_run for f in figures)]
    scaled = any(s.run.scale != 1 for s in shown)
    heads = [*names, *(["training at full scale"] if scaled else [])]
    rows = []
    for s, figures in zip(shown, by_run, strict=True):
        cells = [value_of(figures, name) for name in names]
        if scaled:
            cells.append(seconds(s.run.seconds / s.run.scale))
        numbers = "".join(f'<td class="number">{text(cell)}</td>' for cell in cells)
        how = ending(s.run).partition(":")[0]  # why is said below, where there is room
        name = f"{_swatch(s)} {text(s.run.name)}{_red(how)}"
        rows.append(f'<tr><th scope="row">{name}</th>{numbers}</tr>')
    head = "".join(f'<th scope="col" class="number">{text(name)}</th>' for name in heads)
    return _scrolling(f'<th scope="col">run</th>{head}', rows)


def _scrolling(head: str, rows: Sequence[str]) -> str:
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


# The runs' lines.


def _legend(shown: Sequence[Shown]) -> str:
    """The lines of all pictures, with whose they are; it stays in sight."""
    by_label: dict[str, list[Shown]] = {}
    for s in shown:
        by_label.setdefault(s.label, []).append(s)
    items = "".join(
        f"<li>{_swatch(of_label[0])}<span>{text(label)}{_early(of_label)}</span></li>"
        for label, of_label in by_label.items()
    )
    return f'<div class="legend"><ul class="keys">{items}</ul></div>'


def _early(shown: Sequence[Shown]) -> str:
    early = sum(s.run.ended_early for s in shown)
    if not early:
        return ""
    count = f"{early} of {len(shown)} " if len(shown) > 1 else ""
    return f' <small class="early">{count}ended early</small>'


def _swatch(shown: Shown) -> str:
    key = run_key(shown)
    dashes = " ".join(f"{dash:g}" for dash in key["dash"] or ()) or "none"
    return (
        '<svg viewBox="0 0 22 12" width="22" height="12" aria-hidden="true">'
        f'<line x1="0" y1="6" x2="22" y2="6" stroke="var({key["color"]})" stroke-width="3" '
        f'stroke-dasharray="{dashes}"/></svg>'
    )


# Settings, and the end.


def _differences(runs: Sequence[Run]) -> str:
    differing = differing_settings(runs)
    if not differing:
        return ""
    head = "".join(f'<th scope="col">{text(name.replace("_", " "))}</th>' for name in differing)
    rows = [
        f'<tr><th scope="row">{text(run.name)}</th>'
        + "".join(f"<td>{text(values[i])}</td>" for values in differing.values())
        + "</tr>"
        for i, run in enumerate(runs)
    ]
    table = _scrolling(f'<th scope="col">run</th>{head}', rows)
    return f"<section><h2>Settings that differ</h2>{table}</section>"


def _own_settings(run: Run) -> str:
    defaults = {
        f.name: f.default for options in (ServerOptions, LaunchOptions)
        for f in dataclasses.fields(options)
    }  # fmt: skip
    mattering = mattering_settings(run, defaults)
    if not mattering:
        return ""
    rest = {k: setting(v) for k, v in effective(run).items() if k not in mattering}
    others = f"<details><summary>All other settings</summary>{_list(rest)}</details>"
    return (
        f'<section><h2>Settings</h2><div class="card">{_list(mattering)}'
        f"{others if rest else ''}</div></section>"
    )


def _list(settings: dict[str, str]) -> str:
    rows = "".join(
        f"<div><dt>{text(name.replace('_', ' '))}</dt><dd>{text(value)}</dd></div>"
        for name, value in settings.items()
    )
    return f'<dl class="settings">{rows}</dl>'


def _footer(runs: Sequence[Run]) -> str:
    paths = ", ".join(f"<code>{text(run.path)}</code>" for run in runs)
    return (
        f"<footer><p>Made by Leash {text(__version__)} from the events, settings and summary of "
        f"{paths}. The pictures lie beside this page as PNG files.</p>"
        "</footer>"
    )
