"""The checks of a correction against the mistaken path and the gold answer, and which of several tries are kept.

Paper, section 2.1; its only filter is the final answer.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from lema_core.answers import MAX_TEXT_CHARS, Family, judge
from lema_core.corrections.parsing import Fault, Parse, ParsedCorrection, Shape, parse_correction
from lema_core.errors import ConfigError
from lema_core.llm.requests import Completion, Outcome
from lema_core.reasoning_paths import no_answer
from lema_core.records import Correction, JudgedPath, Rejection, content_id
from lema_core.scoring.pool import Scored, TextToScore
from lema_core.scoring.scores import SCORER_REASONS
from lema_core.step_checker import false_equations
from lema_core.steps import (
    StepPath,
    number_steps,
    numbered_path,
    same_step,
    same_steps,
    splice,
    split_path,
    strip_marks,
)

REASONS = SCORER_REASONS | {
    "request_failed": "the request got no answer",
    "cut_off": "the answer was cut off by its length limit",
    "cut_in_thinking": "the teacher was cut off inside its thinking",
    "only_thinking": "the teacher wrote its thinking and no correction",
    "too_long": "the answer is longer than any stage reads",
    "unparsable": "the parts of a correction were not found",
    "step_missing": "no step is named as the incorrect one",
    "step_does_not_exist": "the named step is not one of the path's",
    "starts_elsewhere": "the corrected solution does not start at the named step",
    "earlier_steps_changed": "steps before the named one were rewritten",
    "explanation_empty": "the explanation says nothing",
    "mistake_unchanged": "the named step is repeated as it was",
    "only_the_answer": "the named step and all that follow are repeated, and only the answer line differs",
    "gold_pasted": "the right answer stands under steps that compute what the mistake computed",
    "false_equation": "a corrected step holds a false equation",
    "no_answer": "the corrected solution ends without an answer",
    "ambiguous_answer": "the corrected solution gives more than one answer",
    "refused": "the teacher declined to answer",
    "wrong_answer": "the spliced solution does not end in the gold answer",
    "unknown_equality": "it could not be decided whether the answer equals the gold answer",
    "not_shortest": "accepted, but a shorter correction of the same path was chosen",
    "duplicate": "accepted, but equal to an earlier try on the same path",
    "teachers_disagree": "the second teacher names another step",
    "second_teacher_faulty": "the second teacher's own correction was not accepted",
}
"""Every reason code of this stage."""
_VERDICT_REASONS = {
    "wrong": "wrong_answer",
    "none": "no_answer",
    "ambiguous": "ambiguous_answer",
    "refused": "refused",
    "unknown": "unknown_equality",
}
# "Step 2 is wrong." explains nothing: two words must be left without these
_EMPTY_WORDS = re.compile(
    r"\b(?:the|this|that|it|step \d+|step|is|was|are|wrong|incorrect|not|correct|right|mistaken|original|solution|"
    r"answer|an?|error|mistake|here|there|in|has|contains|explanation|none|n/a|see|above|below)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
Filter = Literal["checks", "strict", "answer"]
"""answer: what can be read and ends in the gold answer is kept, the paper's filter. checks: all checks here but that
of a repeated path with another answer line, which strict turns down too."""
_MISPLACED = ("starts_elsewhere", "earlier_steps_changed")


def review_correction(  # noqa: PLR0913  what is asked, what came, and how it is judged
    path: JudgedPath,
    outcome: Outcome,
    *,
    family: Family | None,
    shape: Shape = "steps",
    corrector: str = "",
    attempt: int = 0,
    scored: Mapping[TextToScore, Scored] | None = None,
    parse: Parse = parse_correction,
    rule: Filter = "checks",
) -> Correction | Rejection:
    """Return the correction of a mistake if it stands every check, else a rejection with its reason code.

    ``outcome`` is what the corrector's endpoint answered; ``corrector`` names it; ``attempt`` counts the tries on this
    path from 0; ``scored`` holds a scorer's verdicts on corrected solutions, in the place of the matcher's. The order
    of checks goes from what was asked for to what is harder to see; the first that fails counts. ``rule`` says which
    checks there are: see `Filter`.

    Raises:
        ConfigError: the task has neither a family nor verdicts of a scorer.
    """
    checked = _checked(path, outcome, family, shape, scored, parse, rule)
    if isinstance(checked, Fault):
        return Rejection(
            id=content_id("rejection", path.id, corrector, attempt),
            parent_id=path.id,
            reason=checked.reason,
            detail=f"{REASONS[checked.reason]}{': ' if checked.detail else ''}{checked.detail}",
            text=outcome.text if isinstance(outcome, Completion) else "",
            request_key=outcome.key,
        )
    parsed, original, spliced = checked
    solution = _corrected_text(parsed)
    completion = outcome if isinstance(outcome, Completion) else None
    false_step = first_false_step(original.steps)
    return Correction(
        id=content_id("correction", path.id, corrector, attempt, parsed.step, parsed.explanation, solution),
        path_id=path.id,
        question_id=path.question_id,
        task=path.task,
        question=path.question,
        gold=path.gold,
        candidates=path.candidates,
        level=path.level,
        student=path.student,
        corrector=corrector,
        attempt=attempt,
        original=original_of(path, shape),
        wrong_answer=path.answer,
        step=parsed.step,
        n_steps=len(original.steps),
        explanation=parsed.explanation,
        correct_solution=solution,
        spliced=spliced,
        false_step=false_step,
        request_key=outcome.key,
        prompt_tokens=completion.prompt_tokens if completion else 0,
        completion_tokens=completion.completion_tokens if completion else 0,
        step_agrees=parsed.step == false_step if parsed.step and false_step else None,
        thinking=completion.thinking if completion else "",
    )


def original_of(path: JudgedPath, shape: Shape) -> str:
    """Return a mistaken path as its correction shows it: as numbered steps, or as it is."""
    if shape == "steps":
        return numbered_path(path.text)
    return (strip_marks(path.text) if shape == "choice" else path.text).strip()


def first_false_step(steps: Sequence[str]) -> int | None:
    """Return the 1-based number of the first step whose arithmetic is proven false, or None."""
    return next((number for number, step in enumerate(steps, 1) if false_equations(step)), None)


def _corrected_text(parsed: ParsedCorrection) -> str:
    if parsed.step == 0:
        return parsed.steps[0]
    return "\n".join(part for part in (number_steps(parsed.steps, parsed.step), parsed.answer_line) if part)


def _checked(
    path: JudgedPath,
    outcome: Outcome,
    family: Family | None,
    shape: Shape,
    scored: Mapping[TextToScore, Scored] | None,
    parse: Parse,
    rule: Filter,
) -> tuple[ParsedCorrection, StepPath, str] | Fault:
    """Return the correction as it will be kept, the original's steps and the spliced solution."""
    read = _read(path, outcome, shape, parse, rule=rule)
    if isinstance(read, Fault):
        return read
    parsed, original, spliced = read
    if rule == "answer":
        return _answer_fault(path, parsed, spliced, family, scored) or read
    if len(_EMPTY_WORDS.sub(" ", parsed.explanation).split()) < 2 or not re.search(r"\w", parsed.explanation):
        return Fault("explanation_empty", repr(parsed.explanation[:80]))
    fault = _answer_fault(path, parsed, spliced, family, scored)
    return fault or _content_fault(path, parsed, original, family, rule) or read


