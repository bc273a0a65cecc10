"""The corrected steps: how the solution goes on from the steps that are kept, to the gold answer."""

from fractions import Fraction

from lema_core.reference_corrector.diagnosis import Diagnosis
from lema_core.reference_corrector.equations import key, keys
from lema_core.reference_corrector.knowledge import Knowledge, Step


def plain(value: Fraction) -> str:
    """Return a value in digits: whole, as a finite decimal, or rounded to cents."""
    if value.denominator == 1:
        return str(value.numerator)
    for places in range(1, 7):
        scaled = value * 10**places
        if scaled.denominator == 1:
            return f"{float(value):.{places}f}"
    return f"{float(value):.2f}"


def repaired(step: Step, diagnosis: Diagnosis, known: Knowledge) -> str | None:
    """Return a step of false arithmetic with the right result, if that result is one the rationale needs."""
    false = diagnosis.false
    if false is None or key(false.computed) not in known.computed or len(step.equations) != 1:
        return None
    head, claim, tail = (
        step.text[: false.claimed_start],
        step.text[false.claimed_start : false.claimed_end],
        step.text[false.claimed_end :],
    )
    # A wrong result that the sentence mentions again cannot be mended by replacing it once.
    if claim.strip("$ %") in tail or "%" in claim:
        return None
    return f"{head}{'$' if claim.startswith('$') else ''}{plain(false.computed)}{tail}"


def missing_steps(kept: tuple[Step, ...], known: Knowledge) -> list[Step]:
    """Return the rationale's steps that the kept ones have not established and the answer depends on, in order."""
    established = keys(value for step in kept for value in _established(step))
    gold = known.steps
    if not gold:
        return []
    final = max((index for index, step in enumerate(gold) if step.equations), default=len(gold) - 1)
    if known.algebraic or any(not step.equations for step in gold[: final + 1]):
        return _unestablished_suffix(gold, established)
    needed = _dependencies(gold, final, established, known)
    return [step for index, step in enumerate(gold) if index in needed or index > final]


def _established(step: Step) -> list[Fraction]:
    if step.equations:
        return step.values
    return [step.value] if step.value is not None else []


def _unestablished_suffix(gold: tuple[Step, ...], established: set[int]) -> list[Step]:
    """Return the rationale from its first step on that is not established; steps in prose cannot be left out singly."""
    skipped = 0
    while skipped < len(gold) - 1 and _is_established(gold[skipped], established):
        skipped += 1
    return list(gold[skipped:])


def _is_established(step: Step, established: set[int]) -> bool:
    values = keys(_established(step))
    return bool(values) and values <= established


def _dependencies(gold: tuple[Step, ...], final: int, established: set[int], known: Knowledge) -> set[int]:
    """Return the indices of the steps that the final one needs, without those whose value is established."""
    needed: set[int] = set()
    # Where prose follows the last computation (rounding up, say), an established computation is not repeated.
    waiting = [] if final < len(gold) - 1 and _is_established(gold[final], established) else [final]
    while waiting:
        index = waiting.pop()
        if index in needed:
            continue
        needed.add(index)
        for operand in keys(operand for equation in gold[index].equations for operand in equation.operands):
            source = _source(gold, index, operand)
            if source is not None and operand not in established and not _given(gold[source], operand, known):
                waiting.append(source)
    return needed


def _source(gold: tuple[Step, ...], before: int, operand: int) -> int | None:
    """Return the last step before this one that computes the operand."""
    return next((i for i in range(before - 1, -1, -1) if operand in keys(gold[i].values)), None)


def _given(source: Step, operand: int, known: Knowledge) -> bool:
    # A step whose result the question gives as well may still be the one that says what the number is.
    return operand in known.given and len(source.equations) > 1
