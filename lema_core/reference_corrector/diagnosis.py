"""Which step of a path is the first wrong one, and the evidence for it.

The evidence: a step's arithmetic is false; else the gold rationale does not reach its value; else the path stops short
there. A value off the rationale's is still sound where a later step that arrives at one of the rationale's values is
computed from it: a detour is no mistake. Of two wrong steps the earlier one counts, whatever its evidence: in half of
the real paths with false arithmetic an earlier step is off course, and correcting only the later one would keep its
mistake.
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lema_core.reference_corrector.gold_rationale import (
    Expander,
    Expansion,
    GoldRationale,
    Step,
    is_factor,
    is_part,
    key,
    keys,
    known_numbers,
)
from lema_core.step_checker import FalseEquation, false_equations
from lema_core.step_checker.equations import Equation, numbers

Kind = Literal["arithmetic", "off_course", "stops_short", "no_way_on", "past_the_goal", "answer_line"]
_CONVERSIONS = {
    Fraction(number): frozenset(re.findall(r"\S+", words))
    for number, words in {
        12: "feet foot inches inches/foot inches. feet.",
        60: "minutes hours seconds minutes/hour seconds/minute minute hour minutes. hours.",
        100: "cents dollars cents/dollar dollar cents. dollars. meters centimeters",
        1000: "meters kilometers grams kilograms liters milliliters",
    }.items()
}
"""Conversions by their constant: a step that uses it and names two of its units converts."""
ROUNDING = 10**6
"""Results that differ by less than this part are rounded, not wrong."""


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
    """The value that is wrong or not yet the answer; None where the step states none."""
    foreign: Fraction | None = None
    """A number the step uses that neither the question nor an earlier step gives."""


def diagnose(steps: tuple[Step, ...], rationale: GoldRationale, gold: Fraction | None) -> Diagnosis:
    """Return the first wrong step of a mistaken path; ``steps`` is not empty.

    ``gold`` is the gold answer's number, None where it has none.
    """
    wrong = next((index for index, sound in enumerate(_soundness(steps, rationale)) if not sound), None)
    false = _first_false(steps, len(steps) if wrong is None else wrong + 1, rationale)
    if false is not None:
        return false
    last = steps[-1]
    if wrong is None and gold is not None and _arrives(last, gold):
        return Diagnosis("answer_line", len(steps), value=last.value)
    if wrong and gold is not None:
        before = steps[wrong - 1]
        # A value on the rationale's way may happen to be the gold answer as well.
        if before.equations and _arrives(before, gold) and sum(gold in right.values for right in rationale.steps) == 1:
            return Diagnosis(
                "past_the_goal", wrong + 1, equation=_last_equation(steps[wrong]), value=steps[wrong].value
            )
    if wrong is None:
        on_the_way = (
            bool(last.equations) and key(last.equations[-1].value) in rationale.computed and not rationale.algebraic
        )
        kind: Kind = "stops_short" if on_the_way else "no_way_on"
        return Diagnosis(kind, len(steps), equation=_last_equation(last), value=last.value)
    step = steps[wrong]
    offending = next((e for e in step.equations if key(e.value) not in rationale.computed), _last_equation(step))
    return Diagnosis(
        "off_course",
        wrong + 1,
        equation=offending,
        value=offending.value if offending else step.value,
        foreign=_foreign(steps, wrong, offending, rationale),
    )


def _first_false(steps: tuple[Step, ...], upto: int, rationale: GoldRationale) -> Diagnosis | None:
    """Return the first step whose arithmetic is false.

    Proven so by the step checker, or, where units hide it from that one (``$15 per hour x 40 hours = $450``), a step
    that computes what the rationale computes and states another result.
    """
    expander = Expander()
    for number, step in enumerate(steps[:upto], 1):
        for false in false_equations(step.text):
            # 16.666666666666668 for 50 / 3 is a calculator's rounding
            if abs(false.computed - false.claimed) * ROUNDING > max(Fraction(1), abs(false.computed)):
                return Diagnosis("arithmetic", number, false=false, value=false.claimed)
        for equation in step.equations:
            same = any(expander.expand(equation) == whole for whole in rationale.expansions)
            if same and abs(equation.computed - equation.value) > 1 and key(equation.computed) in rationale.computed:
                return Diagnosis("arithmetic", number, equation=equation, value=equation.value)
    return None


def _arrives(step: Step, gold: Fraction) -> bool:
    return step.value is not None and step.value == gold


def _last_equation(step: Step) -> Equation | None:
    return step.equations[-1] if step.equations else None


def _soundness(steps: tuple[Step, ...], rationale: GoldRationale) -> list[bool]:
    """Return per step whether the rationale computes its value too, or whether it leads to one that it computes."""
    expander = Expander()
    reached: set[int] = set()
    sound, vouching = [], []
    for step in steps:
        # Each equation is expanded, for later steps may start from any of them.
        expanded = [expander.expand(equation) for equation in step.equations]
        arrives = bool(expanded) and _is_the_rationales(step.equations[-1], expanded[-1], rationale, reached)
        total = bool(expanded) and (
            _is_conversion(step) or _is_running_total(step.equations[-1], expanded[-1], rationale)
        )
        plain_text = not expanded and keys(numbers(step.text)) <= rationale.given | rationale.mentioned | reached
        sound.append(arrives or total or plain_text)
        vouching.append(arrives)
        reached |= keys(step.values)
    # What a step that arrives at one of the rationale's values was computed from is sound as well.
    used: set[int] = set()
    for index in range(len(steps) - 1, -1, -1):
        found = steps[index].equations
        if found and not sound[index] and key(found[-1].computed) in used:
            sound[index] = True
        if vouching[index]:
            used |= keys(operand for equation in found for operand in equation.operands)
    return sound


def _is_conversion(step: Step) -> bool:
    """Whether the step only takes a quantity to another unit: ``4 feet * 12 inches/foot = 48 inches``."""
    last = step.equations[-1]
    constants = {unit for unit, words in _CONVERSIONS.items() if len(words & set(step.text.lower().split())) > 1}
    return len(last.operators) == 1 and last.operators[0] in "*/" and bool(constants & set(last.operands[1:]))


def _is_running_total(equation: Equation, expanded: Expansion, rationale: GoldRationale) -> bool:
    """Whether the step is a part of a sum of the rationale; a single product must stand in it as it is."""
    rights = (right for step in rationale.steps for right in step.equations)
    own = Counter(_operand_keys(equation))
    return any(
        is_factor(expanded, whole)
        or (is_part(expanded, whole) and (len(expanded) > 1 or own <= Counter(_operand_keys(right))))
        for right, whole in zip(rights, rationale.expansions, strict=True)
    )


def _operand_keys(equation: Equation) -> list[int]:
    """Return the keys of an equation's operands, in order."""
    return [key(operand) for operand in equation.operands]


