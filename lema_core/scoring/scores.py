"""What a scorer of one's own is given and returns: ``score(question, gold, text, context) -> Score``.

A scorer decides whether a text is right where no comparison of final answers can: by running a program, or by asking a
judge. It runs in a process of its own (``lema_core.scoring.pool``), so nothing it does can end a run.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from lema_core.errors import ConfigError
from lema_core.llm.requests import Sampling

ScoreVerdict = Literal["right", "wrong", "unknown"]
LONGEST_REASON = 500
"""Characters of a reason that are kept."""

SCORER_REASONS = {
    "unknown_verdict": "the scorer could not decide",
    "scorer_raised": "the scorer raised an error",
    "scorer_timeout": "the scorer did not return in time",
    "scorer_memory": "the scorer needed more memory than its limit",
    "scorer_ended": "the scorer's process ended before it returned",
    "scorer_result": "the scorer returned no Score",
    "judge_failed": "the judge's endpoint did not answer",
}
"""Why a scorer gave no verdict, by reason code."""


@dataclass(frozen=True, slots=True)
class Score:
    """A scorer's verdict on one text, with its reason in words."""

    verdict: ScoreVerdict
    reason: str = ""
    answer: str | None = None
    """The final answer that was judged, where the text has one: majority votes and reports show it."""

    def __post_init__(self) -> None:
        """Check the verdict.

        Raises:
            ConfigError: it is none of right, wrong and unknown.
        """
        if self.verdict not in get_args(ScoreVerdict):
            raise ConfigError(f"Score({self.verdict!r}): expected right, wrong or unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that a scorer may ask. The requests go through the run's ledger and budget, and a plan counts them."""

    endpoint: str
    """The endpoint's name in the run file."""
    requests: int = 1
    """The most requests for one text."""
    max_tokens: int = 256
    """The cap of an answer, in tokens."""
    temperature: float = 0.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one of them is too small.
        """
        if self.requests < 1 or self.max_tokens < 1 or self.temperature < 0:
            raise ConfigError(f"{self}: requests and max_tokens are at least 1, temperature at least 0")

    @property
    def sampling(self) -> Sampling:
        """How its answers are drawn."""
        return Sampling(temperature=self.temperature, max_tokens=self.max_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerLimits:
    """What a scorer may use for one text. Waiting for a judge or for a program that it runs does not count."""

    seconds: float = 60.0
    """Of wall time."""
    memory_mib: int = 4096
    """Of address space, for the scorer's process."""
    file_mib: int = 64
    """The size of one file that it writes."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one of them is too small.
        """
        if self.seconds <= 0 or self.memory_mib < 256 or self.file_mib < 1:
            raise ConfigError(f"{self}: seconds is above 0, memory_mib at least 256, file_mib at least 1")


class JudgeFailedError(Exception):
    """The judge's endpoint did not answer a request. Left alone, it costs the text its verdict (``judge_failed``)."""


Ask = Callable[[str | Sequence[Mapping[str, str]]], Awaitable[str]]


async def _no_judge(prompt: str | Sequence[Mapping[str, str]]) -> str:  # noqa: ARG001
    raise ConfigError("the task names no judge: add judge=Judge(endpoint=...) to its Task")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringContext:
    """What a scorer is given beside question, gold answer and text."""

    candidates: tuple[str, ...] | None = None
    """The choices of a multiple-choice question."""
    question_id: str = ""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The table ``[texts]`` of the task's prompt set."""
    folder: Path = Path()
    """An empty folder that the scorer may write in, and nowhere else. It is removed afterwards."""
    ask: Ask = _no_judge
    """``await context.ask(prompt)`` asks the judge and returns the text of its answer; for scorers that are ``async``.

    A prompt is a text or a list of chat messages. It raises `JudgeFailedError` where there is no answer.
    """


Scorer = Callable[[str, str, str, ScoringContext], Score | Awaitable[Score]]
"""``score(question, gold, text, context)``, a function or a coroutine function at the top of a module."""
