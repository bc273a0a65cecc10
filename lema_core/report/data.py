"""The figures of a run, read back from its artifacts and nothing else, as data that a page is rendered from.

Every section is optional: one without data is left out of the page. Times are those of the manifests, never of now.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from statistics import fmean

from lema_core.artifacts import ArtifactRef, Manifest, Store
from lema_core.evaluation.accuracy import Evaluation, VoteScore, score_votes
from lema_core.evaluation.checkpoint_selection import SELECTION_FILE, CheckpointScore, read_selection
from lema_core.evaluation.likelihood import BySeed, LikelihoodRow, compare_likelihoods
from lema_core.evaluation.self_correction import TurnScore, score_turns
from lema_core.evaluation.several_sets import Overall, compare_on_sets
from lema_core.evaluation.statistics import PerplexityGap, perplexity_gap
from lema_core.llm.costs.prices import cost_of, price_of
from lema_core.llm.ledger.store import LedgerStore
from lema_core.questions import get_task
from lema_core.records import Correction, JudgedPath, Question
from lema_core.report.notes import notes_of, parameters_of
from lema_core.run.artifacts import QuestionRound, RunArtifacts
from lema_core.run.spec import BASE, RunSpec
from lema_core.stages.evaluation import PERPLEXITY_FILE
from lema_core.stages.failed_requests import ANSWERED, JUDGE, REJECTED, all_failures
from lema_core.stages.likelihood import read_likelihoods
from lema_core.stages.training import read_trained_on
from lema_core.stages.unusable_answers import REFUSALS, UNUSABLE
from lema_core.training import METRICS_FILE
from lema_core.training.lengths import TrainedOn
from lema_core.verdicts import Difficulty, difficulty, right_shares

__all__ = ["Bill", "EvolvedFunnel", "Funnel", "LossCurve", "Provenance", "ReportData", "Selection", "Usage"]
EXAMPLES = 6
"""Mistakes shown side by side with their corrections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What became of the requests of one step: each is counted once."""

    refused: int = 0
    """The endpoint refused the request, or its content filter did."""
    failed: int = 0
    """No answer came: connection, deadline, overload, errors of the server."""
    unusable: int = 0
    """The answer is empty, cut off or has not the form that was asked for."""
    rejected: int = 0
    """The answer was read and turned down for what it says."""
    kept: int = 0

    @property
    def answered(self) -> int:
        """Return how many answers came."""
        return self.unusable + self.rejected + self.kept

    @property
    def total(self) -> int:
        """Return how many were asked for."""
        return self.refused + self.failed + self.answered

    @classmethod
    def of(cls, manifests: Iterable[Manifest]) -> "Asked":
        """Return the sums over the artifacts of a step."""
        counts = Counter[str]()
        for manifest in manifests:
            lost = manifest.reasons.get(REJECTED, 0)
            # A second teacher's refusal costs the row as well. Older versions counted no classes.
            refused = min(lost, sum(count for name, count in all_failures(manifest.counts).items() if name in REFUSALS))
            unusable = sum(count for reason, count in manifest.reasons.items() if reason in UNUSABLE)
            counts.update(
                refused=refused, failed=lost - refused, unusable=unusable,
                rejected=manifest.rejected - lost - unusable, kept=manifest.rows_out,
            )  # fmt: skip
        return cls(**counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """How many rows each stage of the data pipeline kept, and why it dropped the others."""

    questions: int
    paths: int
    verdicts: Mapping[str, int]
    """Paths by verdict: right, wrong, none, ambiguous, refused, unknown."""
    mistakes: int
    """Paths sent to the corrector."""
    selected: bool = True
    """Mistakes were selected: the run has corrections, and came that far."""
    corrections: int
    """Corrections that were asked for: the tries on all mistakes."""
    accepted: int
    """Of these; with several correctors, or all tries kept, a mistake may have several."""
    corrected: int
    """Mistakes with an accepted correction."""
    rejected: Mapping[str, int] = field(default_factory=dict)
    """Corrections, or tries at one, that were turned down, by reason code."""
    sampled: Asked | None = None
    """What became of the requests for the paths."""
    tried: Asked | None = None
    """What became of the requests for corrections; None where none was asked for."""
    by_student: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By student: mistakes sent to the correctors, and those of them with an accepted correction (37.5, 26.9 and 8.0 %
    for the paper's students on MATH)."""
    cot: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """CoT data by where it comes from (rationales, students, teachers): rows there were, and rows that are right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolvedFunnel:
    """A later round: from the seeds drawn to the corrections on the new questions; on the own ones none is drawn."""

    name: str
    drawn: int | None
    created: int | None
    """Questions found in the answers."""
    novel: int | None
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

    @property
    def best_three(self) -> float | None:
        """Return the mean of the three best checkpoints on held-out questions (the paper's Table 5); None of fewer."""
        return _mean_of_best([score.accuracy for score in self.scores])

    @property
    def best_three_on_test(self) -> float | None:
        """Return the same on the test questions, by which they are chosen here: it leaks."""
        return _mean_of_best([score.test_accuracy for score in self.scores if score.test_accuracy is not None])


def _mean_of_best(accuracies: list[float], count: int = 3) -> float | None:
    return fmean(sorted(accuracies)[-count:]) if len(accuracies) >= count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFigures:
    """What was measured on one test set."""

    name: str
    evaluation: Evaluation
    vote_scores: tuple[VoteScore, ...] = ()
    turns: tuple[TurnScore, ...] = ()


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
    cached_tokens: int = 0
    """Of the prompt tokens: from the endpoint's prompt cache."""
    reasoning_tokens: int = 0
    """Of the completion tokens: thinking."""

    @property
    def cached_share(self) -> float:
        """The share of the prompt tokens that came from the endpoint's prompt cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0


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
class EarlyEnd:
    """Why a run ended before its report."""

    why: str
    stage: str = ""
    """The stage that it ended in; empty where it was between two."""


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
    trained_from: str | None = None
    """The model that was fine-tuned, where by its name it is not ``learner``: then no one model learned."""
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
    """On the first test set, or the only one."""
    vote_scores: tuple[VoteScore, ...] = ()
    """maj@k by model, where answers were sampled; on the first test set."""
    turns: tuple[TurnScore, ...] = ()
    """Each model before and after it checked its own answers, where it was asked to; on the first test set."""
    test_set: str | None = None
    """The first test set's name; None: its task's."""
    further_sets: tuple[SetFigures, ...] = ()
    """The other test sets."""
    overall: Overall | None = None
    """Over all test sets, where there are several."""
    trained: Mapping[str, TrainedOn] = field(default_factory=dict)
    """What each arm's model was trained on, where it can be counted."""
    curves: tuple[LossCurve, ...] = ()
    selections: tuple[Selection, ...] = ()
    """How each arm's checkpoint was chosen; empty where the last one was taken."""
    mistake_steps: Mapping[int, int] = field(default_factory=dict)
    """Accepted corrections by the step that was wrong; key 0 where the task has no steps."""
    perplexity_gaps: Mapping[str, PerplexityGap] = field(default_factory=dict)
    """delta-PPL by model (the paper's appendix)."""
    likelihoods: Mapping[str, tuple[LikelihoodRow, ...]] = field(default_factory=dict)
    """The negative log-likelihood of the gold solutions, by test set; differences are to the first arm."""
    examples: tuple[Correction, ...] = ()
    usage: tuple[Usage, ...] = ()
    bill: Bill | None = None
    """What the run has paid by its ledger; None where no ledger was read."""
    provenance: tuple[Provenance, ...] = ()
    ended: EarlyEnd | None = None
    """Set where the run ended early: the figures are those of the stages that were published until then."""

    @property
    def sets(self) -> tuple[SetFigures, ...]:
        """Return what was measured on each test set, the first one first."""
        if self.evaluation is None:
            return ()
        name = self.test_set or self.test_task or self.task
        return SetFigures(
            name=name, evaluation=self.evaluation, vote_scores=self.vote_scores, turns=self.turns
        ), *self.further_sets

    @property
    def kept_corrections(self) -> int:
        """Return how many corrections were accepted, over all rounds."""
        return (self.funnel.accepted if self.funnel else 0) + sum(evolved.accepted for evolved in self.evolved)


def load_report_data(
    store: Store,
    run: RunSpec,
    artifacts: RunArtifacts,
    ledger: LedgerStore | None = None,
    ended: EarlyEnd | None = None,
) -> ReportData:
    """Return a run's figures, reading each table as a stream; with its ledger also what it has paid.

    Of a run that ``ended`` early, ``artifacts`` are those that it had published.

    Raises:
        ArtifactError: an artifact of the run is not in the store.
        DataError: the evaluations are not of the same questions.
    """
    corrections = [ref for collection in artifacts.rounds for ref in collection.corrections.values()]
    steps = Counter(row.step for ref in corrections for row in store.rows(ref, Correction))
    measured, overall = load_test_sets(store, run, artifacts)
    first = measured[0] if measured else None
    learner = run.endpoints[run.evaluation.base].model if run.evaluation and run.evaluation.base else None
    trained = run.training.base if run.training else None
    return ReportData(
        title=run.title or run.name,
        task=run.questions.task,
        test_task=next((spec.task for spec in run.test_sets.values()), None),
        students=_names(run, (student.endpoint for student in run.mistaken_students)),
        corrector=", ".join(_names(run, run.corrections.endpoints if run.corrections else ())) or "none",
        learner=learner,
        trained_from=trained if trained and learner and _last_part(trained) != _last_part(learner) else None,
        parameters=parameters_of(run),
        notes=tuple(notes_of(store, run, artifacts)),
        funnel=count_funnel(store, run, artifacts),
        difficulty=tuple(_difficulty(store, run, artifacts)) if corrections or not ended else (),
        # Of a round that was not finished, the mistakes and corrections would be 0 where there are none yet.
        evolved=tuple(_count_later(store, later) for later in artifacts.rounds[1:] if later.corrections or not ended),
        evaluation=first.evaluation if first else None,
        vote_scores=first.vote_scores if first else (),
        turns=first.turns if first else (),
        test_set=first.name if first else None,
        further_sets=measured[1:],
        overall=overall,
        perplexity_gaps={arm: gap for arm, ref in artifacts.perplexities.items() if (gap := _gap(store, ref))},
        likelihoods={name: _likelihoods(store, arms) for name, arms in artifacts.likelihoods.items() if arms},
        trained=count_trained(store, artifacts),
        curves=tuple(_curves(store, artifacts)),
        selections=tuple(_selections(store, artifacts)),
        mistake_steps=dict(sorted(steps.items())),
        examples=tuple(_examples(store, corrections[0])) if corrections else (),
        usage=tuple(load_usage(store, run, artifacts)),
        bill=load_bill(ledger, run.name) if ledger else None,
        provenance=tuple(_provenance(store.manifest(ref)) for ref in artifacts),
        ended=ended,
    )


def count_trained(store: Store, artifacts: RunArtifacts) -> dict[str, TrainedOn]:
    """Return what each arm's model was trained on."""
    found = ((arm, read_trained_on(store, ref, artifacts.tokens.get(arm))) for arm, ref in artifacts.models.items())
    return {arm: trained for arm, trained in found if trained}


def _last_part(model: str) -> str:
    """Return a model's name without its folder or owner: an endpoint and a training name it in their own ways."""
    return model.rstrip("/").rsplit("/", 1)[-1].lower()


def _names(run: RunSpec, endpoints: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.called(name) for name in endpoints))


