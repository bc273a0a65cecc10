"""What a training stage needs: memory, steps, tokens and hours, estimated before anything is loaded."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.costs.token_estimates import CHARS_PER_TOKEN
from lema_core.llm.costs.tokenizers import tokenizer_of
from lema_core.mixture.arms import Arm, View
from lema_core.records import Example, Question
from lema_core.run.artifacts import QuestionRound
from lema_core.training.estimate import check_base, estimate
from lema_core.training.launch import ranks_here
from lema_core.training.specs import LaunchSpec, TrainingSpec

SAMPLE = 200
"""Examples whose tokens are counted; a mixture is shuffled, so the first ones are a random part of it."""

Texts = Callable[[], Iterable[str]]


@dataclass(frozen=True, slots=True)
class ExampleStats:
    """The number and the length of an arm's examples, as far as they are known."""

    rows: int
    texts: Texts
    """Texts as long as the examples are."""
    basis: str
    """Where both come from, in words."""
    mean_tokens: float | None = None
    """Of an example, where they have been counted."""


def from_tokens(counts: Mapping[str, Any]) -> ExampleStats:
    """Return the statistics of published tokens, from the counts in their manifest."""
    rows = int(counts["examples"])
    return ExampleStats(rows, tuple, "the tokens", counts["tokens"] / max(1, rows))


def from_mixture(rows: int, examples: Callable[[], Iterator[Example]]) -> ExampleStats:
    """Return the statistics of a published mixture."""
    return ExampleStats(rows, lambda: map(_text, examples()), "the mixture")


def _text(example: Example) -> str:
    """Return a text as long as an example: a pair is read twice."""
    read = f"{example.input}{example.prefix}"
    pair = "" if example.worse is None else f"{read}{example.worse}"
    return f"{read}{example.output}{pair}"


def from_pool(at_most: int, questions: Callable[[], Iterable[Question]], *, pairs: bool) -> ExampleStats:
    """Return the bounds of a missing mixture, of single outputs or of preference pairs."""
    outputs = 2 if pairs else 1

    def texts() -> Iterator[str]:
        return (f"{row.text}\n{row.rationale}" * outputs for row in questions() if row.rationale)

    each = "each twice as long (a pair)" if pairs else "each as long"
    basis = f"at most the rows of its pool, {each} as the questions with their own solutions"
    return ExampleStats(at_most, texts, basis)


def pool_rows(arm: Arm, rounds: Iterable[QuestionRound], rows_of: Callable[[ArtifactRef], int]) -> int:
    """Return how many rows an arm's views find at most in a run's rounds, before screening and trimming."""
    views = (*arm.views, *arm.fill)
    return sum(_view_rows(view, question_round, rows_of) for question_round in rounds for view in views)


def _view_rows(view: View, question_round: QuestionRound, rows_of: Callable[[ArtifactRef], int]) -> int:
    where = view.where
    if where.rounds is not None and question_round.round not in where.rounds:
        return 0
    if where.evolution is not None and question_round.evolution not in where.evolution:
        return 0
    sources = {
        "rationales": (question_round.questions,),
        "right_paths": question_round.verdicts,
        "corrections": question_round.corrections.values(),
    }
    rows = sum(map(rows_of, sources[view.rows]))
    return min(rows, where.per_question * rows_of(question_round.questions)) if where.per_question else rows


def estimate_training(spec: TrainingSpec, launch: LaunchSpec, data: ExampleStats, utilisation: float) -> str:
    """Return what a training stage needs in one line, or why it is not estimated.

    Raises:
        ConfigError: the base model is named by a path that does not exist.
    """
    check_base(spec.base)
    mean, counted = _mean_tokens(spec, data)
    try:
        ranks = ranks_here(launch)
        found = estimate(spec, launch, data.rows, mean, ranks, utilisation)
    except (ConfigError, MissingDependencyError, ImportError) as error:
        return f"not estimated: {error}"
    devices = f"{ranks * launch.nodes} devices, ZeRO {launch.zero_stage}"
    hours = f" at {utilisation:.0%} MFU" if found.hours is not None else ""
    return f"{found.line()}{hours}; {devices}. Examples: {data.basis}; tokens {counted}."


def _mean_tokens(spec: TrainingSpec, data: ExampleStats) -> tuple[float, str]:
    if data.mean_tokens is not None:
        return data.mean_tokens, "counted in all of them"
    sample = list(islice(data.texts(), SAMPLE))
    if not sample:
        outputs = 2 if spec.objective == "dpo" else 1
        return float(outputs * spec.max_length), f"at most max_length ({spec.max_length}) an output"
    tokenizer = tokenizer_of(spec.base)
    if tokenizer:
        return fmean(map(tokenizer.count, sample)), f"counted in {len(sample)} by the model's tokenizer"
    return fmean(map(len, sample)) / CHARS_PER_TOKEN, f"by {CHARS_PER_TOKEN} characters each (no tokenizer here)"
