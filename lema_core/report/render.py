"""Fills the two templates. All wording of results is in ``prose``, all plots are in ``figures``."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lema_core.llm.costs.prices import money
from lema_core.report import prose
from lema_core.report.data import Funnel, ReportData
from lema_core.report.diff import align_correction

__all__ = ["collapse_blank_lines", "render_html", "render_markdown", "template_environment", "template_variables"]


def render_html(data: ReportData) -> str:
    """Return one HTML page that needs nothing else: styles and plots are inside, scripts there are none."""
    from lema_core.report import figures

    names = [score.name for score in data.evaluation.scores] if data.evaluation else []
    names += [name for name in (*(curve.arm for curve in data.curves), *data.perplexity_gaps) if name not in names]
    colours = figures.arm_colours(names, data.evaluation.base if data.evaluation else None)
    # Our own SVG: names in it were escaped by matplotlib.
    plots = {name: Markup(svg) for name, svg in _plots(data, colours).items()}  # noqa: S704
    return (
        template_environment()
        .get_template("report.html.j2")
        .render(**template_variables(data), colours=colours, plots=plots)
    )


def render_markdown(data: ReportData) -> str:
    """Return the same figures as GitHub-flavoured Markdown, without plots."""
    text = template_environment().get_template("report.md.j2").render(**template_variables(data))
    return collapse_blank_lines(text)


def collapse_blank_lines(markdown: str) -> str:
    """Return Markdown without the blank lines that sections left out leave behind."""
    return re.sub(r"\n{3,}", "\n\n", markdown).strip() + "\n"


def template_variables(data: ReportData) -> dict[str, Any]:
    """Return what the templates of the report and the cards read."""
    # The accuracies by difficulty, one row a level, in the order of the scores.
    rows: dict[str, list[Any]] = {}
    for cell in data.evaluation.levels if data.evaluation else ():
        rows.setdefault(cell.level, []).append(cell.accuracy)
    return {
        "data": data,
        "summary": prose.summarize(data),
        "stages": _stages(data.funnel) if data.funnel else [],
        "pairs": [align_correction(correction) for correction in data.examples],
        "levels": rows,
        "bill": prose.describe_bill(data) if data.bill else "",
    }


def _stages(funnel: Funnel) -> list[tuple[str, int, float]]:
    """Return the funnel's bars as (name, rows, share of the widest)."""
    rows = [
        ("questions", funnel.questions),
        ("solutions sampled", funnel.paths),
        ("mistakes among them", funnel.mistakes),
        ("corrections that came back", funnel.corrections),
        ("corrections accepted", funnel.accepted),
    ]
    widest = max(1, *(n for _, n in rows))
    return [(name, n, n / widest) for name, n in rows]


def _plots(data: ReportData, colours: Mapping[str, str]) -> dict[str, str]:
    from lema_core.report import figures

    plots = {}
    if data.evaluation is not None:
        plots["accuracy"] = figures.accuracy_figure(data.evaluation, colours)
        if data.evaluation.levels:
            plots["levels"] = figures.level_figure(data.evaluation, colours)
    curves = [curve for curve in data.curves if curve.points]
    if curves:
        plots["loss"] = figures.loss_figure(curves, colours)
    if data.perplexity_gaps:
        plots["perplexity_gaps"] = figures.perplexity_figure(data.perplexity_gaps, colours)
    if any(step > 0 for step in data.mistake_steps):
        plots["steps"] = figures.step_figure(data.mistake_steps)
    return plots


@cache
def template_environment() -> Environment:
    """Return the templates' environment: HTML is escaped, Markdown is escaped cell by cell by its own filters."""
    templates = Environment(
        loader=PackageLoader("lema_core.report"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "count": prose.format_count, "percent": prose.format_percent, "points": prose.format_points,
        "interval": prose.format_interval, "p": prose.format_p_value, "money": money, "words": _words,
        "cell": _cell, "fence": _fence, "seconds": _seconds,
    }  # fmt: skip
    return templates


def _words(code: str) -> str:
    """Return a reason code as words."""
    return code.replace("_", " ")


def _seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _cell(text: object) -> str:
    """Return text that stays inside one cell of a Markdown table and is never read as markup."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", flat)


def _fence(text: str) -> str:
    """Return a code fence longer than any run of backticks in the text, so that the text cannot close it."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