def count_funnel(store: Store, run: RunSpec, artifacts: RunArtifacts) -> Funnel | None:
    """Return how many of the own questions' rows each data stage kept, None before there are verdicts.

    Teachers' paths are in its counts of CoT data only.
    """
    first = artifacts.rounds[0] if artifacts.rounds else None
    if first is None or not first.verdicts:
        return None
    judged = [store.manifest(ref) for ref in _verdicts(run, first)]
    corrected = [store.manifest(ref) for ref in first.corrections.values()]
    return Funnel(
        questions=store.manifest(first.questions).rows_out,
        paths=sum(manifest.rows_in for manifest in judged),
        verdicts=dict(sum((Counter(manifest.counts) for manifest in judged), Counter[str]())),
        mistakes=_rows(store, first.mistakes),
        selected=first.mistakes is not None,
        corrections=sum(manifest.rows_in for manifest in corrected),
        accepted=sum(manifest.rows_out for manifest in corrected),
        corrected=len({row.path_id for ref in first.corrections.values() for row in store.rows(ref, Correction)}),
        rejected=dict(sum((Counter(manifest.reasons) for manifest in corrected), Counter[str]())),
        sampled=Asked.of(map(store.manifest, _of_students(run, first.reasoning_paths))),
        tried=Asked.of(corrected) if corrected else None,
        by_student=_by_student(store, run, first),
        cot=dict(_cot(store, run, first)),
    )