def corrected_solution(
    path: JudgedPath,
    outcome: Outcome,
    shape: Shape = "steps",
    parse: Parse = parse_correction,
    *,
    rule: Filter = "checks",
) -> str | None:
    """Return the whole solution that an answer makes of a mistake; None where it cannot be read as a correction."""
    read = _read(path, outcome, shape, parse, rule=rule)
    return None if isinstance(read, Fault) or not read[0].steps else read[2]


def _read(
    path: JudgedPath, outcome: Outcome, shape: Shape, parse: Parse, *, rule: Filter
) -> tuple[ParsedCorrection, StepPath, str] | Fault:
    parsed: ParsedCorrection | Fault
    if not isinstance(outcome, Completion):
        parsed = Fault("request_failed", f"{outcome.reason}, {outcome.detail}")
    elif outcome.thinking and not outcome.text:
        parsed = Fault(*no_answer(outcome))
    elif outcome.finish_reason == "length":
        parsed = Fault("cut_off", f"after {outcome.completion_tokens} tokens; raise max_tokens")
    elif outcome.finish_reason == "content_filter":
        parsed = Fault("refused", "by the endpoint's content filter")
    elif len(outcome.text) > MAX_TEXT_CHARS:
        parsed = Fault("too_long", f"{len(outcome.text)} characters; at most {MAX_TEXT_CHARS}")
    else:
        parsed = parse(outcome.text, shape)
    if isinstance(parsed, Fault):
        return parsed
    original = split_path(path.text)
    aligned = parsed if shape != "steps" else _aligned(parsed, original)
    if rule == "answer" and isinstance(aligned, Fault) and aligned.reason in _MISPLACED:
        # The steps stand where the teacher said that the first wrong one is, whatever they repeat.
        aligned = replace(parsed, first_label=parsed.step)
    if isinstance(aligned, Fault):
        return aligned
    spliced = _corrected_text(aligned) if aligned.steps else ""
    if shape == "steps":
        spliced = splice(original, aligned.step, aligned.steps, aligned.answer_line)
    return aligned, original, spliced


