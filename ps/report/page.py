"""Writes the page: one file with everything in it, light or dark as the reader's screen is.

Names and settings may be any text that people wrote, so all of it goes through `text`.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from typing import Final

from leash._version import __version__
from leash.ps.options.commands import LaunchOptions
from leash.ps.options.server import ServerOptions
from leash.ps.report.analysis.diagnosis import Diagnosis
from leash.ps.report.analysis.figures import KeyFigure, key_figures, value_of
from leash.ps.report.analysis.run import Run
from leash.ps.report.pictures.drawing import NARROW_IN, WIDE_IN, Key, Picture, svg_of
from leash.ps.report.pictures.lineup import Shown, differing_settings, effective, mattering_settings
from leash.ps.report.pictures.style import PAGE_VARIABLES
from leash.ps.runs.unfinished import unfinished_text
from leash.ps.words import listed, seconds, setting, why_stopped

Section = tuple[str, Sequence[Picture]]  # a title, and the pictures below it
OPTION: Final = r"--[a-z-]+(?: (?:auto|weighted|lease|ssp|\d+))?"
TABLE_FIGURES: Final = (
    "test accuracy", "test loss", "training", "steps/s", "waiting", "largest lag",
    "mean staleness",
)  # fmt: skip


def text(value: object) -> str:
    """Writes any text so that the page shows it, and never reads it as markup."""
    return escape(str(value), quote=True)


def page(
    shown: Sequence[Shown], diagnoses: Sequence[Diagnosis], sections: Iterable[Section]
) -> str:
    """Writes the whole page of one run, or of several side by side."""
    runs = [s.run for s in shown]
    top = _one(runs[0], diagnoses[0]) if len(runs) == 1 else _several(shown, diagnoses)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    style = files("leash.ps.report").joinpath("page.css").read_text("utf-8")
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(title)} – Leash report</title>", f"<style>\n{style}</style>", "</head>",
        "<body>", "<main>", top, *(_section(*section) for section in sections),
        _settings(runs), _footer(runs), "</main>", "</body>", "</html>", "",
    ])  # fmt: skip


# The top.


def _one(run: Run, diagnosis: Diagnosis) -> str:
    cards = "".join(_card(figure) for figure in key_figures(run, diagnosis))
    return (
        f'<header><p class="eyebrow">Leash report</p><h1>{text(run.name)}</h1>'
        f"<p>{text(_about(run))}</p></header>{_diagnosis(diagnosis)}"
        f'<div class="figures">{cards}</div>'
    )


def _several(shown: Sequence[Shown], diagnoses: Sequence[Diagnosis]) -> str:
    runs = [s.run for s in shown]
    names = listed([name.replace("_", " ") for name in differing_settings(runs)][:8])
    differ = f"They differ in {names}." if names else "Their settings are the same."
    entries = "".join(
        f"<li>{_diagnosis(diagnosis, s)}</li>"
        for s, diagnosis in zip(shown, diagnoses, strict=True)
    )
    keys = dict.fromkeys(Key(s.label, s.color, s.line) for s in shown)
    return (
        f'<header><p class="eyebrow">Leash report</p><h1>{len(runs)} runs side by side</h1>'
        f"<p>{text(differ)}</p></header>"
        f'<div class="legend">{_keys(list(keys))}</div>'
        f"<section><h2>In short</h2>{_table(shown, diagnoses)}</section>"
        f'<section><h2>What they suffer from</h2><ul class="runs">{entries}</ul></section>'
    )


def _about(run: Run) -> str:
    settings = effective(run)
    what = " on ".join(str(settings[k]) for k in ("model", "dataset") if settings.get(k))
    facts = [
        run.rule, f"{run.crew} worker{'s' if run.crew != '1' else ''}", what,
        f"seed {settings['seed']}" if settings.get("seed") is not None else "",
        f"time × {1 / run.scale:g} = full scale" if run.scale != 1 else "", _ending(run),
    ]  # fmt: skip
    return " · ".join(filter(None, facts))


def _ending(run: Run) -> str:
    if not run.started:
        return "never began: not all of its workers came"
    if not run.summary:
        return "no summary: it goes on, or was killed"
    unfinished = run.summary.get("unfinished")
    missing = f" (not trained: {unfinished_text(unfinished)})" if unfinished else ""
    return f"ended early: {why_stopped(run.summary['ended'])}{missing}" if run.is_cut else ""


def _diagnosis(diagnosis: Diagnosis, shown: Shown | None = None) -> str:
    name = f"<h3>{_swatch_of(shown)} {text(shown.run.name)}</h3>" if shown else ""
    details = f"<p>{text(' '.join(diagnosis.details))}</p>" if diagnosis.details else ""
    headline = diagnosis.headline if diagnosis.headline.endswith(".") else f"{diagnosis.headline}."
    return (
        f'<div class="card diagnosis {diagnosis.kind}">{name}'
        f'<p class="headline">{_with_options(headline)}</p>{details}</div>'
    )


def _with_options(sentence: str) -> str:
    """Marks options of the command line, so that they stand out and no line breaks them."""
    return re.sub(OPTION, r'<code class="option">\g<0></code>', text(sentence))


def _card(figure: KeyFigure) -> str:
    about = f"<small>{text(figure.about)}</small>" if figure.about else ""
    return (
        f'<div class="card"><dl><dt>{text(figure.name)}</dt>'
        f"<dd>{text(figure.value)}{about}</dd></dl></div>"
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
        rows.append(f'<tr><th scope="row">{_swatch_of(s)} {text(s.run.name)}</th>{numbers}</tr>')
    head = "".join(f'<th scope="col" class="number">{text(name)}</th>' for name in heads)
    return _scrolling(f'<th scope="col">run</th>{head}', rows)


def _scrolling(head: str, rows: Sequence[str]) -> str:
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


# Pictures.


def _section(title: str, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = "".join(map(_picture, pictures))
    return f'<section><h2>{text(title)}</h2><div class="pictures">{figures}</div></section>'


def _picture(picture: Picture) -> str:
    drawn = svg_of(picture.make(NARROW_IN))
    if picture.is_wide:
        large = svg_of(picture.make(WIDE_IN))
        drawn = f'<div class="large">{large}</div><div class="small">{drawn}</div>'
    note = f'<p class="note">{text(picture.note)}</p>' if picture.note else ""
    keys = _keys(picture.keys) if picture.has_legend and len(picture.keys) > 1 else ""
    wide = " wide" if picture.is_wide else ""
    named = drawn.replace("<svg ", f'<svg role="img" aria-label="{text(picture.title)}" ')
    return f'<figure class="card{wide}"><h3>{text(picture.title)}</h3>{note}{keys}{named}</figure>'


def _keys(keys: Sequence[Key]) -> str:
    items = "".join(f"<li>{_swatch(key)}<span>{text(key.label)}</span></li>" for key in keys)
    return f'<ul class="keys">{items}</ul>'


def _swatch(key: Key) -> str:
    color = f"var({PAGE_VARIABLES[key.color]})"
    shape = f'<rect x="4" y="0" width="14" height="12" rx="3" fill="{color}"/>'
    if key.line is not None:
        dashes = "" if isinstance(key.line, str) else " ".join(f"{2.5 * d:g}" for d in key.line[1])
        shape = (f'<line x1="0" y1="6" x2="22" y2="6" stroke="{color}" stroke-width="3" '
                 f'stroke-dasharray="{dashes or "none"}"/>')  # fmt: skip
    return f'<svg viewBox="0 0 22 12" width="22" height="12" aria-hidden="true">{shape}</svg>'


def _swatch_of(shown: Shown) -> str:
    return _swatch(Key("", shown.color, shown.line))


# Settings, and the end.


def _settings(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return _own_settings(runs[0])
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