def _by_student(store: Store, run: RunSpec, first: QuestionRound) -> dict[str, tuple[int, int]]:
    """Return how many of each student's mistakes were sent to the correctors, and how many have a correction."""
    if first.mistakes is None:
        return {}
    sent = {row.id: row.student for row in store.rows(first.mistakes, JudgedPath)}
    corrected = {row.path_id for ref in first.corrections.values() for row in store.rows(ref, Correction)}
    # Rows name a student by its identity; people know the model.
    endpoints = [run.endpoints[student.endpoint] for student in run.students]
    models = {endpoint.answers_as: endpoint.model for endpoint in endpoints}
    found = dict[str, tuple[int, int]]()
    for path, student in sent.items():
        name = models.get(student, student)
        mistakes, kept = found.get(name, (0, 0))
        found[name] = mistakes + 1, kept + (path in corrected)
    return found


def _verdicts(run: RunSpec, first: QuestionRound, *, teachers: bool = False) -> list[ArtifactRef]:
    """Return the verdicts on the students whose mistakes are collected, or on the teachers."""
    return _of_students(run, first.verdicts, teachers=teachers)


def _of_students(run: RunSpec, refs: Iterable[ArtifactRef], *, teachers: bool = False) -> list[ArtifactRef]:
    """Return of artifacts, one per student, those of the students whose mistakes are collected, or of the teachers."""
    # A run that ended early may have come to the first of its students only.
    asked = zip(run.students, refs, strict=False)
    return [ref for student, ref in asked if student.mistakes is not teachers]