def _aligned(parsed: ParsedCorrection, original: StepPath) -> ParsedCorrection | Fault:
    """Drop repeated earlier steps, so that the corrected steps start at the named one; else say what is wrong."""
    count, step = len(original.steps), parsed.step
    if not 1 <= step <= count:
        return Fault("step_does_not_exist", f"step {step} of {count}")
    repeats = same_step(parsed.steps[0], original.steps[0])
    if parsed.first_label is None:
        first = 1 if repeats else step
    elif parsed.first_label == 1 and parsed.elided and not repeats:
        first = step  # the steps after "..." were numbered anew
    else:
        first = max(1, parsed.first_label)
    if first > step:
        return Fault("starts_elsewhere", f"step {step} is named, the solution starts at step {first}")
    repeated = step - first
    if len(parsed.steps) <= repeated:
        return Fault("starts_elsewhere", f"step {step} is named, the solution ends before it")
    if not same_steps(parsed.steps[:repeated], original.steps[first - 1 : step - 1]):
        return Fault("earlier_steps_changed", f"step {step} is named, the solution rewrites steps before it")
    return ParsedCorrection(
        step, parsed.explanation, parsed.steps[repeated:], parsed.answer_line, step, elided=parsed.elided
    )


def _answer_fault(
    path: JudgedPath,
    parsed: ParsedCorrection,
    spliced: str,
    family: Family | None,
    scored: Mapping[TextToScore, Scored] | None,
) -> Fault | None:
    """Return why the corrected solution does not end in the gold answer (the paper's only filter)."""
    if not parsed.steps:
        return Fault("no_answer")
    if scored is not None:
        score = scored[TextToScore.of(path, spliced)]
        if score.verdict != "right":
            return Fault("wrong_answer" if score.verdict == "wrong" else score.decided_by, score.reason)
    elif family is None:
        raise ConfigError("the task has a scorer: give its verdicts on the corrected solutions as `scored`")
    else:
        judgement = judge(spliced, path.gold, family, path.candidates)
        if judgement.verdict != "right":
            detail = f"answer {judgement.answer!r}, gold {path.gold!r}"
            return Fault(_VERDICT_REASONS[judgement.verdict], detail)
    return None


