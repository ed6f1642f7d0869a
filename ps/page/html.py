"""The parts of a page that are text: its top, with the diagnosis and the key figures.

Names and settings may be any text that people wrote, so all of it goes through `text`.
"""

import re
from html import escape
from typing import Final

from leash.ps.report.analysis.diagnosis import Diagnosis
from leash.ps.report.analysis.figures import KeyFigure, key_figures
from leash.ps.report.analysis.run import Run
from leash.ps.report.analysis.settings import effective
from leash.ps.runs.unfinished import unfinished_text
from leash.ps.words import why_stopped

OPTION: Final = r"--[a-z-]+(?: (?:auto|weighted|lease|asp|ssp|\d+))?"


def text(value: object) -> str:
    """Writes any text so that the page shows it, and never reads it as markup."""
    return escape(str(value), quote=True)


def top_of(run: Run, diagnosis: Diagnosis, eyebrow: str) -> str:
    """The top of a run's page: what it is, its diagnosis and its key figures."""
    cards = "".join(_card(figure) for figure in key_figures(run, diagnosis))
    return (
        f'<header><p class="eyebrow">{text(eyebrow)}</p><h1>{text(run.name)}</h1>'
        f"<p>{text(_about(run))}</p></header>{diagnosis_card(diagnosis)}"
        f'<div class="figures">{cards}</div>'
    )


def _about(run: Run) -> str:
    settings = effective(run)
    what = " on ".join(str(settings[k]) for k in ("model", "dataset") if settings.get(k))
    facts = [
        run.rule, f"{run.crew} worker{'s' if run.crew != '1' else ''}", what,
        f"seed {settings['seed']}" if settings.get("seed") is not None else "",
        f"time × {1 / run.scale:g} = full scale" if run.scale != 1 else "", ending(run),
    ]  # fmt: skip
    return " · ".join(filter(None, facts))


def ending(run: Run) -> str:
    """How a run has ended that did not end as planned; empty for one that did."""
    if not run.started:
        return "never began: not all of its workers came"
    if not run.summary:
        return "no summary: it goes on, or was killed"
    unfinished = run.summary.get("unfinished")
    missing = f" (not trained: {unfinished_text(unfinished)})" if unfinished else ""
    return f"ended early: {why_stopped(run.summary['ended'])}{missing}" if run.ended_early else ""


def diagnosis_card(diagnosis: Diagnosis, name: str = "") -> str:
    """A diagnosis, below the HTML of a name if there is one."""
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
