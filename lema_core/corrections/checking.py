"""One correction, checked in one call: the pipeline's own review of what a teacher wrote."""

from lema_core.answers import Family, judge
from lema_core.corrections.parsing import Shape
from lema_core.corrections.review import review_correction
from lema_core.errors import DataError
from lema_core.llm.requests import Completion
from lema_core.records import Correction, JudgedPath, Rejection, content_id


def check_correction(
    question: str,
    wrong_path: str,
    gold: str,
    teacher_text: str,
    *,
    family: Family = "numeric",
    shape: Shape = "steps",
    candidates: tuple[str, ...] | None = None,
) -> Correction | Rejection:
    """Return the correction in a teacher's text if it stands every check of the pipeline, else why not.

    Args:
        question: its text.
        wrong_path: a solution that ends in a wrong answer, one step per line.
        gold: the right answer.
        teacher_text: names the wrong step, explains it and corrects the solution from there (paper, section 2.1).
        family: how answers are read: numeric, latex, choice or text.
        shape: steps; choice for multiple choice without steps; whole for a whole solution.
        candidates: the choices of a multiple-choice question.

    Raises:
        DataError: the path's answer equals the gold answer, so that there is nothing to correct.
    """
    verdict = judge(wrong_path, gold, family, candidates)
    if verdict.verdict == "right":
        raise DataError(
            f"the answer of wrong_path, {verdict.answer!r}, equals gold {gold!r}: there is nothing to correct"
        )
    question_id = content_id("q", question, gold)
    path = JudgedPath(
        id=content_id("path", question_id, wrong_path), question_id=question_id, task="", question=question, gold=gold,
        candidates=candidates, rationale=None, level=None, student="", sample_index=0, text=wrong_path,
        finish_reason="stop", request_key="", prompt_tokens=0, completion_tokens=0, verdict=verdict.verdict,
        answer=verdict.answer, decided_by=verdict.decided_by,
    )  # fmt: skip
    written = Completion("", teacher_text, "stop", prompt_tokens=0, completion_tokens=0, model="")
    return review_correction(path, written, family=family, shape=shape)
