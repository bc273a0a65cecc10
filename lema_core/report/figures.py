"""The plots of a report, as SVG text to embed in a page.

Drawn once for light and dark: every colour is a placeholder that becomes a CSS variable of the page, and text stays
text in the page's font. The same data gives the same bytes. Names are shown as they are, never read as formulas.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lema_core.ablation.comparison import Row
from lema_core.evaluation.accuracy import Evaluation
from lema_core.evaluation.statistics import PerplexityGap
from lema_core.report.data import LossCurve, Selection

__all__ = [
    "accuracy_figure",
    "arm_colours",
    "level_figure",
    "loss_figure",
    "perplexity_figure",
    "selection_figure",
    "step_figure",
    "sweep_figure",
]

_VARIABLES = {
    "ink": "#0a0b01",
    "soft": "#0a0b02",
    "line": "#0a0b03",
    "arm-0": "#0a0b10",
    "arm-1": "#0a0b11",
    "arm-2": "#0a0b12",
    "arm-3": "#0a0b13",
    "arm-4": "#0a0b14",
    "arm-5": "#0a0b15",
    "wrong": "#0a0b20",
}
_ARMS = 6
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": _VARIABLES["ink"],
    "axes.labelcolor": _VARIABLES["soft"],
    "axes.edgecolor": _VARIABLES["line"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _VARIABLES["line"],
    "ytick.color": _VARIABLES["line"],
    "xtick.labelcolor": _VARIABLES["soft"],
    "ytick.labelcolor": _VARIABLES["soft"],
    "grid.color": _VARIABLES["line"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


def arm_colours(names: Sequence[str], base: str | None) -> dict[str, str]:
    """Return a colour name a model: ``arm-0`` (neutral) for base, then one hue an arm, repeated after five."""
    arms = [name for name in names if name != base]
    hues = {name: f"arm-{1 + position % (_ARMS - 1)}" for position, name in enumerate(arms)}
    return hues if base is None else {base: "arm-0", **hues}


def accuracy_figure(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    """Draw each model's accuracy with its Wilson interval."""
    scores = evaluation.scores

    def draw(axes: Axes) -> None:
        for row, score in enumerate(scores):
            a, colour = score.accuracy, _VARIABLES[colours[score.name]]
            axes.plot([100 * a.low, 100 * a.high], [row, row], color=colour, linewidth=7, alpha=0.28)
            axes.plot(100 * a.value, row, "o", color=colour, markersize=9)
            axes.annotate(
                f"{100 * a.value:.1f} %", (100 * a.value, row), (0, 9), textcoords="offset points", ha="center",
                fontsize=11, fontweight="bold",
            )  # fmt: skip
        axes.set_yticks(range(len(scores)), [s.name for s in scores], fontsize=11.5, color=_VARIABLES["ink"])
        axes.set_ylim(len(scores) - 0.5, -0.75)
        axes.set_xlim(0, _round_up(max(100 * s.accuracy.high for s in scores)))
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="x", alpha=0.7)
        axes.set_xlabel("right answers, percent, with 95 % intervals")

    return _svg(draw, 4.6, max(3.0, 0.9 + 0.55 * len(scores)), "Accuracy of each model with its 95 percent interval")


def sweep_figure(rows: Sequence[tuple[str, Row]], colours: Mapping[str, str]) -> str:
    """Draw the accuracy of each row of a sweep, by its label: the mean with its interval, and each seed."""

    def draw(axes: Axes) -> None:
        for place, (_, row) in enumerate(rows):
            a, colour = row.accuracy, _VARIABLES[colours[row.arm]]
            if a is None:
                continue
            axes.plot([100 * a.low, 100 * a.high], [place, place], color=colour, linewidth=7, alpha=0.28)
            axes.plot(
                [100 * accuracy for accuracy in row.per_seed],
                [place] * len(row.per_seed),
                "o",
                color=colour,
                markersize=4,
            )
            axes.plot(100 * a.value, place, "o", color=colour, markersize=9)
            axes.annotate(f"{100 * a.value:.1f} %", (100 * a.high, place), (8, -4), textcoords="offset points")
        axes.set_yticks(range(len(rows)), [label for label, _ in rows], color=_VARIABLES["ink"])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, _round_up(1 + max((100 * row.accuracy.high for _, row in rows if row.accuracy), default=0)))
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="x", alpha=0.7)
        axes.set_xlabel("right answers, percent, with 95 % intervals")

    return _svg(draw, 9.0, 1.0 + 0.42 * len(rows), "Accuracy of each arm with its 95 percent interval")