def _is_the_rationales(equation: Equation, expanded: Expansion, rationale: GoldRationale, reached: set[int]) -> bool:
    """Whether the rationale computes the same thing: in another order, or the same value from related numbers.

    The true result counts: that it is stated wrongly is for the step checker to say. Small numbers meet by chance: a
    value that the path had before, or that comes from quite other numbers, is no progress.
    """
    share = 0 < equation.computed < 1 and key(equation.computed) not in rationale.computed
    value = key(equation.computed * 100 if share else equation.computed)
    if value in reached:
        return False
    if expanded in rationale.expansions:
        return True
    own = keys(equation.operands)
    rights = [right for step in rationale.steps for right in step.equations if key(right.value) == value]
    return value in rationale.computed and (not rights or any(own & keys(right.operands) for right in rights))


def _foreign(
    steps: tuple[Step, ...], wrong: int, equation: Equation | None, rationale: GoldRationale
) -> Fraction | None:
    """Return a number of the step that neither the question, the rationale nor an earlier step has."""
    earlier = {number for step in steps[:wrong] for number in known_numbers(step.text) | keys(step.values)}
    allowed = rationale.given | rationale.mentioned | earlier
    candidates = equation.operands if equation else tuple(numbers(steps[wrong].text))
    own = keys(steps[wrong].values)
    return next(
        (number for number in candidates if number != 1 and not keys([number, number * 100]) & (allowed | own)), None
    )
