"""Explanations in plain words: what the wrong step does, why that is wrong, and what is needed instead."""

from collections import Counter
from fractions import Fraction

from lema_core.reference_corrector.diagnosis import Diagnosis
from lema_core.reference_corrector.equations import Equation, key, keys, numbers
from lema_core.reference_corrector.knowledge import Knowledge, Step
from lema_core.reference_corrector.solution import plain

_DOES = {"+": "adds", "-": "subtracts", "*": "multiplies", "/": "divides", "of": "multiplies"}
_DONE = {"+": "added", "-": "subtracted", "*": "multiplied", "/": "divided", "of": "multiplied"}


def explain(diagnosis: Diagnosis, steps: tuple[Step, ...], known: Knowledge, missing: list[Step], final: str) -> str:
    """Return the explanation; ``final`` is the answer that the mistaken path states."""
    said = {
        "arithmetic": _arithmetic,
        "off_course": _off_course,
        "past_the_goal": _past_the_goal,
        "stops_short": _stops_short,
        "answer_line": _answer_line,
    }[diagnosis.kind](diagnosis, steps, known, missing)
    if diagnosis.kind == "answer_line" and final:
        return f"{said} The solution states {final} instead."
    return said


def _arithmetic(diagnosis: Diagnosis, _: tuple[Step, ...], known: Knowledge, missing: list[Step]) -> str:
    false = diagnosis.false
    if false is None:
        return ""
    expression = false.text.rpartition("=")[0].strip()
    right, claimed = plain(false.computed), plain(false.claimed)
    said = f"Step {diagnosis.step} claims that {expression} equals {claimed}, but {expression} is {right}."
    if key(false.computed) in known.computed:
        return f"{said} The wrong result {claimed} spoils everything that is computed from it."
    return f"{said} Nor is {right} a value that the question calls for. {_needed(missing)}".strip()


def _off_course(diagnosis: Diagnosis, steps: tuple[Step, ...], known: Knowledge, missing: list[Step]) -> str:
    number, equation, value = diagnosis.step, diagnosis.equation, diagnosis.value
    if diagnosis.foreign is not None:
        fault = (
            f"Step {number} uses {plain(diagnosis.foreign)}, a number that the question does not give "
            "and that no earlier step has computed."
        )
    elif equation is not None:
        fault = _wrong_computation(number, equation, missing) or _not_called_for(number, equation, steps)
    elif value is not None:
        fault = f"Step {number} states {plain(value)} without computing it, and that number is not right."
    else:
        fault = f"Step {number} does not follow from the question."
    return " ".join(part for part in (fault, _left_out(steps, known, missing), _needed(missing)) if part)


def _not_called_for(number: int, equation: Equation, steps: tuple[Step, ...]) -> str:
    value = plain(equation.value)
    again = next((i for i, step in enumerate(steps[: number - 1], 1) if key(equation.value) in keys(step.values)), None)
    if again is not None:
        return f"Step {number} computes {equation.text}, which is only what step {again} has computed already."
    return f"Step {number} computes {equation.text}, but {value} is not a quantity that leads to the answer."


def _wrong_computation(number: int, equation: Equation, missing: list[Step]) -> str | None:
    """Compare the step with what the rationale computes from nearly the same numbers."""
    rights = [right for step in missing for right in step.equations]
    own = Counter(map(key, equation.operands))
    for right in rights:
        if Counter(map(key, right.operands)) == own and len(set(equation.operators)) == len(set(right.operators)) == 1:
            return _wrong_operator(number, equation, right)
    for right in rights:
        same_shape = right.operators == equation.operators and len(right.operands) == len(equation.operands) == 2
        extra, lacking = own - Counter(map(key, right.operands)), Counter(map(key, right.operands)) - own
        if same_shape and extra.total() == lacking.total() == 1:
            taken = next(operand for operand in equation.operands if key(operand) in extra)
            wanted = next(operand for operand in right.operands if key(operand) in lacking)
            return (
                f"Step {number} computes {equation.text}, but it takes {plain(taken)} where {plain(wanted)} "
                f"is the number to work with: {right.text}."
            )
    return None


def _wrong_operator(number: int, equation: Equation, right: Equation) -> str | None:
    does, done = _DOES.get(equation.operators[0]), _DONE.get(right.operators[0])
    pair = " and ".join(dict.fromkeys(plain(operand) for operand in equation.operands))
    if does is None or done is None:
        return None
    if _DOES[right.operators[0]] == does:
        return f"Step {number} has the right numbers but in the wrong order: {equation.text} should be {right.text}."
    return f"Step {number} {does} where {pair} have to be {done}: it must be {right.text}, not {equation.text}."


def _past_the_goal(diagnosis: Diagnosis, _: tuple[Step, ...], __: Knowledge, ___: list[Step]) -> str:
    number, equation = diagnosis.step, diagnosis.equation
    does = f"Step {number} goes on to compute {equation.text}" if equation else f"Step {number} goes on"
    return f"{does}, but step {number - 1} has already arrived at what the question asks for."


def _stops_short(diagnosis: Diagnosis, steps: tuple[Step, ...], known: Knowledge, missing: list[Step]) -> str:
    number, value = diagnosis.step, diagnosis.value
    ends = f"The solution stops at step {number}"
    ends += f" and takes {plain(value)} for the answer." if value is not None else "."
    right = f"{plain(value)} is only a value on the way to what the question asks for." if value is not None else ""
    return " ".join(part for part in (ends, right, _left_out(steps, known, missing), _needed(missing)) if part)


def _answer_line(diagnosis: Diagnosis, _: tuple[Step, ...], __: Knowledge, ___: list[Step]) -> str:
    value = f" at {plain(diagnosis.value)}" if diagnosis.value is not None else ""
    return f"Step {diagnosis.step} arrives{value}, which is right, but the final answer does not say so."


def _left_out(steps: tuple[Step, ...], known: Knowledge, missing: list[Step]) -> str:
    """Name a number of the question that the answer depends on and that the path never uses."""
    used = {key(number) for step in steps for number in numbers(step.text)}
    used |= {key(operand) for step in steps for equation in step.equations for operand in equation.operands}
    for operand in _operands(missing):
        if key(operand) in known.given and key(operand) not in used and operand > 2:
            return f"It leaves out the {plain(operand)} that the question gives."
    return ""


def _operands(steps: list[Step]) -> list[Fraction]:
    return [operand for step in steps for equation in step.equations for operand in equation.operands]


def _needed(missing: list[Step]) -> str:
    if not missing:
        return ""
    text = missing[0].text.rstrip()
    return f"What is needed next is this: {text}{'' if text.endswith(('.', '!', '?')) else '.'}"
