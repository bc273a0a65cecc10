"""What a stage's line says while it runs, and what is left of it at the end."""

import pytest

from lema_core.llm.progress import Counters, figures
from tasks.progress import MOMENTARY, Progress

FIGURES = {"done": "4/4", "rate": "2/s", "in flight": "0 of 8", "oldest": "0 s", "tokens": "90", "ETA": "0:00"}


@pytest.mark.parametrize(
    ("share", "line"),
    [
        (0.5, "4/4, rate 2/s, in flight 0 of 8, oldest 0 s, tokens 90, ETA 0:00"),
        (1.0, "4/4, rate 2/s, tokens 90"),
    ],
)
def test_the_last_line_has_no_figures_of_a_moment(share, line):
    assert Progress(share, FIGURES).line == line


def test_figures_of_a_moment_are_figures_of_the_engine():
    assert figures(Counters().snapshot(1.0, [], [])).keys() >= MOMENTARY