def _cot(store: Store, run: RunSpec, first: QuestionRound) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the counts of the paper's table of CoT data: what there was, and what has the right answer."""
    rationales = sum(row.rationale is not None for row in store.rows(first.questions, Question))
    yield "rationales", (rationales, rationales)
    for name, teachers in (("paths of students", False), ("paths of teachers", True)):
        judged = [store.manifest(ref) for ref in _verdicts(run, first, teachers=teachers)]
        if judged:
            yield name, (sum(m.rows_in for m in judged), sum(m.counts.get("right", 0) for m in judged))


def _difficulty(store: Store, run: RunSpec, artifacts: RunArtifacts) -> Iterator[Difficulty]:
    """Yield the statistics of the own questions by level, where there are several, and by the share of right paths."""
    first = artifacts.rounds[0] if artifacts.rounds else None
    if first is None or not first.verdicts:
        return

    def paths() -> Iterator[JudgedPath]:
        return (row for ref in _verdicts(run, first) for row in store.rows(ref, JudgedPath))

    def corrections() -> Iterator[Correction]:
        return (row for ref in first.corrections.values() for row in store.rows(ref, Correction))

    def mistakes() -> Iterator[JudgedPath]:
        return store.rows(first.mistakes, JudgedPath) if first.mistakes else iter(())

    levels = difficulty(paths(), mistakes(), corrections())
    yield from levels if len(levels) > 1 else ()
    yield from difficulty(paths(), mistakes(), corrections(), right_shares(paths()))


