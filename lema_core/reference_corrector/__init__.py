"""A deterministic teacher for questions whose gold rationale is known. It is not a language model.

Contract: ``correct`` answers in the text form of any teacher (paper, section 2.1) and goes through the same parser and
checks. It finds the first step whose arithmetic is false or that computes something else than the gold rationale, else
the step that first states the wrong answer; it explains with that evidence, and it goes on from the kept steps to the
gold answer. Equal input gives equal output. It raises nothing for what a model wrote; where it cannot correct (no
rationale, a right answer without a false step) it says so in words that no parser takes for a correction.
"""

from dataclasses import dataclass
from fractions import Fraction

from lema_core.answers import Family, judge
from lema_core.corrections import Shape, render_choice_correction, render_correction
from lema_core.reference_corrector.diagnosis import diagnose, first_false
from lema_core.reference_corrector.gold_rationale import GoldRationale, analyze
from lema_core.reference_corrector.reading import Step, read_steps
from lema_core.reference_corrector.repair import continuation, explain, plain, sentences_of, with_result
from lema_core.step_checker.equations import numbers
from lema_core.steps import same_step, split_path

__all__ = ["Problem", "correct", "diagnosed_kind"]

DECLINED = "No gold rationale is known for this question, so no step can be shown to be wrong."
RIGHT = "No step of this solution can be shown to be wrong."


@dataclass(frozen=True, slots=True)
class Problem:
    """A question as the reference corrector knows it."""

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
    if first_false(steps) is None and _is_right(problem.gold, path_text):
        return RIGHT
    rationale = analyze(problem.question, problem.rationale, problem.gold)
    answer_line = f"The answer is {problem.gold.strip().rstrip('.')}."
    if not any(step.equations for step in rationale.steps):
        return _correct_prose(steps, rationale, answer_line, _number(problem.gold))
    diagnosis = diagnose(steps, rationale, _number(problem.gold), path.answer_line)
    if diagnosis is None:
        return RIGHT
    new, missing = continuation(diagnosis, steps, rationale)
    explanation = explain(diagnosis, steps, rationale, missing, _stated(path.answer_line))
    return render_correction(diagnosis.step, explanation, new, answer_line)


def diagnosed_kind(problem: Problem, path_text: str) -> str | None:
    """Return what kind of mistake a path's first wrong step is.

    None where no rationale with equations is known, or no step can be shown to be wrong.
    """
    steps = read_steps(path_text)
    if problem.rationale is None or not steps:
        return None
    rationale = analyze(problem.question, problem.rationale, problem.gold)
    if not any(step.equations for step in rationale.steps):
        return None
    diagnosis = diagnose(steps, rationale, _number(problem.gold))
    return diagnosis.kind if diagnosis else None


def _correct_prose(steps: tuple[Step, ...], rationale: GoldRationale, answer_line: str, gold: Fraction | None) -> str:
    """Correct a path to a question whose rationale computes nothing that we can read."""
    for number, step in enumerate(steps, 1):
        for equation in step.equations[-1:]:
            if gold is not None and equation.computed == gold != equation.value:  # its only fault is a wrong result
                mended = with_result(step.text, equation, equation.computed)
                explanation = f"Step {number} states {equation.text}, but the result is {plain(equation.computed)}."
                return render_correction(number, explanation, [mended], answer_line)
    agreed = 0
    while agreed < min(len(steps), len(rationale.steps)) - 1 and same_step(
        steps[agreed].text, rationale.steps[agreed].text
    ):
        agreed += 1
    right = sentences_of(list(rationale.steps[agreed:]))
    explanation = f"Step {agreed + 1} leaves the way that leads to the answer. What holds at this point is: {right[0]}"
    return render_correction(agreed + 1, explanation, right, answer_line)


def _correct_choice(problem: Problem, path_text: str) -> str:
    """Correct a path to a multiple-choice question: its choice, the right one, and the reason if that is known."""
    gold = problem.gold.strip()
    letter, candidates = gold.strip("()."), problem.candidates or ()
    index = ord(letter.upper()) - ord("A") if len(letter) == 1 and letter.isalpha() else -1
    meaning = candidates[index] if 0 <= index < len(candidates) and letter not in candidates else letter
    said = _stated(split_path(path_text).answer_line)
    settled = (
        f"The solution settles on {said}, which is not the best choice." if said else "The solution makes no choice."
    )
    mistakes = f"{settled} Of the candidates, {meaning} fits the question best."
    reason = " ".join(split_path(problem.rationale).steps) if problem.rationale else ""
    reason = reason or f"Compared with the other candidates, {meaning} is what the question describes."
    return render_choice_correction(mistakes, f"{reason} The answer is {gold.rstrip('.')}.")


def _is_right(gold: str, path_text: str) -> bool:
    """Whether the path arrives at the gold answer, whatever the task: then its steps may lead there by another way."""
    family: Family = "numeric" if _number(gold) is not None else "latex"
    return judge(path_text, gold, family).verdict == "right"


def _stated(answer_line: str | None) -> str:
    """Return the answer a final answer line states."""
    if answer_line is None:
        return ""
    return answer_line.rpartition(" is ")[2].strip().rstrip(".") or answer_line


def _number(gold: str) -> Fraction | None:
    found = numbers(gold)
    return found[0] if len(found) == 1 else None
