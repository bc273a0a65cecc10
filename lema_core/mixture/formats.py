"""Rows of the pool as fine-tuning examples: the paper's two input-output formats, their ablations, and later methods.

CoT: question to path. Correction: question and wrong path to step, explanation and corrected solution. Critique
(arXiv 2501.17703): question and any path to what is wrong in it. Refinement: question, wrong path and explanation to
the corrected solution. Fix and continue, fresh restart (LEMMA, arXiv 2503.17439): question to a path that goes wrong,
says so, and goes on or starts again, as a model would write it when asked. Preference (Step-DPO, arXiv 2406.18629): the
shared steps, the right step and the wrong one. All in both shapes: with steps, and multiple choice without; what
answers with a second solution is not for tasks whose whole text is the answer.
"""

from collections.abc import Mapping
from dataclasses import replace

from lema_core.errors import ConfigError
from lema_core.mixture.arms import CONTINUED, MASKED, Arm, Format
from lema_core.prompts import correction_input, correction_output, fingerprint, load, path_input, solution_block
from lema_core.questions import Task, get_task
from lema_core.records import Correction, Example, JudgedPath, MaskedExample, Question, content_id
from lema_core.steps import numbered_path, split_path

SOUND = "Every step of the solution is correct.\nConclusion: right."
SOUND_CHOICE = "The reasoning is correct.\nConclusion: right."
CONTINUE = "Wait: {wrong} is wrong."
RESTART = "Wait: {wrong} is wrong. Let me start again."
"""What stands between the wrong beginning and the explanation, or the new solution."""
FORMATS_VERSION = 1
"""Raised when a format would make another example of the same row."""
WITHOUT: dict[str, str] = {
    "without_step": "step",
    "without_explanation": "explanation",
    "without_solution": "solution",
}


def prompt_identity(task: str) -> str:
    """Return the hash of the prompts' parts that examples of a task are made with, for the artifact's identity."""
    prompts = get_task(task).prompts
    parts = [fingerprint(prompts, part) for part in ("path", "correction", "critique", "refinement")]
    return content_id("formats", FORMATS_VERSION, *parts)


def example_of_rationale(question: Question, weight: float = 1.0) -> Example | None:
    """Return the CoT example of a question's own rationale, None where it has none."""
    if question.rationale is None:
        return None
    text = path_input(get_task(question.task).prompts, question.text, question.candidates)
    return _example("cot", question.id, question.id, text, question.rationale, weight)


def example_of_path(path: JudgedPath, form: Format, weight: float = 1.0) -> Example:
    """Return the example of a right path, as CoT or as a critique that finds nothing wrong; or of any path, for KTO.

    For KTO its kind is ``desirable`` where the path is right, else ``undesirable``.
    """
    task = get_task(path.task)
    if form == "critique":
        text = _critique_input(task, path.question, path.text, path.candidates)
        sound = SOUND if task.shape == "steps" else SOUND_CHOICE
        return _example("critique", path.id, path.question_id, text, sound, weight)
    text = path_input(task.prompts, path.question, path.candidates)
    kind = "cot"
    if form == "kto":
        kind = "desirable" if path.verdict == "right" else "undesirable"
    return _example(kind, path.id, path.question_id, text, _answer(path), weight, path.thinking)


def _answer(path: JudgedPath) -> str:
    return numbered_path(path.text) if get_task(path.task).shape == "steps" else path.text.strip()


def preference_of_paths(right: JudgedPath, wrong: JudgedPath) -> Example:
    """Return the pair of a right path and a wrong one of the same question: nothing is shared but the input."""
    text = path_input(get_task(right.task).prompts, right.question, right.candidates)
    better, worse = _answer(right), _answer(wrong)
    return Example(
        id=content_id("example", "preference", right.id, wrong.id, text, better, worse),
        kind="preference",
        source_id=right.id,
        question_id=right.question_id,
        input=text,
        output=better,
        worse=worse,
    )


def check_formats(arm: Arm, task: str) -> None:
    """Refuse an arm whose formats cannot be made of a task's answers.

    Raises:
        ConfigError: its outputs hold two solutions, and the task takes the whole output as the answer.
    """
    asked = get_task(task)
    forms = {view.format for view in (*arm.views, *arm.fill)} & CONTINUED
    if forms and asked.shape == "whole":
        raise ConfigError(
            f"The arm {arm.name!r} has the format {min(forms)!r}, an answer that goes wrong and is put right, but of "
            f"the task {asked.name!r} the whole text is the answer. Leave the arm out; lema and critique can be used."
        )


