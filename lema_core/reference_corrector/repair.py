"""What the corrector writes: why the wrong step is wrong and what is needed instead, and the corrected steps.

The solution goes on from the steps that are kept, to the gold answer.
"""

import re
from collections import Counter
from fractions import Fraction

from lema_core.reference_corrector.derivation import key, keys
from lema_core.reference_corrector.diagnosis import Diagnosis
from lema_core.reference_corrector.gold_rationale import GoldRationale
from lema_core.reference_corrector.reading import Step, read_steps
from lema_core.step_checker.equations import Equation, numbers


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
    if diagnosis.kind == "stops_short" and index == len(steps) - 1:
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
        if index in needed:
            continue
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


SAME_SUBJECT = 0.4
"""Share of common words from which on two steps are taken to speak of the same quantity."""
RELATED = 0.15
"""The same for steps that have their numbers in common."""
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "the and are was were has have had for with that this then his her she they their its will would can could "
        "from per each all find first next total number altogether there many much more than because since which",
    )
)
_DOES = {"+": "adds", "-": "subtracts", "*": "multiplies", "/": "divides", "of": "multiplies"}
_DONE = {"+": "added", "-": "subtracted", "*": "multiplied", "/": "divided", "of": "multiplied"}


def explain(
    diagnosis: Diagnosis, steps: tuple[Step, ...], rationale: GoldRationale, missing: list[Step], final: str
) -> str:
    """Return the explanation; ``final`` is the answer that the mistaken path states."""
    number, equation = diagnosis.step, diagnosis.equation
    value = None if diagnosis.value is None else plain(diagnosis.value)
    if diagnosis.kind == "arithmetic":
        return _arithmetic(diagnosis, rationale, missing)
    if diagnosis.kind == "off_course":
        return _off_course(diagnosis, steps, rationale, missing)
    if diagnosis.kind == "past_the_goal":
        does = f"Step {number} goes on to compute {equation.text}" if equation else f"Step {number} goes on"
        return f"{does}, but step {number - 1} has already arrived at what the question asks for."
    if diagnosis.kind == "answer_line":
        at = f" at {value}" if value else ""
        said = f"Step {number} arrives{at}, which is right, but the final answer does not say so."
        return f"{said} The solution states {final} instead." if final else said
    if diagnosis.kind == "stops_short":
        takes = f" and takes {value} for the answer. {value} is only a value on the way to what the question asks for."
        said = f"The solution stops at step {number}{takes if value else '.'}"
    else:
        said = f"Step {number}{f' arrives at {value}, but that' if value else ''} is not what the question asks for."
    return " ".join(part for part in (said, _left_out(steps, rationale, missing), _needed(missing)) if part)


def _arithmetic(diagnosis: Diagnosis, rationale: GoldRationale, missing: list[Step]) -> str:
    if (false := diagnosis.false) is not None:
        expression, computed, claimed = false.text.rpartition("=")[0].strip(), false.computed, false.claimed
    elif (equation := diagnosis.equation) is not None:
        expression, computed, claimed = equation.expression, equation.computed, equation.value
    else:
        expression, computed, claimed = "", Fraction(0), Fraction(0)
    right = plain(computed)
    said = f"Step {diagnosis.step} claims that {expression} equals {plain(claimed)}, but {expression} is {right}."
    if key(computed) in rationale.computed:
        return f"{said} The wrong result spoils everything that is computed from it."
    return f"{said} Nor is {right} a value that the question calls for. {_needed(missing)}".strip()


def _off_course(diagnosis: Diagnosis, steps: tuple[Step, ...], rationale: GoldRationale, missing: list[Step]) -> str:
    number, value = diagnosis.step, diagnosis.value
    step = steps[number - 1]
    best, best_share = None, 0.0
    for candidate in missing:
        share = _overlap(step, candidate)
        differs = candidate.value is not None and step.value is not None and key(candidate.value) != key(step.value)
        # The same words over quite other numbers are another quantity.
        own, theirs = _numbers_of(step), _numbers_of(candidate)
        related = candidate is missing[0] or (abs(len(own) - len(theirs)) <= 1 and bool(own & theirs))
        common = len(_content_words(step.text) & _content_words(candidate.text))
        if share > best_share and common > 2 and differs and related and candidate.equations:
            best, best_share = candidate, share
    meant = best if best_share >= SAME_SUBJECT else None
    if diagnosis.foreign is not None:
        fault = (
            f"Step {number} uses {plain(diagnosis.foreign)}, a number that the question does not give "
            "and that no earlier step has computed."
        )
    elif diagnosis.equation is not None:
        fault = _wrong_computation(step, number, diagnosis.equation, rationale, missing) or _wrong_quantity(
            number, diagnosis.equation, steps, meant
        )
    elif value is not None:
        fault = f"Step {number} states {plain(value)} without computing it, and that number is not right."
    else:
        fault = f"Step {number} does not follow from the question."
    said_already = meant is not None and missing and meant is missing[0] and sentence(meant.text) in fault
    needed = "" if said_already else _needed(missing)
    return " ".join(part for part in (fault, _left_out(steps, rationale, missing), needed) if part)


