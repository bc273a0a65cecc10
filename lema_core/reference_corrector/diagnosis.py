"""Which step of a path is the first wrong one, and the evidence for it.

Every equation of the path is compared with the gold rationale's by what it computes (``derivation``), so that a value
which is equal by coincidence proves nothing. Sound is what the rationale computes too, what is a part of it and is
completed later, and what a later sound equation is computed from. Of two wrong steps the earlier one counts, whatever
its evidence: in half of the real paths with false arithmetic an earlier step is off course. Where no step is off, the
mistake is the first step that states the wrong final answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lema_core.reference_corrector.derivation import Node, derive, is_part_of, key, keys, percentage_of
from lema_core.reference_corrector.gold_rationale import GoldRationale, known_numbers
from lema_core.reference_corrector.reading import Step
from lema_core.step_checker import FalseEquation, false_equations
from lema_core.step_checker.equations import Equation, numbers

Kind = Literal["arithmetic", "off_course", "stops_short", "no_way_on", "past_the_goal", "answer_line"]
Status = Literal["same", "restated", "value", "conversion", "part", "repeated", "foreign", "off"]
"""How an equation stands to the rationale's: the same computation; one that the path has had; a value that is too large
to be equal by chance; a change of units; a part of one; another way to a value that the path has had; one that uses a
number from nowhere; anything else."""
_SOUND = frozenset({"same", "restated", "value", "conversion"})
_WRONG = frozenset({"off", "foreign", "repeated"})
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
BY_CHANCE = 30
"""Values below this are often equal by coincidence: 8 + 10 and 8 - 5 + 10 + 5 are both 18."""
_MONEY = re.compile(r"\$|dollar|cent|money|cost|price|pay|paid|earn|spen[dt]|profit|make", re.IGNORECASE)


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


def diagnose(
    steps: tuple[Step, ...], rationale: GoldRationale, gold: Fraction | None, answer_line: str | None = None
) -> Diagnosis | None:
    """Return the first wrong step of a mistaken path, None where none can be shown; ``steps`` is not empty.

    ``gold`` is the gold answer's number, None where it has none.
    """
    nodes = derive(steps, rationale.given)
    status = _statuses(nodes, steps, rationale)
    sound = _soundness(nodes, status, steps)
    by_step: list[list[int]] = [[] for _ in steps]
    for index, node in enumerate(nodes):
        by_step[node.step].append(index)
    reached: set[int] = set()
    for number, step in enumerate(steps):
        false = _false_arithmetic(step, number + 1) or _false_in_units(by_step[number], nodes, status, rationale)
        if false is not None:
            return false
        wrong = _wrong_equation(by_step[number], nodes, status, sound, rationale)
        unknown = set() if by_step[number] else keys(numbers(step.text)) - rationale.known - reached
        if wrong is not None or unknown:
            return _off_course(number, wrong, steps, nodes, sound, rationale, gold)
        reached |= keys(step.values) | {nodes[index].value for index in by_step[number]}
    return _wrong_answer(steps, nodes, status, rationale, gold, answer_line)


def first_false(steps: tuple[Step, ...]) -> Diagnosis | None:
    """Return the first step whose arithmetic is proven false, whatever the rationale says."""
    found = (_false_arithmetic(step, number) for number, step in enumerate(steps, 1))
    return next((diagnosis for diagnosis in found if diagnosis is not None), None)


def _false_arithmetic(step: Step, number: int) -> Diagnosis | None:
    for false in false_equations(step.text):
        # 16.666666666666668 for 50 / 3 is a calculator's rounding
        if abs(false.computed - false.claimed) * ROUNDING > max(Fraction(1), abs(false.computed)):
            return Diagnosis("arithmetic", number, false=false, value=false.claimed)
    return None


def _false_in_units(
    own: list[int], nodes: tuple[Node, ...], status: list[Status], rationale: GoldRationale
) -> Diagnosis | None:
    """Return a wrong result of what the rationale computes too, where units hide it from the step checker.

    ``$15 per hour x 40 hours = $450``. A result a hundred times as large counts cents.
    """
    for index in own:
        equation = nodes[index].equation
        gap = abs(equation.computed - equation.value)
        cents = min(abs(equation.value * 100 - equation.computed), abs(equation.value - equation.computed * 100)) <= 1
        same = any(nodes[index].arrives_at(right) for right in rationale.nodes)
        if gap > 1 and not cents and same and status[index] != "repeated":
            return Diagnosis("arithmetic", nodes[index].step + 1, equation=equation, value=equation.value)
    return None


def _wrong_equation(
    own: list[int],
    nodes: tuple[Node, ...],
    status: list[Status],
    sound: list[bool],
    rationale: GoldRationale,
) -> int | None:
    """Return the equation that makes a step wrong: one whose value is used later, else the last."""
    used = {source for node in nodes for source in node.sources}
    for index in own[:-1]:
        if not sound[index] and status[index] in _WRONG and index in used:
            return index
    if own and (not sound[own[-1]] or _states_money(nodes[own[-1]], rationale)):
        return own[-1]
    return None


def _states_money(node: Node, rationale: GoldRationale) -> bool:
    """Whether the step takes for money what the rationale counts in another unit: "$36 / 4 = $9" for 9 hours."""
    if "$" not in node.equation.text.rpartition("=")[2]:
        return False
    rights = [right for right in rationale.nodes if node.arrives_at(right)]
    return bool(rights) and not any(_MONEY.search(rationale.steps[right.step].text) for right in rights)


def _off_course(
    number: int,
    wrong: int | None,
    steps: tuple[Step, ...],
    nodes: tuple[Node, ...],
    sound: list[bool],
    rationale: GoldRationale,
    gold: Fraction | None,
) -> Diagnosis:
    step = steps[number]
    before = [index for index, node in enumerate(nodes) if node.step == number - 1]
    if before and sound[before[-1]] and gold is not None and nodes[before[-1]].equation.value == gold:
        # A value on the rationale's way may happen to be the gold answer as well.
        arrivals = [right for right in rationale.nodes if right.equation.value == gold]
        if len(arrivals) == 1 and nodes[before[-1]].arrives_at(arrivals[0]):
            last = step.equations[-1] if step.equations else None
            return Diagnosis("past_the_goal", number + 1, equation=last, value=step.value)
    equation = None if wrong is None else nodes[wrong].equation
    return Diagnosis(
        "off_course",
        number + 1,
        equation=equation,
        value=equation.value if equation else step.value,
        foreign=_foreign(steps, number, equation, rationale),
    )


def _wrong_answer(
    steps: tuple[Step, ...],
    nodes: tuple[Node, ...],
    status: list[Status],
    rationale: GoldRationale,
    gold: Fraction | None,
    answer_line: str | None,
) -> Diagnosis | None:
    """Return the mistake of a path without a wrong step: where it first states its final answer.

    The paths of a repeated answer ("So it is 9. #### 9") would otherwise have their last line named.
    """
    last = steps[-1]
    parts = numbers(answer_line or last.text)
    if gold is not None and last.value == gold:
        differs = answer_line is not None and gold not in numbers(answer_line)
        return Diagnosis("answer_line", len(steps), value=last.value) if differs else None
    if gold is not None and len(parts) > 1 and sum(parts) == gold:
        return None  # the answer in its parts: "4 blue and 6 red boxes" for 10
    final = next((step.value for step in reversed(steps) if step.value is not None), None)
    fresh = [node.step for node, kind in zip(nodes, status, strict=True) if kind != "restated"]
    at = len(steps) - 1
    for index in range(fresh[-1] if fresh else 0, len(steps)):
        values = steps[index].values if steps[index].equations else numbers(steps[index].text)
        if final is not None and key(final) in keys(values):
            at = index
            break
    step = steps[at]
    on_the_way = bool(step.equations) and key(step.equations[-1].value) in rationale.computed
    kind: Kind = "stops_short" if on_the_way and not rationale.algebraic else "no_way_on"
    return Diagnosis(kind, at + 1, equation=step.equations[-1] if step.equations else None, value=step.value)


def _statuses(nodes: tuple[Node, ...], steps: tuple[Step, ...], rationale: GoldRationale) -> list[Status]:
    earlier: dict[int, list[Node]] = {}
    last_of = {node.step: node for node in nodes}
    known = set(rationale.known)
    statuses: list[Status] = []
    for node in nodes:
        reached = earlier.setdefault(node.value, [])
        converts = last_of[node.step] is node and _is_conversion(steps[node.step], node.equation)
        statuses.append(_status(node, reached, rationale, known, converts=converts))
        reached.append(node)
        known |= {node.value, key(node.equation.value)}
    return statuses


def _status(node: Node, reached: list[Node], rationale: GoldRationale, known: set[int], *, converts: bool) -> Status:
    if any(before.same_as(node) for before in reached):
        return "restated"
    if any(node.arrives_at(right) for right in rationale.nodes):
        return "same"
    equation = node.equation
    share = 0 < equation.computed < 1 and node.value not in rationale.computed
    value = key(equation.computed * 100) if share else node.value
    if value in rationale.computed and not reached:
        rights = [right for right in rationale.nodes if right.value == value]
        own = keys(equation.operands)
        related = not rights or any(own & keys(right.equation.operands) for right in rights)
        if (not rights and rationale.algebraic) or (related and abs(equation.computed) >= BY_CHANCE):
            return "value"
    if converts:
        return "conversion"
    # 3 * 1 = 3, where the 3 was there before, brings nothing new
    trivial = bool(reached) and len(equation.operands) == 2 and 1 in equation.operands
    if node.undoes:
        return "repeated"
    if not trivial and any(is_part_of(node.terms, right.terms) for right in rationale.nodes):
        return "part"
    if any(_is_foreign(operand, known, rationale.given) for operand in equation.operands):
        return "foreign"
    return "repeated" if reached else "off"


def _soundness(nodes: tuple[Node, ...], status: list[Status], steps: tuple[Step, ...]) -> list[bool]:
    """Return per equation whether it is sound, or only a mistake of what is computed from it.

    A part of the rationale's computation is sound where it is completed, or where a wrong equation uses it; it is the
    mistake where the path takes it, or a further part computed from it, for the answer.
    """
    final = next((key(step.value) for step in reversed(steps) if step.value is not None), None)
    answers = [index for index, node in enumerate(nodes) if key(node.equation.value) == final]
    users = _users(nodes, status)
    sound = [kind in _SOUND for kind in status]
    part: dict[int, Literal["completed", "used", "answer", "unused"]] = {}
    for index in reversed(range(len(nodes))):
        kinds = {status[user] for user in users[index]}
        ways = {part[user] for user in users[index] if user in part}
        progress = bool(kinds & (_SOUND - {"restated"}))
        if status[index] == "part":
            if progress or "completed" in ways:
                part[index] = "completed"
            elif kinds & _WRONG or "used" in ways:
                part[index] = "used"
            else:
                part[index] = "answer" if "answer" in ways or index == max(answers, default=-1) else "unused"
            sound[index] = part[index] != "answer"
        elif not sound[index] and status[index] != "foreign":
            sound[index] = bool(kinds & (_SOUND - {"restated", "conversion"}))
    for index, twin in _twins(nodes, status).items():
        sound[index] = sound[twin]
    return sound


def _users(nodes: tuple[Node, ...], status: list[Status]) -> list[list[int]]:
    """Return the later equations that use each one; a restated one's count for the first as well."""
    users: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        for source in node.sources:
            users[source].append(index)
    for index, twin in _twins(nodes, status).items():
        users[twin] += users[index]
    return users


