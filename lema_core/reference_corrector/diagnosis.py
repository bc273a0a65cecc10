"""Which step of a path is the first wrong one, and the evidence for it.

The evidence: a step's arithmetic is false; else the gold rationale does not reach its value; else the path stops short
there. A value off the rationale's is still sound where a later step that arrives at one of the rationale's values is
computed from it: a detour is no mistake. Of two wrong steps the earlier one counts, whatever its evidence: in half of
the real paths with false arithmetic an earlier step is off course, and correcting only the later one would keep its
mistake.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lema_core.answers import FalseEquation, false_equations
from lema_core.reference_corrector.equations import Equation, key, keys, known_numbers, numbers
from lema_core.reference_corrector.knowledge import Knowledge, Step

Kind = Literal["arithmetic", "off_course", "stops_short", "past_the_goal", "answer_line", "no_step"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The first wrong step and why it is wrong."""

    kind: Kind
    step: int
    """1-based."""
    false: FalseEquation | None = None
    equation: Equation | None = None
    """The off-course computation, where the step has one."""
    value: Fraction | None = None
    """The value in question, where there is one."""
    foreign: Fraction | None = None
    """A number the step uses that neither the question nor an earlier step gives."""


def diagnose(steps: tuple[Step, ...], known: Knowledge, gold: Fraction | None) -> Diagnosis:
    """Return the first wrong step of a mistaken path; ``steps`` is not empty.

    ``gold`` is the gold answer's number, None where it has none.
    """
    wrong = next((index for index, sound in enumerate(_soundness(steps, known)) if not sound), None)
    upto = len(steps) if wrong is None else wrong + 1
    for number, step in enumerate(steps[:upto], 1):
        if false := false_equations(step.text):
            return Diagnosis("arithmetic", number, false=false[0], value=false[0].claimed)
    reached = next((i for i, step in enumerate(steps) if gold is not None and _arrives(step, gold)), None)
    last = steps[-1]
    if wrong is None and gold is not None and _arrives(last, gold):
        return Diagnosis("answer_line", len(steps), value=last.value)
    if reached is not None and wrong is not None and reached < wrong and wrong == reached + 1:
        return Diagnosis("past_the_goal", wrong + 1, equation=_last_equation(steps[wrong]), value=steps[wrong].value)
    if wrong is None:
        return Diagnosis("stops_short", len(steps), equation=_last_equation(last), value=last.value)
    step = steps[wrong]
    offending = next((e for e in step.equations if key(e.value) not in known.computed), _last_equation(step))
    return Diagnosis(
        "off_course",
        wrong + 1,
        equation=offending,
        value=offending.value if offending else step.value,
        foreign=_foreign(steps, wrong, offending, known),
    )


def _arrives(step: Step, gold: Fraction) -> bool:
    return step.value is not None and step.value == gold


def _last_equation(step: Step) -> Equation | None:
    return step.equations[-1] if step.equations else None


def _soundness(steps: tuple[Step, ...], known: Knowledge) -> list[bool]:
    """Say of each step whether its value is the rationale's or leads to one that is."""
    sound = [False] * len(steps)
    used_by_sound: set[int] = set()
    arrived = {key(value) for step in known.steps for value in step.values}
    for index in range(len(steps) - 1, -1, -1):
        step = steps[index]
        sound[index] = _is_sound(step, known, used_by_sound)
        # A part of a sum is met by chance too often to vouch for what it was computed from; a step's own value is not.
        results = keys(equation.computed for equation in step.equations)
        if sound[index] and results & (arrived | used_by_sound):
            used_by_sound |= keys(operand for equation in step.equations for operand in equation.operands)
    return sound


def _is_sound(step: Step, known: Knowledge, used_by_sound: set[int]) -> bool:
    if step.equations:
        # The true result: that it is stated wrongly is found by the step checker, and must not taint what led here.
        value = step.equations[-1].computed
        sound = known.computed | used_by_sound
        return any(key(form) in sound for form in _forms(value))
    stated = keys(numbers(step.text))
    return stated <= known.given | known.mentioned | known.computed | used_by_sound


def _forms(value: Fraction) -> tuple[Fraction, ...]:
    """Return the value, and as percent where it can be a share."""
    return (value, value * 100) if 0 < value < 1 else (value,)


def _foreign(steps: tuple[Step, ...], wrong: int, equation: Equation | None, known: Knowledge) -> Fraction | None:
    """Return a number of the step that comes from nowhere."""
    earlier = {number for step in steps[:wrong] for number in known_numbers(step.text) | keys(step.values)}
    allowed = known.given | known.mentioned | earlier
    candidates = equation.operands if equation else tuple(numbers(steps[wrong].text))
    own = keys(steps[wrong].values)
    return next((number for number in candidates if key(number) not in allowed | own), None)
