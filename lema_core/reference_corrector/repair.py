"""The corrected steps: how the solution goes on from the steps that are kept, to the gold answer."""

import re
from collections import Counter
from fractions import Fraction

from lema_core.reference_corrector.diagnosis import Diagnosis
from lema_core.reference_corrector.gold_rationale import GoldRationale, Step, key, keys, read_steps
from lema_core.step_checker.equations import Equation


def plain(value: Fraction) -> str:
    """Return a value in digits: whole, as a finite decimal, or rounded to cents."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            return f"{float(value):.{places}f}"
    return f"{float(value):.2f}"


def sentence(text: str) -> str:
    """Return the text with a full stop at its end."""
    text = text.rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def continuation(
    diagnosis: Diagnosis, steps: tuple[Step, ...], rationale: GoldRationale
) -> tuple[list[str], list[Step]]:
    """Return the corrected steps and, of the rationale, the steps among them."""
    index = diagnosis.step - 1
    kept, wrong = steps[:index], steps[index]
    if diagnosis.kind == "answer_line":
        return [wrong.text], []
    if diagnosis.kind == "past_the_goal":
        value = kept[-1].value if kept else None
        said = plain(value) if value is not None else "This"
        return [f"{said} is what the question asks for, so nothing more has to be computed."], []
    if diagnosis.kind == "stops_short":
        missing = _missing_steps(steps[: index + 1], rationale)
        return [wrong.text, *sentences_of(missing)], missing
    mended = _mended(wrong, diagnosis, rationale)
    if mended is None:
        missing = _missing_steps(kept, rationale)
        return sentences_of(missing), missing
    (mended_step,) = read_steps(f"Step 1: {mended}") or (wrong,)
    missing = _missing_steps((*kept, mended_step), rationale)
    final = rationale.steps[-1].value
    done = mended_step.value is not None and mended_step.value == final
    return [mended, *([] if done else sentences_of(missing))], [] if done else missing


def sentences_of(steps: list[Step]) -> list[str]:
    """Return the texts of steps, each with a full stop."""
    return [sentence(step.text) for step in steps]


def _mended(step: Step, diagnosis: Diagnosis, rationale: GoldRationale) -> str | None:
    """Return a step of false arithmetic with the right result, if that result is one the rationale needs."""
    false = diagnosis.false
    if false is None or key(false.computed) not in rationale.computed or len(step.equations) != 1:
        return None
    head, claim, tail = (
        step.text[: false.claimed_start],
        step.text[false.claimed_start : false.claimed_end],
        step.text[false.claimed_end :],
    )
    # A wrong result that the sentence mentions again cannot be mended by replacing it once.
    if claim.strip("$ %") in {*re.findall(r"\d[\d,]*\d|\d", f"{head} {tail}")} or "%" in claim:
        return None
    return f"{head}{'$' if claim.startswith('$') else ''}{plain(false.computed)}{tail}"


def with_result(text: str, equation: Equation, result: Fraction) -> str:
    """Return the text with another result of an equation."""
    start, end = equation.span
    return f"{text[:start]}{plain(result)}{text[end:]}"


def _missing_steps(kept: tuple[Step, ...], rationale: GoldRationale) -> list[Step]:
    """Return the rationale's steps that the kept ones have not established and the answer depends on, in order."""
    gold = rationale.steps
    established = _established(gold, kept)
    computing = [index for index, step in enumerate(gold) if step.equations]
    if not computing or rationale.algebraic or len(computing) <= computing[-1]:
        # Steps in prose cannot be left out singly: go on from the first that is not established.
        start = next((index for index in range(len(gold)) if index not in established), len(gold) - 1)
        return list(gold[start:])
    final = computing[-1]
    # Where prose follows the last computation (rounding up, say), an established computation is not repeated.
    waiting = [] if final < len(gold) - 1 and final in established else [final]
    needed: set[int] = set()
    while waiting:
        index = waiting.pop()
        needed.add(index)
        waiting += [source for source in _sources(gold, index, rationale) if source not in needed | established]
    return [step for index, step in enumerate(gold) if index in needed or index > final]


def _established(gold: tuple[Step, ...], kept: tuple[Step, ...]) -> set[int]:
    """Return the indices of the rationale's steps whose values the kept steps compute.

    A value counts once: where two of the rationale's steps arrive at 4, one kept step that does establishes the first.
    """
    values = Counter(key(value) for step in kept for value in _values(step))
    established = set()
    for index, step in enumerate(gold):
        own = Counter(keys(_values(step)))
        if own and own <= values:
            values -= own
            established.add(index)
    return established


def _values(step: Step) -> list[Fraction]:
    if step.equations:
        return step.values
    return [step.value] if step.value is not None else []


def _sources(gold: tuple[Step, ...], index: int, rationale: GoldRationale) -> list[int]:
    """Return the earlier steps that compute an operand of this one."""
    operands = keys(operand for equation in gold[index].equations for operand in equation.operands)
    return [
        earlier
        for earlier in range(index)
        # A step of several results one of which the question gives says more than that number.
        if any(
            value in operands and not (value in rationale.given and len(gold[earlier].equations) > 1)
            for value in keys(gold[earlier].values)
        )
    ]