def perplexity_figure(gaps: Mapping[str, PerplexityGap], colours: Mapping[str, str]) -> str:
    """Draw each model's delta-PPL with its interval; right of zero the corrected paths are the likelier ones."""

    def draw(axes: Axes) -> None:
        for place, (name, gap) in enumerate(gaps.items()):
            colour = _VARIABLES[colours[name]]
            axes.plot([gap.low, gap.high], [place, place], color=colour, linewidth=7, alpha=0.28)
            axes.plot(gap.value, place, "o", color=colour, markersize=9)
        axes.axvline(0, color=_VARIABLES["soft"], linewidth=0.8)
        axes.set_yticks(range(len(gaps)), list(gaps), color=_VARIABLES["ink"])
        axes.set_ylim(len(gaps) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("perplexity of mistaken minus corrected path")

    return _svg(draw, 4.6, 1.0 + 0.5 * len(gaps), "delta-PPL of each model with its 95 percent interval")


def loss_figure(curves: Sequence[LossCurve], colours: Mapping[str, str]) -> str:
    """Draw the training loss of each arm."""

    def draw(axes: Axes) -> None:
        for curve in curves:
            steps, losses = zip(*curve.points, strict=True)
            axes.plot(steps, losses, color=_VARIABLES[colours[curve.arm]], label=curve.arm)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss a token")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", alpha=0.7)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="upper right", labelcolor=_VARIABLES["ink"])

    return _svg(draw, 4.6, 3.0, "Training loss by optimizer step")


def selection_figure(selections: Sequence[Selection], colours: Mapping[str, str]) -> str:
    """Draw the accuracy of each arm's checkpoints by optimiser step (the paper's figure 9); on the test set dashed."""

    def draw(axes: Axes) -> None:
        for chosen in selections:
            steps = [score.step for score in chosen.scores]
            colour = _VARIABLES[colours[chosen.arm]]
            axes.plot(steps, [100 * s.accuracy for s in chosen.scores], color=colour, marker="o", label=chosen.arm)
            if chosen.on_test:
                on_test = [100 * (s.test_accuracy or 0.0) for s in chosen.scores]
                axes.plot(steps, on_test, color=colour, linestyle="--", label=f"{chosen.arm}, test")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("right, %")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y", alpha=0.7)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="lower right", labelcolor=_VARIABLES["ink"])

    return _svg(draw, 4.6, 3.0, "Accuracy of checkpoints by optimizer step")


def step_figure(steps: Mapping[int, int]) -> str:
    """Draw how many accepted corrections found the mistake in which step."""
    shown = {step: n for step, n in sorted(steps.items()) if step > 0}

    def draw(axes: Axes) -> None:
        bars = axes.bar(list(shown), list(shown.values()), color=_VARIABLES["wrong"], width=0.72)
        if len(shown) <= 14:
            axes.bar_label(bars, padding=3, fontsize=9.5, fmt="{:,.0f}")
        axes.set_xlabel("the step that was wrong")
        axes.set_ylabel("corrections")
        if len(shown) <= 14:
            axes.set_xticks(list(shown))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.grid(axis="y", alpha=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)

    return _svg(draw, 4.6, 3.0, "Accepted corrections by the step that was wrong")


def level_figure(evaluation: Evaluation, colours: Mapping[str, str]) -> str:
    """Draw each model's accuracy by difficulty, with intervals."""
    levels = list(dict.fromkeys(score.level for score in evaluation.levels))
    names = [score.name for score in evaluation.scores]

    def draw(axes: Axes) -> None:
        for position, name in enumerate(names):
            cells = {s.level: s.accuracy for s in evaluation.levels if s.arm == name}
            # Side by side, so that intervals of one difficulty do not hide each other.
            x = [i + 0.16 * (position - (len(names) - 1) / 2) for i in range(len(levels))]
            y = [100 * cells[level].value for level in levels]
            colour = _VARIABLES[colours[name]]
            axes.vlines(x, [100 * cells[v].low for v in levels], [100 * cells[v].high for v in levels], color=colour,
                        linewidth=5, alpha=0.28)  # fmt: skip
            axes.plot(x, y, "o", color=colour, markersize=7, label=name)
        axes.set_xticks(range(len(levels)), levels)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("right answers, percent")
        axes.grid(axis="y", alpha=0.7)
        axes.tick_params(length=0)
        axes.legend(frameon=False, loc="upper right", labelcolor=_VARIABLES["ink"])

    return _svg(draw, max(4.6, 0.9 * len(levels)), 3.0, "Accuracy by difficulty")


def _round_up(value: float) -> float:
    return min(100.0, 10.0 * (int(value // 10) + 1))


def _svg(draw: Callable[[Axes], None], width: float, height: float, label: str) -> str:
    """Return one plot, ``width`` by ``height`` inches, as an ``<svg>`` element that scales to its container."""
    # The salt makes ids the same every time, and other ones in every plot of a page.
    style = _STYLE | {"svg.hashsalt": label}
    with mpl.rc_context(cast("Any", style)):  # matplotlib types its keys one by one
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<(metadata|style).*?</\1>", "", body, flags=re.DOTALL)
    # Group ids repeat from plot to plot; only clip paths and glyph markers are referred to.
    body = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend|LineCollection)[\w.]*"', "", body
    )
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r"font: ([\w. ]*?px) [^;\"]*", r"font-size: \1", body)
    for name, colour in _VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    view = re.search(r'viewBox="[^"]*"', body)
    opening = f'<svg role="img" aria-label="{label}" class="plot" {view.group(0) if view else ""}>'
    return opening + body[body.index(">") + 1 :].strip()