def _content_fault(
    path: JudgedPath, parsed: ParsedCorrection, original: StepPath, family: Family | None, rule: Filter
) -> Fault | None:
    """Return what is wrong with a correction that leads to the gold answer."""
    if not parsed.step:  # the choice shape
        return None
    # A mistake left in place, or the gold answer pasted under it
    rest = original.steps[parsed.step - 1 :]
    # The last step may stay as it is where more steps follow: the path stopped short there.
    continues = len(rest) == 1 and len(parsed.steps) > 1
    first_same = same_step(parsed.steps[0], rest[0])
    repeated = first_same and same_steps(parsed.steps, rest)
    if repeated and rule == "strict":
        # A path whose steps are right and whose answer line is wrong has no wrong step: naming one teaches a mistake.
        return Fault("only_the_answer", f"step {parsed.step}: {rest[0][:80]!r}")
    if first_same and not continues and not repeated:
        return Fault("mistake_unchanged", f"step {parsed.step}: {rest[0][:80]!r}")
    if family is None:
        return None  # the gold answer is what the scorer takes it for, perhaps no text that a step could state
    own, theirs = _numbers(parsed.steps), _numbers(rest)
    gold_numbers = _plain_numbers(path.gold)
    if gold_numbers:
        states_gold = any(gold_numbers[-1] in _plain_numbers(step) for step in parsed.steps)
    else:
        states_gold = any(path.gold.casefold() in step.casefold() for step in parsed.steps)
    if (own == theirs or own[-1] == theirs[-1]) and not states_gold:
        return Fault("gold_pasted", f"the steps from {parsed.step} on arrive at {theirs[-1][:80]}, as the mistake did")
    return None


def _numbers(steps: Iterable[str]) -> list[str]:
    """Return the numbers of the steps; where they have none, the steps themselves: what a changed step must change."""
    chosen = [strip_marks(step) for step in steps]
    numbers = [number for step in chosen for number in _plain_numbers(step)]
    return numbers or [" ".join(step.casefold().split()) for step in chosen]


def _plain_numbers(text: str) -> list[str]:
    found = (number.replace(",", "") for number in _NUMBER.findall(text))
    return [digits.rstrip("0").rstrip(".") if "." in digits else digits for digits in found]


def select(
    reviewed: Iterable[Correction | Rejection], keep: Literal["shortest", "all"]
) -> list[Correction | Rejection]:
    """Choose among the tries on one path: the shortest accepted correction, or all that differ.

    As many rows come out as went in: an accepted correction that is not chosen becomes a rejection.
    """
    rows = list(reviewed)
    corrections = [row for row in rows if isinstance(row, Correction)]
    shortest = min(
        corrections, key=lambda row: (len(row.explanation) + len(row.correct_solution), row.attempt), default=None
    )
    seen: set[tuple[int, str, str]] = set()
    chosen: list[Correction | Rejection] = []
    for row in rows:
        content = (row.step, row.explanation, row.correct_solution) if isinstance(row, Correction) else None
        if not isinstance(row, Correction) or content is None:
            chosen.append(row)
        elif content in seen:
            chosen.append(_unchosen(row, "duplicate"))
        else:
            chosen.append(row if keep == "all" or row is shortest else _unchosen(row, "not_shortest"))
            seen.add(content)
    return chosen


def require_agreement(first: Correction, second: Correction | Rejection) -> Correction | Rejection:
    """Keep the first teacher's correction only if the second teacher's accepted one names the same step.

    A task without steps has step 0 in both: there the second teacher's correction has to be accepted as well.
    """
    if isinstance(second, Rejection):
        return _unchosen(first, "second_teacher_faulty", f"{second.reason}, {second.detail}")
    if second.step != first.step:
        return _unchosen(first, "teachers_disagree", f"step {first.step} and step {second.step}")
    return replace(first, second_key=second.request_key)


def without_false_steps(row: Correction | Rejection) -> Correction | Rejection:
    """Return the row, or a rejection of a correction of which a step's arithmetic is proven false."""
    steps = split_path(row.correct_solution).steps if isinstance(row, Correction) else ()
    found = next((false for step in steps for false in false_equations(step)), None)
    return _unchosen(row, "false_equation", repr(found.text)) if found and isinstance(row, Correction) else row


def _unchosen(row: Correction, reason: str, seen: str = "") -> Rejection:
    return Rejection(
        id=content_id("rejection", row.path_id, row.corrector, row.attempt),
        parent_id=row.path_id,
        reason=reason,
        detail=REASONS[reason] + (f": {seen}" if seen else ""),
        text=row.correct_solution,
        request_key=row.request_key,
    )
