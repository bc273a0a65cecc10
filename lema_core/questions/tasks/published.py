"""The tasks over published sets: GSM8K, MATH, CommonsenseQA, SVAMP, ASDiv, and LeMa's own evaluation files.

LeMa's files (github.com/microsoft/LEMA, ``evaluation/data``) hold a whole prompt in each row. The prompts are what the
released checkpoints were trained on, so they are sent word for word. Two shapes: a worked solution that ends in its
answer (GSM8K, SVAMP, ASDiv), and an answer among candidates (CommonsenseQA).
"""

import re
from collections.abc import Mapping

from lema_core.answers import extract, match
from lema_core.errors import DataError
from lema_core.questions.tasks.task import Draft, HubDataset, Row, Task, Unusable, rationale_from

GOLD_MARK = "####"
ONE_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\([^()]*\))?")


def _gsm8k(row: Row) -> Draft:
    rationale, mark, gold = str(row["answer"]).rpartition(GOLD_MARK)
    if not mark:
        raise DataError(f"`answer` has no line `{GOLD_MARK} <gold>`; it ends in {str(row['answer'])[-60:]!r}")
    gold = gold.strip()
    return Draft(text=str(row["question"]), gold=gold, rationale=rationale_from(rationale, gold))


GSM8K = Task(
    name="gsm8k",
    family="numeric",
    prompts="gsm8k",
    fields=("question", "answer"),
    draft=_gsm8k,
    hub=HubDataset("openai/gsm8k", config="main"),
    on_duplicate="reject",
)
"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems; 7,473 train, 1,319 test."""


def _svamp(row: Row) -> Draft:
    body = str(row["Body"]).strip()
    # Many bodies end without a full stop, in the middle of "Body, Question" or before a new sentence.
    joint = " " if body.endswith((".", "!", "?", ",")) else ". "
    gold = str(row["Answer"]).removesuffix(".0")  # every answer is a float, and nearly all are whole numbers
    return Draft(
        text=f"{body}{joint}{str(row['Question']).strip()}", gold=gold, subject=str(row.get("Type", "")) or None
    )


SVAMP = Task(
    name="svamp",
    family="numeric",
    prompts="gsm8k",
    fields=("Body", "Question", "Answer"),
    draft=_svamp,
    hub=HubDataset("ChilleD/SVAMP", train=None, test="*"),  # it cuts the 1,000 in 700 and 300; the paper tests on all
    on_duplicate="reject",
)
"""SVAMP (Patel et al., arXiv 2103.07191): 1,000 one-step word problems, for evaluation. Trained on GSM8K's data."""


def _asdiv(row: Row) -> Draft | Unusable:
    text = f"{_value(row, 'Body')} {_value(row, 'Question')}"
    answer = _value(row, "Answer")
    number = ONE_NUMBER.fullmatch(answer)
    if number is None:
        return Unusable("not_numeric", f"the answer {answer!r} is not one plain number", text)
    key = _value(row, "ID") or None
    level, subject = _value(row, "Grade") or None, _value(row, "Solution-Type") or None
    return Draft(text=text, gold=number[1], level=level, subject=subject, key=key)


def _value(row: Row, field: str) -> str:
    """Return a field of the published XML, or of the Hub's rows, which spell it in lower case."""
    return str(row.get(field, row.get(field.lower().replace("-", "_"), ""))).strip()


ASDIV = Task(
    name="asdiv",
    family="numeric",
    prompts="gsm8k",
    draft=_asdiv,
    hub=HubDataset("EleutherAI/asdiv", config="asdiv", train=None, test="validation"),
    on_duplicate="reject",
    repeats_texts=True,
)
"""ASDiv (Miao et al., arXiv 2106.15772): 2,305 word problems; the paper evaluates the 2,084 with a numeric answer.

The rule that gives exactly this number: the answer is one plain number, with or without a unit in parentheses. Out go
several values (``5 (red); 3 (blue)``), ratios, fractions, times of day, names and yes or no.
"""


