"""Worked solutions as they are published, rewritten to the form of a reasoning path: numbered steps, an answer line.

The last line reads ``The answer is X.``, so a rationale is itself a path and the output of a CoT example.
"""

import re

from lema_core.steps import render_path, split_path

DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.DOTALL)


def rationale_from(solution: str, answer: str) -> str | None:
    """Return a published solution as a path that ends in ``answer``; calculator marks and drawings are cut.

    An answer line that the solution has already is replaced. None where nothing but an answer is there.
    """
    steps = split_path(DRAWING.sub(" ", solution)).steps
    return render_path(steps, f"The answer is {answer}.") if steps else None