def _twins(nodes: tuple[Node, ...], status: list[Status]) -> dict[int, int]:
    """Return for each restated equation, in order, the first that is the same computation."""
    first: dict[int | None, int] = {}
    twins = {}
    for index, node in enumerate(nodes):
        if status[index] == "restated":
            twins[index] = min(first[residue] for residue in node.residues if residue in first)
        for residue in node.residues:
            if residue is not None:
                first.setdefault(residue, index)
    return twins


def _is_conversion(step: Step, last: Equation) -> bool:
    """Whether the step only takes a quantity to another unit: ``4 feet * 12 inches/foot = 48 inches``."""
    constants = {unit for unit, words in _CONVERSIONS.items() if len(words & set(step.text.lower().split())) > 1}
    return len(last.operators) == 1 and last.operators[0] in "*/" and bool(constants & set(last.operands[1:]))


def _is_foreign(number: Fraction, known: set[int], given: frozenset[int]) -> bool:
    return not keys([number, number * 100]) & (known | {100, 10_000}) and percentage_of(number, given) is None


def _foreign(
    steps: tuple[Step, ...], wrong: int, equation: Equation | None, rationale: GoldRationale
) -> Fraction | None:
    """Return a number of the step that neither the question, the rationale nor an earlier step has."""
    earlier = {number for step in steps[:wrong] for number in known_numbers(step.text) | keys(step.values)}
    candidates: Sequence[Fraction] = equation.operands if equation else numbers(steps[wrong].text)
    known = earlier | rationale.known | keys(steps[wrong].values)
    return next((number for number in candidates if _is_foreign(number, known, rationale.given)), None)