def _count_later(store: Store, one: QuestionRound) -> EvolvedFunnel:
    made = [store.manifest(ref) for ref in one.made_by]
    return EvolvedFunnel(
        name=one.name,
        drawn=made[0].rows_in if made else None,
        created=made[0].rows_out if made else None,
        novel=made[1].rows_out if made else None,
        answered=_rows(store, one.questions),
        paths=sum(_rows(store, ref) for ref in one.reasoning_paths),
        mistakes=_rows(store, one.mistakes),
        accepted=sum(_rows(store, ref) for ref in one.corrections.values()),
    )


def _rows(store: Store, ref: ArtifactRef | None) -> int:
    return store.manifest(ref).rows_out if ref else 0


def load_test_sets(
    store: Store, run: RunSpec, artifacts: RunArtifacts
) -> tuple[tuple[SetFigures, ...], Overall | None]:
    """Return what was measured on each test set that models have answered, and over all of them.

    Raises:
        DataError: the evaluations of a set are not of the same questions.
    """
    measured = {name: one for name, one in artifacts.measured_on(run.test_sets).items() if one.evaluations}
    tables = {name: _judged(store, one.evaluations) for name, one in measured.items()}
    evaluations, overall = compare_on_sets(tables, BASE)
    pass_at = run.evaluation.pass_at if run.evaluation else ()
    figures = (
        SetFigures(
            name=name,
            evaluation=evaluation,
            vote_scores=score_votes(_judged(store, measured[name].votes), BASE, pass_at),
            turns=score_turns(_judged(store, measured[name].evaluations), _judged(store, measured[name].second_turns)),
        )
        for name, evaluation in evaluations.items()
    )
    return tuple(figures), overall


def _judged(store: Store, tables: Mapping[str, ArtifactRef]) -> dict[str, Iterator[JudgedPath]]:
    return {name: store.rows(ref, JudgedPath) for name, ref in tables.items()}


def _curves(store: Store, artifacts: RunArtifacts) -> Iterator[LossCurve]:
    for arm, ref in artifacts.models.items():
        rows = store.read_table(ref, METRICS_FILE, ["step", "loss"])
        points = tuple((row["step"], row["loss"]) for row in rows if row["loss"] is not None)
        yield LossCurve(arm=arm, points=points)


def _selections(store: Store, artifacts: RunArtifacts) -> Iterator[Selection]:
    for arm, ref in artifacts.models.items():
        if SELECTION_FILE in store.manifest(ref).files:
            yield Selection(arm=arm, scores=read_selection(store, ref))


def _gap(store: Store, ref: ArtifactRef) -> PerplexityGap | None:
    """Return an arm's delta-PPL over the pairs that have a finite one; None where there is no such pair."""
    rows = store.read_table(ref, PERPLEXITY_FILE, ["mistaken", "corrected"])
    pairs = [(row["mistaken"], row["corrected"]) for row in rows]
    finite = [pair for pair in pairs if all(map(isfinite, pair))]
    return perplexity_gap([pair[0] for pair in finite], [pair[1] for pair in finite]) if finite else None


def _likelihoods(store: Store, arms: Mapping[str, ArtifactRef]) -> tuple[LikelihoodRow, ...]:
    runs: dict[str, BySeed] = {arm: {None: read_likelihoods(store, ref)} for arm, ref in arms.items()}
    trained = [arm for arm in arms if arm != BASE]
    return compare_likelihoods(runs, next(iter(trained or arms)))


