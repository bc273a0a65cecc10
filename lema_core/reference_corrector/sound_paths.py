"""Right paths whose reasoning is sound: a right answer may be reached by luck, and is then no solution to learn from.

Of nine right paths of a demo run five were wrong reasoning ("7 - 3 = 2; 2 + 8 = 12"); ProcessBench finds 3.5 % on
GSM8K and 18.8 % on MATH. What is checked: no step states false arithmetic; and where the question's rationale computes
something, each step computes what it computes, in any order, or what leads there.
"""

from lema_core.records import JudgedPath
from lema_core.reference_corrector.diagnosis import diagnose
from lema_core.reference_corrector.gold_rationale import analyze
from lema_core.reference_corrector.reading import read_steps
from lema_core.step_checker import false_equations
from lema_core.step_checker.equations import numbers
from lema_core.steps import split_path

VERSION = 1
"""Raised when another path counts as sound: part of the identity of arms that ask for it."""


def is_strictly_right(path: JudgedPath) -> bool:
    """Return whether an answer is right and no step before it states false arithmetic."""
    return path.verdict == "right" and not any(false_equations(step) for step in split_path(path.text).steps)


def is_sound(path: JudgedPath) -> bool:
    """Return whether a right path's steps are those of a sound solution, as far as they can be checked.

    Without a rationale, or one without equations, or an answer that is no number, only arithmetic is checked.
    """
    if not is_strictly_right(path):
        return False
    steps, gold = read_steps(path.text), numbers(path.gold)
    if path.rationale is None or not steps or len(gold) != 1:
        return True
    rationale = analyze(path.question, path.rationale, path.gold)
    if not any(step.equations for step in rationale.steps):
        return True
    found = diagnose(steps, rationale, gold[0])
    # All steps sound, and the last one arrives: of a mistaken path only its answer line would be left to be wrong.
    return found is None or found.kind == "answer_line"
