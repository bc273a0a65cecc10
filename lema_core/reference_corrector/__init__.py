"""A deterministic teacher for questions whose gold rationale is known. It is not a language model.

Contract: ``correct`` answers in the text form of any teacher (paper, section 2.2) and goes through the same parser and
checks. It finds the first step whose arithmetic is false or whose value the gold rationale does not reach, else the
step where the path stops short; it explains with that evidence, and it goes on from the kept steps to
the gold answer by the rationale's own steps. Equal input gives equal output. It raises nothing for what a model wrote;
where it cannot correct (no rationale) it says so in words that no parser takes for a correction.
"""

from dataclasses import dataclass
from fractions import Fraction

from lema_core.corrections import Shape, render_choice_correction, render_correction
from lema_core.reference_corrector.diagnosis import Diagnosis, diagnose
from lema_core.reference_corrector.equations import Equation, numbers
from lema_core.reference_corrector.explanations import explain, sentence
from lema_core.reference_corrector.gold_rationale import Knowledge, Step, know, read_steps
from lema_core.reference_corrector.repair import missing_steps, plain, repaired, with_result
from lema_core.steps import same_step, split_path

__all__ = ["Problem", "correct"]

DECLINED = "No gold rationale is known for this question, so no step can be shown to be wrong."


@dataclass(frozen=True, slots=True)
class Problem:
    """What the reference corrector knows of a question."""

    question: str
    gold: str
    rationale: str | None = None
    candidates: tuple[str, ...] | None = None


def correct(problem: Problem, path_text: str, shape: Shape = "steps") -> str:
    """Return the correction of a mistaken path as a teacher would write it."""
    if shape == "choice":
        return _correct_choice(problem, path_text)
    path = split_path(path_text)
    steps = read_steps(path_text)
    if problem.rationale is None or not steps:
        return DECLINED
    known = know(problem.question, problem.rationale, problem.gold)
    answer_line = f"The answer is {problem.gold.strip().rstrip('.')}."
    if not any(step.equations for step in known.steps):
        return _correct_prose(steps, known, answer_line, _number(problem.gold))
    diagnosis = diagnose(steps, known, _number(problem.gold))
    new, missing = _continuation(diagnosis, steps, known)
    explanation = explain(diagnosis, steps, known, missing, _stated(path.answer_line))
    return render_correction(diagnosis.step, explanation, new, answer_line)


def _continuation(diagnosis: Diagnosis, steps: tuple[Step, ...], known: Knowledge) -> tuple[list[str], list[Step]]:
    """Return the corrected steps and, of the rationale, the steps among them."""
    index = diagnosis.step - 1
    kept, wrong = steps[:index], steps[index]
    if diagnosis.kind == "answer_line":
        return [wrong.text], []
    if diagnosis.kind == "past_the_goal":
        return [f"{_sentence_value(kept)} is what the question asks for, so nothing more has to be computed."], []
    if diagnosis.kind == "stops_short":
        missing = missing_steps(steps[: index + 1], known)
        return [wrong.text, *_texts(missing)], missing
    if diagnosis.kind == "no_way_on":
        missing = missing_steps(kept, known)
        return _texts(missing), missing
    mended = repaired(wrong, diagnosis, known)
    if mended is None:
        missing = missing_steps(kept, known)
        return _texts(missing), missing
    (mended_step,) = read_steps(f"Step 1: {mended}") or (wrong,)
    missing = missing_steps((*kept, mended_step), known)
    final = known.steps[-1].value
    done = mended_step.value is not None and mended_step.value == final
    return [mended, *([] if done else _texts(missing))], [] if done else missing


def _sentence_value(kept: tuple[Step, ...]) -> str:
    value = kept[-1].value if kept else None
    return plain(value) if value is not None else "This"


def _texts(steps: list[Step]) -> list[str]:
    return [sentence(step.text) for step in steps]


def _correct_prose(steps: tuple[Step, ...], known: Knowledge, answer_line: str, gold: Fraction | None) -> str:
    """Correct a path to a question whose rationale computes nothing that we can read."""
    if (slip := _slip_to_gold(steps, gold)) is not None:
        number, equation = slip
        mended = with_result(steps[number - 1].text, equation, equation.computed)
        explanation = f"Step {number} states {equation.text}, but the result is {plain(equation.computed)}."
        return render_correction(number, explanation, [mended], answer_line)
    agreed = 0
    while agreed < min(len(steps), len(known.steps)) - 1 and same_step(steps[agreed].text, known.steps[agreed].text):
        agreed += 1
    right = _texts(list(known.steps[agreed:]))
    explanation = f"Step {agreed + 1} leaves the way that leads to the answer. What holds at this point is: {right[0]}"
    return render_correction(agreed + 1, explanation, right, answer_line)


def _slip_to_gold(steps: tuple[Step, ...], gold: Fraction | None) -> tuple[int, Equation] | None:
    """Return a step whose only fault is a wrong result where the right one is the gold answer."""
    for number, step in enumerate(steps, 1):
        for equation in step.equations[-1:]:
            if gold is not None and equation.computed == gold != equation.value:
                return number, equation
    return None


def _correct_choice(problem: Problem, path_text: str) -> str:
    """Correct a path to a multiple choice question: what it settled on, what fits instead, and why if that is known."""
    gold = problem.gold.strip()
    meaning = _candidate(problem)
    said = _stated(split_path(path_text).answer_line)
    settled = (
        f"The solution settles on {said}, which is not the best choice." if said else "The solution makes no choice."
    )
    mistakes = f"{settled} Of the candidates, {meaning} fits the question best."
    reason = " ".join(split_path(problem.rationale).steps) if problem.rationale else ""
    reason = reason or f"Compared with the other candidates, {meaning} is what the question describes."
    return render_choice_correction(mistakes, f"{reason} The answer is {gold.rstrip('.')}.")


def _candidate(problem: Problem) -> str:
    """Return the gold choice's text where the gold answer is its letter."""
    gold, candidates = problem.gold.strip().strip("()."), problem.candidates or ()
    index = ord(gold.upper()) - ord("A") if len(gold) == 1 and gold.isalpha() else -1
    return candidates[index] if 0 <= index < len(candidates) and gold not in candidates else gold


def _stated(answer_line: str | None) -> str:
    """Return the answer a final answer line states."""
    if answer_line is None:
        return ""
    return answer_line.rpartition(" is ")[2].strip().rstrip(".") or answer_line


def _number(gold: str) -> Fraction | None:
    found = numbers(gold)
    return found[0] if len(found) == 1 else None