def _examples(store: Store, corrections: ArtifactRef) -> Iterator[Correction]:
    """Choose evenly over the table, so that the examples are not all of one question."""
    rows = store.manifest(corrections).rows_out
    stride = max(1, rows // EXAMPLES)
    yield from islice(store.rows(corrections, Correction), 0, stride * EXAMPLES, stride)


def load_bill(ledger: LedgerStore, run: str) -> Bill:
    """Return what a ledger has booked for a run.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    answers, tokens, cost, failed = ledger.bill(run)
    costs = [row[3] for row in failed if row[3] is not None]
    return Bill(
        answers=answers,
        tokens=tokens,
        cost=cost,
        failed={row[0]: row[1] for row in failed},
        failed_tokens=sum(row[2] for row in failed),
        failed_cost=sum(costs) if costs else None,
    )


def load_usage(store: Store, run: RunSpec, artifacts: RunArtifacts) -> Iterator[Usage]:
    """Yield what each stage has used at each of its endpoints."""
    for collection in artifacts.rounds:
        evolved = [*collection.made_by[:1], collection.questions] if run.evolution and collection.round else []
        asked = [*zip(evolved, run.evolution.endpoints if run.evolution else (), strict=False)]
        asked += [*zip(collection.reasoning_paths, collection.students, strict=True)]
        if collection.error_types and run.error_types and run.error_types.endpoint:
            asked.append((collection.error_types, run.error_types.endpoint))
        asked += [(ref, name) for name, ref in collection.corrections.items()]
        for ref, name in asked:
            # A model that this run fine-tuned is no endpoint of the run file, and costs nothing a token.
            endpoint = name if name in run.endpoints else None
            yield _usage_of(store.manifest(ref), run, endpoint, run.endpoints[name].model if endpoint else name)
        if run.corrections and (second := run.corrections.second):
            for ref in collection.corrections.values():
                yield _usage_of(store.manifest(ref), run, second, run.endpoints[second].model, "second_")
        for ref in (*collection.verdicts, *collection.corrections.values()):
            yield from _judge_usage(store.manifest(ref), run, run.questions.task)
    test_sets = artifacts.measured_on(run.test_sets)
    for test_set, measured in test_sets.items():
        for name, ref in (*measured.evaluations.items(), *measured.votes.items(), *measured.second_turns.items()):
            endpoint = run.evaluation.base if run.evaluation and name == BASE else None
            shown = f"{name} on {test_set}" if len(test_sets) > 1 else name
            yield _usage_of(store.manifest(ref), run, endpoint, shown)
            yield from _judge_usage(store.manifest(ref), run, run.test_sets[test_set].task)


def _judge_usage(manifest: Manifest, run: RunSpec, task: str) -> Iterator[Usage]:
    """Yield what a scorer's judge has used for an artifact, if it was asked."""
    if manifest.counts.get(f"{JUDGE}{ANSWERED}") and (judge := get_task(task).judge):
        yield _usage_of(manifest, run, judge.endpoint, f"{run.endpoints[judge.endpoint].model} as judge", JUDGE)


def _usage_of(manifest: Manifest, run: RunSpec, endpoint: str | None, shown: str, prefix: str = "") -> Usage:
    counts = manifest.counts
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens")
    tokens = [counts.get(f"{prefix}{name}", 0) for name in names]
    spec = run.endpoints[endpoint] if endpoint else None
    return Usage(
        stage=manifest.stage,
        endpoint=shown,
        completions=counts.get(f"{prefix}completions", 0),
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        cached_tokens=tokens[2],
        reasoning_tokens=counts.get(f"{prefix}reasoning_tokens", 0),
        cost=cost_of(spec, price_of(spec), *tokens) if spec else None,
    )


def _provenance(manifest: Manifest) -> Provenance:
    return Provenance(
        stage=manifest.stage,
        identity=manifest.fingerprint,
        rows=manifest.rows_out,
        rejected=manifest.rejected,
        seconds=manifest.seconds,
    )