def _wrong_quantity(number: int, equation: Equation, steps: tuple[Step, ...], meant: Step | None) -> str:
    value = plain(equation.value)
    # Where the numbers do not give the result, we have not read the whole computation and must not quote it.
    does = f"computes {equation.text}" if key(equation.computed) == key(equation.value) else f"arrives at {value}"
    again = next((i for i, step in enumerate(steps[: number - 1], 1) if key(equation.value) in keys(step.values)), None)
    if meant is not None and meant.value is not None:
        return f"Step {number} {does}, where {plain(meant.value)} is right: {sentence(meant.text)}"
    if again is not None and does.startswith("computes"):
        return f"Step {number} {does}, which only repeats the value of step {again} and brings nothing new."
    return f"Step {number} {does}, but {value} is not one of the quantities that lead to the answer."


def _overlap(left: Step, right: Step) -> float:
    """Return the share of content words that two steps have in common."""
    own, theirs = _content_words(left.text), _content_words(right.text)
    return len(own & theirs) / max(1, len(own | theirs))


def _numbers_of(step: Step) -> set[int]:
    return keys(operand for equation in step.equations for operand in equation.operands)


def _content_words(text: str) -> set[str]:
    words = {word.removesuffix("s") for word in re.findall(r"[a-z]{3,}", text.lower())} - _FUNCTION_WORDS
    return words | set(re.findall(r"\b[B-HJ-Z]\b", text))


def _wrong_computation(
    step: Step, number: int, equation: Equation, rationale: GoldRationale, missing: list[Step]
) -> str | None:
    """Compare the step with what the rationale computes from nearly the same numbers for the same purpose."""
    if key(equation.computed) != key(equation.value):
        return None
    own = Counter(map(key, equation.operands))
    rights = [(right, _overlap(step, other)) for other in missing for right in other.equations]
    for right, overlap in rights:
        same = Counter(map(key, right.operands)) == own
        if same and overlap >= RELATED and len(set(equation.operators)) == len(set(right.operators)) == 1:
            return _wrong_operator(number, equation, right)
    for right, overlap in rights:
        if right.operators == equation.operators and len(right.operands) == 2:
            theirs = Counter(map(key, right.operands))
            taken = [operand for operand in equation.operands if key(operand) in own - theirs]
            wanted = [operand for operand in right.operands if key(operand) in theirs - own]
            if len(taken) != 1 or len(wanted) != 1:
                continue
            # Where the rationale computes the wanted number from the taken one, the step took it too early
            sources = [e for other in rationale.steps for e in other.equations if key(e.value) == key(wanted[0])]
            too_early = any(key(taken[0]) in keys(source.operands) for source in sources)
            if overlap >= SAME_SUBJECT or too_early:
                return (
                    f"Step {number} computes {equation.text}, but it takes {plain(taken[0])} where {plain(wanted[0])} "
                    f"is the number to work with: {right.text}."
                )
    return None


def _wrong_operator(number: int, equation: Equation, right: Equation) -> str | None:
    does, done = _DOES.get(equation.operators[0]), _DONE.get(right.operators[0])
    pair = " and ".join(plain(operand) for operand in equation.operands)
    if does is None or done is None:
        return None
    if _DOES[right.operators[0]] == does:
        return f"Step {number} has the right numbers but in the wrong order: {equation.text} should be {right.text}."
    return f"Step {number} {does} where {pair} have to be {done}: it must be {right.text}, not {equation.text}."


def _left_out(steps: tuple[Step, ...], rationale: GoldRationale, missing: list[Step]) -> str:
    """Name a number of the question that the answer depends on and that the path never uses."""
    used = {key(number) for step in steps for number in numbers(step.text)}
    used |= {key(operand) for step in steps for equation in step.equations for operand in equation.operands}
    for operand in (operand for step in missing for equation in step.equations for operand in equation.operands):
        if key(operand) in rationale.stated and key(operand) not in used and operand > 2:
            return f"It leaves out the {plain(operand)} that the question gives."
    return ""


def _needed(missing: list[Step]) -> str:
    return f"What is needed next is this: {sentence(missing[0].text)}" if missing else ""