_BOX = re.compile(r"\\(?:boxed|fbox)")
_ONE_OF_SEVERAL = re.compile(r"\bnot both\b|\bonly one of\b", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed_gold(solution: str, problem: str = "") -> str | None:
    r"""Return the answer in the last ``\boxed{...}`` or ``\fbox{...}`` (or ``\boxed 5``), None if there is none.

    ``\boxed{-2} and \boxed{1}`` is one answer, joined as in a student's path; of ``\boxed{x+1}, or \boxed{1+x}``, one
    value written twice, the last is it, and so it is where the problem asks for one of several.
    """
    found = _last_boxed(solution)
    if found is None:
        return None
    last, end = found
    if _ONE_OF_SEVERAL.search(problem):
        return last
    # What stands behind the box ("so our answer is correct") must not be read as the answer.
    joined = extract(solution[:end], "latex").value or last
    earlier = joined.removesuffix(f", {last}")
    return last if earlier == joined or match(last, earlier, "latex").outcome == "equal" else joined


def _last_boxed(text: str) -> tuple[str, int] | None:
    """Return the last box's content and where the box ends."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if not text.startswith("{", start):
        content = text[start:].split("$", maxsplit=1)[0]
        return (content.strip(), start + len(content)) if content.strip() else None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start + 1 : brace.start()].strip(), brace.end()
    return None


_SECOND = re.compile(r"^[ \t]*[-\u2013\u2014]{1,4}[ \t]*OR[ \t]*[-\u2013\u2014]{1,4}[ \t]*$", re.MULTILINE)
"""What stands between two solutions of one MATH problem: ``- OR -``."""


def _first_solution(text: str) -> str:
    """Return the first of several solutions: the others are further solutions, no further steps."""
    found = _SECOND.search(text)
    return text[: found.start()] if found and text[: found.start()].strip() else text


def _math(row: Row) -> Draft:
    solution = str(row["solution"])
    problem = str(row["problem"])
    gold = boxed_gold(solution, problem)
    if gold is None:
        raise DataError(f"`solution` has no \\boxed answer; it ends in {solution[-60:]!r}")
    rationale = rationale_from(_first_solution(solution), f"${gold}$")
    subject = str(row.get("type", "")) or None
    level = str(row.get("level", "")).removeprefix("Level ") or None
    return Draft(text=problem, gold=gold, rationale=rationale, level=level, subject=subject)


MATH = Task(
    name="math",
    family="latex",
    prompts="math",
    fields=("problem", "solution"),
    draft=_math,
    hub=HubDataset("DigitalLearningGmbH/MATH-lighteval"),
    on_duplicate="reject",
    revision=3,
)


def _math500(row: Row) -> Draft:
    solution, gold = str(row["solution"]), str(row["answer"]).strip()
    return Draft(
        text=str(row["problem"]),
        gold=gold,
        rationale=rationale_from(_first_solution(solution), f"${gold}$"),
        level=str(row.get("level", "")).removeprefix("Level ") or None,
        subject=str(row.get("subject", "")) or None,
    )


MATH500 = Task(
    name="math500",
    family="latex",
    prompts="math",
    fields=("problem", "solution", "answer", "unique_id"),
    draft=_math500,
    hub=HubDataset("HuggingFaceH4/MATH-500", train=None),
    on_duplicate="reject",
    on_gold="reject",
)
"""MATH-500 (Lightman et al., arXiv 2305.20050): the 500 of MATH's test problems that later work evaluates on."""


def _gsm_plus(row: Row) -> Draft | Unusable:
    text, gold = str(row["question"]), str(row["answer"]).strip()
    if gold.casefold() in {"none", "null", ""}:
        return Unusable("no_answer", "it leaves out what an answer needs (critical thinking)", text)
    rationale = rationale_from(str(row.get("solution") or ""), gold)
    return Draft(text=text, gold=gold, rationale=rationale, subject=str(row.get("perturbation_type", "")) or None)


def _gsm_plus_task(name: str, split: str) -> Task:
    return Task(
        name=name,
        family="numeric",
        prompts="gsm8k",
        fields=("question", "answer", "perturbation_type") if split == "test" else (),
        draft=_gsm_plus,
        hub=HubDataset("qintongli/GSM-Plus", train=None, test=split),
        on_duplicate="reject",
        on_gold="reject",
    )


GSM_PLUS = _gsm_plus_task("gsm_plus", "test")
"""GSM-Plus (Li et al., arXiv 2402.19255): each of GSM8K's test questions in eight perturbations; 10,552 rows.

``subject`` is the perturbation. An eighth of the rows is *critical thinking*: what the answer needs is left out, so
they have none, and are rejected rows here.
"""
GSM_PLUS_MINI = _gsm_plus_task("gsm_plus_mini", "testmini")
"""The 2,400 rows that GSM-Plus's authors give for quick trials."""


def _aime(row: Row) -> Draft:
    """Read AIME's rows in any of the spellings that the data sets on the Hub have."""
    found = {str(name).casefold().replace(" ", "_"): value for name, value in row.items()}
    text = next((str(found[name]) for name in ("problem", "question") if found.get(name)), None)
    if text is None:
        raise DataError("it has neither `problem` nor `question`")
    solution = str(found.get("solution") or "")
    gold = str(found["answer"]).strip() if found.get("answer") is not None else boxed_gold(solution, text)
    if not gold:
        raise DataError("it has neither `answer` nor a \\boxed answer in `solution`")
    # Published as three digits, 033, or as a number: every answer is a whole number from 0 to 999.
    gold = str(int(gold)) if gold.isascii() and gold.isdecimal() else gold
    rationale = rationale_from(solution, f"${gold}$") if solution else None
    return Draft(text=text, gold=gold, rationale=rationale, subject=str(found.get("year") or "") or None)


def _aime_task(name: str, hub: HubDataset) -> Task:
    return Task(
        name=name, family="latex", prompts="math", draft=_aime, hub=hub, on_duplicate="reject", on_gold="reject"
    )


AIME24 = _aime_task("aime24", HubDataset("HuggingFaceH4/aime_2024", train=None, test="train"))
"""The 30 problems of the American Invitational Mathematics Examination of 2024; the data set has one part, `train`."""
AIME25 = _aime_task("aime25", HubDataset("math-ai/aime25", train=None))
"""Those of 2025."""


def _csqa(row: Row) -> Draft:
    question = row["question"]
    # The published files nest stem and choices in `question`; the Hub's rows have them side by side.
    stem, choices = (
        (question["stem"], question["choices"]) if isinstance(question, Mapping) else (question, row["choices"])
    )
    if isinstance(choices, Mapping):
        texts = dict(zip(map(str, choices["label"]), map(str, choices["text"]), strict=True))
    else:
        texts = {str(choice["label"]): str(choice["text"]) for choice in choices}
    label = str(row["answerKey"])
    if label not in texts:
        raise DataError(f"`answerKey` is {label!r}, expected one of {', '.join(texts)}: the test part has no answers")
    return Draft(text=str(stem), gold=texts[label], candidates=tuple(texts.values()))


CSQA = Task(
    name="csqa",
    family="choice",
    shape="choice",
    prompts="csqa",
    fields=("question", "answerKey"),
    draft=_csqa,
    hub=HubDataset("tau/commonsense_qa", test="validation"),
    on_duplicate="reject",
)


ANSWER_MARK = "The answer is"


def _official_worked(row: Row) -> Draft:
    solution, mark, said = str(row["completion"]).rpartition(ANSWER_MARK)
    if not mark:
        raise DataError(f"`completion` has no `{ANSWER_MARK} <gold>`; it ends in {str(row['completion'])[-60:]!r}")
    gold = said.strip().removesuffix(".")
    return Draft(text=str(row["prompt"]), gold=gold, rationale=rationale_from(solution, gold))


def _official_choice(row: Row) -> Draft:
    candidates = row["candidates"]
    if not isinstance(candidates, list | tuple):
        raise DataError(f"`candidates` is {type(candidates).__name__}, expected the list of choices")
    return Draft(text=str(row["prompt"]), gold=str(row["answer"]), candidates=tuple(map(str, candidates)))


LEMA_OFFICIAL = Task(
    name="lema_official",
    family="numeric",
    prompts="gsm8k",
    verbatim=True,
    fields=("prompt", "completion"),
    draft=_official_worked,
)
LEMA_OFFICIAL_CSQA = Task(
    name="lema_official_csqa",
    family="choice",
    shape="choice",
    prompts="csqa",
    verbatim=True,
    fields=("prompt", "answer", "candidates"),
    draft=_official_choice,
)
