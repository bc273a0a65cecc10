"""Renders the report's two templates; all wording of results is in ``prose``, all plots are in ``figures``.

A mistake is shown beside its correction, cut into steps with their differences marked. The text is a model's: it is
cut and compared here, never interpreted, and the templates escape it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from itertools import zip_longest
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lema_core.llm.costs.prices import money
from lema_core.records import Correction
from lema_core.report import prose
from lema_core.report.data import Funnel, ReportData
from lema_core.steps import split_path


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a step; ``changed`` where the other side differs."""

    text: str
    changed: bool


@dataclass(frozen=True, slots=True)
class StepView:
    """One line of a solution: its number (None for the answer line and for shapes without steps) and marked text."""

    number: int | None
    spans: tuple[Span, ...]
    state: str
    """same, wrong (the step that is wrong), after (what followed from it) or corrected."""

    @property
    def text(self) -> str:
        """The line without marks."""
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class AlignedRow:
    """One row of the two sides; None where a side has no more lines."""

    mistake: StepView | None
    correction: StepView | None


@dataclass(frozen=True, slots=True)
class AlignedPair:
    """One correction as a reader sees it."""

    correction: Correction
    rows: tuple[AlignedRow, ...]


_WORD = re.compile(r"\d[\d,.]*\d|\w+|[^\w\s]")
_ALIKE = 0.5
"""Below this share of common words, marks would cover everything."""
_MAX_WORK = 600_000
"""Comparisons of words for one correction, at most some 50 ms: SequenceMatcher takes cubic time on repeated words, a
minute for 1,000 of them. Two lines of 60 English words take 13,000; what does not fit stays unmarked."""


def align_correction(correction: Correction) -> AlignedPair:
    """Return the correction as aligned rows: the unchanged steps, then what was wrong against what is right."""
    mistaken, corrected = split_path(correction.original), split_path(correction.spliced)
    steps = enumerate(zip_longest(mistaken.steps, corrected.steps), start=1)
    marker = _Marker()
    rows = [_step_row(marker, number, left, right, correction.step) for number, (left, right) in steps]
    if mistaken.answer_line or corrected.answer_line:
        rows.append(_row(marker, None, mistaken.answer_line, corrected.answer_line, "after"))
    return AlignedPair(correction, tuple(rows))


def _step_row(marker: "_Marker", number: int, left: str | None, right: str | None, wrong: int) -> AlignedRow:
    if wrong == 0:  # CommonsenseQA's shape names no step: its lines are explanations of the candidates
        return _row(marker, None, left, right, "wrong")
    if number < wrong:
        return AlignedRow(_plain(number, left, "same"), _plain(number, right, "same"))
    return _row(marker, number, left, right, "wrong" if number == wrong else "after")


def _row(marker: "_Marker", number: int | None, left: str | None, right: str | None, state: str) -> AlignedRow:
    if left is None or right is None:
        return AlignedRow(_plain(number, left, state), _plain(number, right, "corrected"))
    marked_left, marked_right = marker.mark(left, right)
    return AlignedRow(StepView(number, marked_left, state), StepView(number, marked_right, "corrected"))


def _plain(number: int | None, text: str | None, state: str) -> StepView | None:
    return None if text is None else StepView(number, (Span(text, changed=False),), state)


class _Marker:
    """Marks where two lines differ, as long as the work for one correction lasts."""

    def __init__(self) -> None:
        self._work_left = _MAX_WORK

    def mark(self, left: str, right: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Return both lines as spans."""
        words = [list(_WORD.finditer(line)) for line in (left, right)]
        said = [[word.group() for word in line] for line in words]
        work = _work(*said)
        if work > self._work_left:
            return (Span(left, changed=False),), (Span(right, changed=False),)
        self._work_left -= work
        matcher = SequenceMatcher(a=said[0], b=said[1], autojunk=False)
        if matcher.ratio() < _ALIKE:
            return (Span(left, changed=False),), (Span(right, changed=False),)
        changes = [opcode[1:] for opcode in matcher.get_opcodes() if opcode[0] != "equal"]
        return (
            _spans(left, words[0], [(start, stop) for start, stop, _, _ in changes]),
            _spans(right, words[1], [(start, stop) for _, _, start, stop in changes]),
        )


def _work(left: list[str], right: list[str]) -> int:
    """Return the most that SequenceMatcher does: per match, one look at every word and every pair of equal words."""
    count = Counter(right)
    equal_pairs = sum(count[word] for word in left)
    return min(equal_pairs, len(left), len(right)) * (len(left) + equal_pairs)


def _spans(line: str, words: list[re.Match[str]], changes: list[tuple[int, int]]) -> tuple[Span, ...]:
    spans, at = [], 0
    for start, stop in changes:
        if start < stop:
            first, last = words[start].start(), words[stop - 1].end()
            spans += [Span(line[at:first], changed=False), Span(line[first:last], changed=True)]
            at = last
    return tuple(span for span in (*spans, Span(line[at:], changed=False)) if span.text)


def render_html(data: ReportData) -> str:
    """Return one HTML page that needs nothing else: styles and plots are inside, scripts there are none."""
    from lema_core.report import figures

    names = [score.name for score in data.evaluation.scores] if data.evaluation else []
    further = (
        *(curve.arm for curve in data.curves),
        *(chosen.arm for chosen in data.selections),
        *data.perplexity_gaps,
    )
    names += [name for name in dict.fromkeys(further) if name not in names]
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
    money_sentences = (prose.describe_yield(data.usage, data.kept_corrections), prose.describe_bill(data))
    return {
        "data": data,
        "summary": prose.summarize(data),
        "stages": _stages(data.funnel, made_only=data.ended is not None) if data.funnel else [],
        "pairs": [align_correction(correction) for correction in data.examples],
        "levels": rows,
        "bill": " ".join(filter(None, money_sentences)),
        "likelihoods": [
            (f": {name}" if len(data.likelihoods) > 1 else "", rows, rows[0].name, prose.describe_likelihoods(rows))
            for name, rows in data.likelihoods.items()
        ],
    }


def _stages(funnel: Funnel, *, made_only: bool) -> list[tuple[str, int, float]]:
    """Return the funnel's bars as (name, rows, share of the widest); with ``made_only`` those of finished stages."""
    corrected = [
        ("corrections asked for", funnel.corrections),
        *([("corrections that came back", funnel.tried.answered)] if funnel.tried else []),
        ("corrections accepted", funnel.accepted),
    ]
    rows = [
        ("questions", funnel.questions),
        ("solutions sampled", funnel.paths),
        *([("mistakes among them", funnel.mistakes)] if funnel.selected else []),
        *(corrected if funnel.selected and (funnel.tried or not made_only) else []),
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
    several = [chosen for chosen in data.selections if len(chosen.scores) > 1]
    if several:
        plots["checkpoints"] = figures.selection_figure(several, colours)
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
        "interval": prose.format_interval, "nats": prose.format_nats, "p": prose.format_p_value,
        "money": money, "words": _words, "cell": _cell, "fence": _fence, "seconds": _seconds,
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