def example_of_correction(
    row: Correction, form: Format, weight: float = 1.0, solutions: Mapping[str, str] | None = None
) -> Example | None:
    """Return the example of an accepted correction in one of the formats.

    Args:
        row: the correction.
        form: the format.
        weight: of its loss.
        solutions: by question, a whole solution: what ``fresh_restart`` starts again with. None is returned without.
    """
    if form == "preference":
        return preference_of_correction(row)
    if form in CONTINUED:
        return _continued(row, form, weight, solutions or {})
    task = get_task(row.task)
    if form in ("cot", "corrected_path"):
        text, output, kind = path_input(task.prompts, row.question, row.candidates), row.spliced, "cot"
    elif form == "critique":
        text = _critique_input(task, row.question, row.original, row.candidates)
        output, kind = f"{_found(task, row)}\nConclusion: wrong.", "critique"
    elif form == "refinement":
        block = solution_block(row.question, row.original, row.candidates, task.shape)
        text = (
            f"{load(task.prompts).refinement.instruction}\n\n{block}\nCritique: {_found(task, row)}\nCorrect Solution:"
        )
        output, kind = row.spliced, "refinement"
    else:
        left_out = WITHOUT.get(form)
        named = left_out != "step"
        text = correction_input(task.prompts, row.question, row.original, row.candidates, task.shape, cue=named)
        output = correction_output(
            row.step,
            None if left_out == "explanation" else row.explanation,
            None if left_out == "solution" else row.correct_solution,
            name_step=named,
            shape=task.shape,
        )
        kind = "correction"
    # The teacher's thinking led to the correction as it wrote it, and to no other format of the row.
    thinking = row.thinking if kind == "correction" and form not in WITHOUT else ""
    return _example(kind, row.id, row.question_id, text, output, weight, thinking)


def _continued(row: Correction, form: Format, weight: float, solutions: Mapping[str, str]) -> Example | None:
    """Return a path that goes wrong and is put right in the same answer."""
    task = get_task(row.task)
    if task.shape == "steps":
        before, wrong = _lines(row.original)[: row.step - 1], _lines(row.original)[row.step - 1 : row.step]
        corrected, named = _lines(row.spliced)[row.step - 1 :], f"Step {row.step}"
    else:
        # Without its answer line: the answer that counts is the one at the end.
        parts = split_path(row.original)
        before, wrong = [], [" ".join(parts.steps)]
        corrected, named = [row.spliced.strip()], "this reasoning"
    if form == "fresh_restart":
        if (again := solutions.get(row.question_id)) is None:
            return None
        after = [RESTART.format(wrong=named), again]
    else:
        # On one line, as every step is: a line of its own that begins with "Step 2:" would be read as one.
        after = [f"{CONTINUE.format(wrong=named)} {' '.join(row.explanation.split())}", *corrected]
    kind = "fresh_restart" if form == "fresh_restart" else "fix_continue"
    text = path_input(task.prompts, row.question, row.candidates)
    example = _example(kind, row.id, row.question_id, text, "\n".join([*before, *wrong, *after]), weight)
    if form not in MASKED:
        return example
    start = len("\n".join([*before, ""]))
    span = (start, start + len("\n".join([*wrong, ""])))
    fields = {name: getattr(example, name) for name in Example.__slots__}
    return replace(
        MaskedExample(**fields, masked=span), id=content_id("example", kind, row.id, text, example.output, *span)
    )


def _lines(path: str) -> list[str]:
    return numbered_path(path).splitlines()


def _critique_input(task: Task, question: str, path: str, candidates: tuple[str, ...] | None) -> str:
    block = solution_block(question, path, candidates, task.shape)
    return f"{load(task.prompts).critique.instruction}\n\n{block}\nCritique:"


def _found(task: Task, row: Correction) -> str:
    """Return what is wrong: the step, where the shape has steps, and the explanation."""
    return f"Step {row.step} is wrong. {row.explanation}" if task.shape == "steps" else row.explanation


def _example(
    kind: str, source: str, question: str, text: str, output: str, weight: float, thinking: str = ""
) -> Example:
    return Example(
        id=content_id("example", kind, source, text, output),
        kind=kind,
        source_id=source,
        question_id=question,
        input=text,
        output=output,
        weight=weight,
        thinking=thinking,
    )


def preference_of_correction(row: Correction) -> Example:
    """Return the pair of an accepted correction: input and ``prefix`` are read, ``output`` is preferred to ``worse``.

    A step that others follow ends in a line break, so that a model learns neither to stop nor to go on too early. In
    the shape without steps the whole solutions are compared.
    """
    task = get_task(row.task)
    text = path_input(task.prompts, row.question, row.candidates)
    prefix, right, wrong = "", row.spliced.strip(), row.original.strip()
    if task.shape == "steps":
        corrected, at = numbered_path(row.spliced).splitlines(keepends=True), row.step - 1
        prefix, right = "".join(corrected[:at]), "".join(corrected[at : at + 1])
        wrong = "".join(numbered_path(row.original).splitlines(keepends=True)[at : at + 1])
    return Example(
        id=content_id("example", "preference", row.id, text, prefix, right, wrong),
        kind="preference",
        source_id=row.id,
        question_id=row.question_id,
        input=text,
        prefix=prefix,
        output=right,
        worse=wrong,
    )
