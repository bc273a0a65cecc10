"""The report of a run: one self-contained HTML page and a Markdown twin with the same figures.

``ReportData`` holds the figures; ``render_html`` and ``render_markdown`` are pure: the same data gives the same bytes,
whenever and wherever. Sections without data are left out. Text of models is escaped. Nothing is fetched by the page.
"""

from lema_core.report.cards import CardSource, dataset_card, model_card
from lema_core.report.data import Funnel, LossCurve, Provenance, ReportData, Usage
from lema_core.report.prose import Summary, summarize
from lema_core.report.render import render_html, render_markdown

__all__ = [
    "CardSource",
    "Funnel",
    "LossCurve",
    "Provenance",
    "ReportData",
    "Summary",
    "Usage",
    "dataset_card",
    "model_card",
    "render_html",
    "render_markdown",
    "summarize",
]
