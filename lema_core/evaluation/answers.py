"""A model's answers to held-out questions: greedy ones, judged (paper, section 3.3: pass@1), and maj@k of sampled ones.

Every question gives one greedy row, also where the request failed or the answer cannot be decided: items stay paired,
and what is not right is not right. Sampled answers vote by equivalence, as the matcher sees it: 0.5 and 1/2 are one
answer. They are sampled beside the greedy answers and never in place of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

from lema_core.answers import judge, majority_vote
from lema_core.errors import DataError
from lema_core.evaluation import statistics
from lema_core.evaluation.statistics import Estimate, Proportion
from lema_core.llm.requests import Outcome, Sampling
from lema_core.questions import get_task
from lema_core.reasoning_paths import PathRequest, PromptKind, parse_path, path_requests, path_row
from lema_core.records import JudgedPath, Question, ReasoningPath, Rejection

FAILED = "failed"
"""The verdict of a question without an answer: the request failed for good, or the model wrote nothing."""


def greedy_requests(questions: Iterable[Question], max_tokens: int, prompt: PromptKind) -> Iterator[PathRequest]:
    """Yield one request per question, at temperature 0."""
    return path_requests(questions, Sampling(temperature=0, max_tokens=max_tokens, seed=0), 1, prompt)


def judge_answer(asked: PathRequest, model: str, outcome: Outcome) -> JudgedPath:
    """Return the judged answer to one question."""
    path = parse_path(asked.question, asked.sample_index, model, outcome)
    if isinstance(path, Rejection):
        row = path_row(asked.question, asked.sample_index, model, path.detail)
        return _to_judged_path(row, verdict=FAILED, answer=None, decided_by="none")
    # An answer that cannot be decided is kept: it is not right, but it has a vote in maj@k.
    return _to_judged_path(path, **asdict(judge(path.text, path.gold, get_task(path.task).family, path.candidates)))


def _to_judged_path(path: ReasoningPath, **judgement: Any) -> JudgedPath:
    return JudgedPath(**{field.name: getattr(path, field.name) for field in fields(ReasoningPath)}, **judgement)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteScore:
    """One model's accuracy where the majority of ``k`` samples answers."""

    name: str
    k: int
    accuracy: Proportion
    """A tie counts by the share of the tied answers that are right."""
    difference: Estimate | None
    """To the base model on the same items (bootstrap over items); None for the base model itself."""


def score_votes(tables: Mapping[str, Iterable[JudgedPath]], base: str = "base") -> tuple[VoteScore, ...]:
    """Return maj@k of each model, in the order of ``tables``; a model's rows come question by question.

    Raises:
        DataError: no rows, questions with different numbers of samples, or models asked different questions.
    """
    if not tables:
        return ()
    voted = {name: _vote_shares(name, rows) for name, rows in tables.items()}
    first, reference = next(iter(voted.values())), voted.get(base)
    for name, found in voted.items():
        if found.keys() != first.keys():
            raise DataError(f"maj@k: {name} was asked other questions than the first model: evaluate both on the same.")
    scores = []
    for name, found in voted.items():
        value, k = [found[item][0] for item in first], max(k for _, k in found.values())
        difference = None
        if reference is not None and name != base:
            difference = statistics.paired_bootstrap([reference[item][0] for item in first], value)
        accuracy = statistics.wilson(sum(value), len(value))
        scores.append(VoteScore(name=name, k=k, accuracy=accuracy, difference=difference))
    return tuple(scores)


def _vote_shares(name: str, rows: Iterable[JudgedPath]) -> dict[str, tuple[float, int]]:
    """Return each question's (share of the vote that is right, samples)."""
    found: dict[str, tuple[float, int]] = {}
    for question, paths in groupby(rows, key=lambda row: row.question_id):
        item = list(paths)
        found[question] = (statistics.majority_credit(_classes(item)), len(item))
    if len({k for _, k in found.values()}) != 1:
        raise DataError(f"maj@k: {name} has {len(found)} questions with different numbers of samples; expected one k.")
    return found


def _classes(item: list[JudgedPath]) -> list[tuple[str | None, bool]]:
    """Return each sample as (its class, whether it is right): two spellings of one wrong answer vote together."""
    vote = majority_vote([row.answer for row in item], get_task(item[0].task).family, item[0].candidates)
    classes = {position: str(number) for number, members in enumerate(vote.classes) for position in members}
    return [(classes.get(position), row.verdict == "right") for position, row in enumerate(item)]
