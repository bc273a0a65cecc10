"""The data of a report: plain figures, each section optional, independent of when the page is rendered.

A section without data is left out of the page. Times are those of the manifests, never of now.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lema_core.evaluation.accuracy import Evaluation, VoteScore
from lema_core.evaluation.checkpoint_selection import CheckpointScore
from lema_core.evaluation.statistics import PerplexityGap
from lema_core.records import Correction
from lema_core.verdicts import Difficulty

__all__ = ["Bill", "EvolvedFunnel", "Funnel", "LossCurve", "Provenance", "ReportData", "Selection", "Usage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many rows each stage of the data pipeline kept, and why it dropped the others."""

    questions: int
    paths: int
    verdicts: Mapping[str, int]
    """Paths by verdict: right, wrong, none, ambiguous, refused, unknown."""
    mistakes: int
    """Paths sent to the corrector."""
    corrections: int
    """Corrections that came back."""
    accepted: int
    """Of these; with several correctors, or all tries kept, a mistake may have several."""
    corrected: int
    """Mistakes with an accepted correction."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Corrections, or tries at one, that were turned down, by reason code."""
    cot: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """CoT data by where it comes from (rationales, students, teachers): rows there were, and rows that are right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolvedFunnel:
    """One round on evolved questions: from the seeds drawn to the corrections on the new questions."""

    name: str
    drawn: int
    created: int
    """Questions found in the answers."""
    novel: int
    """... that repeat nothing and are no test questions."""
    answered: int
    """... whose samples have a majority."""
    paths: int
    mistakes: int
    accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCurve:
    """Training loss of one arm."""

    arm: str
    points: tuple[tuple[int, float], ...]
    """(optimizer step, mean loss a token) in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The checkpoints of one arm, and which became its model."""

    arm: str
    scores: tuple[CheckpointScore, ...]

    @property
    def on_test(self) -> bool:
        """True where the checkpoints answered the test questions too: the paper's protocol, which leaks."""
        return any(score.test_accuracy is not None for score in self.scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens and money of one stage at one endpoint."""

    stage: str
    endpoint: str
    completions: int
    """Completions used, whichever run paid for them: each is paid for once."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """US dollars they cost; None where no price is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What the ledger had booked for a run when its report was made, over all its processes: what its budget counts."""

    answers: int
    tokens: int
    cost: float | None
    """US dollars for the answers; None where no price is known."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Attempts that were billed and gave no answer that could be used, by reason."""
    failed_tokens: int = 0
    failed_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """One artifact that went into the report."""

    stage: str
    identity: str
    """The fingerprint that names the artifact's folder."""
    rows: int
    rejected: int
    seconds: float
    """How long it took when it was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """The figures of one run. Only ``title``, ``task``, ``students`` and ``corrector`` are always set."""

    title: str
    task: str
    students: tuple[str, ...]
    """The models that make the mistakes, as a reader should see them."""
    corrector: str
    """The teacher, as a reader should see it."""
    test_task: str | None = None
    """Of the held-out questions; None: the same."""
    learner: str | None = None
    """The base model of the evaluation, as a reader should see it; None where none was evaluated."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What was run, by name."""
    notes: tuple[str, ...] = ()
    """What a careful reader has to know, such as how the base model was prompted."""
    funnel: Funnel | None = None
    """On the task's own questions."""
    evolved: tuple[EvolvedFunnel, ...] = ()
    """The rounds on evolved questions."""
    difficulty: tuple[Difficulty, ...] = ()
    """The students' results by difficulty: by level where there are several, and by share of right paths."""
    evaluation: Evaluation | None = None
    vote_scores: tuple[VoteScore, ...] = ()
    """maj@k by model, where answers were sampled."""
    curves: tuple[LossCurve, ...] = ()
    selections: tuple[Selection, ...] = ()
    """How each arm's checkpoint was chosen; empty where the last one was taken."""
    mistake_steps: Mapping[int, int] = field(default_factory=dict)
    """Accepted corrections by the step that was wrong; key 0 where the task has no steps."""
    perplexity_gaps: Mapping[str, PerplexityGap] = field(default_factory=dict)
    """delta-PPL by model (the paper's appendix)."""
    examples: tuple[Correction, ...] = ()
    usage: tuple[Usage, ...] = ()
    bill: Bill | None = None
    """What the run has paid by its ledger; None where no ledger was read."""
    provenance: tuple[Provenance, ...] = ()
