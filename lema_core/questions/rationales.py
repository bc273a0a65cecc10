"""Worked solutions as they are published, rewritten to the form of a reasoning path: numbered steps, an answer line.

The last line reads ``The answer is X.``, so a rationale is itself a path and the output of a CoT example.
"""

from lema_core.steps import render_path, split_path


def rationale_from(solution: str, answer: str) -> str | None:
    """Return a published solution as a path that ends in ``answer``; calculator marks and drawings are cut.

    An answer line that the solution has already is replaced. None where nothing but an answer is there.
    """
    steps = split_path(_without_drawings(solution)).steps
    return render_path(steps, f"The answer is {answer}.") if steps else None


def _without_drawings(text: str) -> str:
    """Replace each ``[asy]...[/asy]`` by a space; a drawing without an end is text."""
    # Not a pattern: from each of many [asy] without an end it would search to the end of the text.
    kept: list[str] = []
    at = 0
    while (start := text.find("[asy]", at)) >= 0 and (end := text.find("[/asy]", start)) >= 0:
        kept += [text[at:start], " "]
        at = end + len("[/asy]")
    return "".join([*kept, text[at:]])
