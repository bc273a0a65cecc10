"""The training examples of an arm: a view over the pool that all arms share (paper, sections 2.3 and 3.2)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from lema_core import mixture as core
from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.errors import DataError
from lema_core.llm.requests import key_json
from lema_core.questions import get_task
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Correction, ErrorType, Example, JudgedPath, MaskedExample, Question, content_id
from lema_core.reference_corrector import sound_paths
from lema_core.run.artifacts import QuestionRound
from lema_core.stages import Section
from lema_core.stages.stage import RowCount, RowStage, fingerprint_of_model
from lema_core.training.specs import TrainingSpec
from lema_core.training.targets import target_counter


class MixtureSpec(Section):
    """How the training examples of the arms are made."""

    arms: tuple[str, ...] = ("cot", "lema")
    seed: int = 0
    """Fixes the order of the examples and what a size-matched arm leaves out."""
    sound_paths: bool = False
    """Leaves right paths out of every arm whose steps hold false arithmetic or compute what no sound solution computes:
    ``where.sound`` of all views that do not set it."""
    teachers_first: bool = False
    """Right paths of teachers (students with ``mistakes = false``) fill the paths per question before those of
    students, as the paper's CoT data do: ``where.prefer`` of all views that do not set it."""


@dataclass(frozen=True)
class Mixture(RowStage):
    """An arm's examples: equal ones once, those of test questions rejected, in the seeded order."""

    name = "mixture"
    revision = 4
    record = Example

    spec: MixtureSpec
    arm: core.Arm
    task: str
    pool: Sequence[QuestionRound]
    """The rounds that exist when the arm is built."""
    test_questions: Sequence[ArtifactRef] = ()
    """Of every test set: no example is made of one of them."""
    held_out: ArtifactRef | None = None
    training: TrainingSpec | None = None
    """Its base's tokenizer and its template decide the size of an arm that is matched by tokens."""

    @cached_property
    def identity(self) -> Identity:
        """The arm, and of the pool only what the arm reads."""
        tests = [ref.fingerprint for ref in self.test_questions]
        excluded = tests if len(tests) > 1 else next(iter(tests), None)
        plain: dict[str, object] = {
            "arm": self.arm.identity,
            "seed": self.spec.seed,
            "task": get_task(self.task).name,
            "excluded": excluded,
        }
        if get_task(self.task).reference:
            plain["shape"] = get_task(self.task).shape
        if self.arm.by_tokens:
            # What counts as a token of an arm. Other arms are not cut by tokens, and keep their names.
            plain["targets"] = _counted_by(self.training)
        if self.arm.by_soundness:
            plain["soundness"] = sound_paths.VERSION
        if self.held_out:
            plain["held_out"] = {"questions": self.held_out.fingerprint, "evolved_from_them": "left out too"}
        read = list[ArtifactRef]()
        for question_round in self.pool:
            # Only what the arm reads: another corrector makes no arm anew that has no corrections.
            rows = core.reads(self.arm, question_round.round, question_round.evolution)
            read += [question_round.questions] if "rationales" in rows else []
            read += question_round.verdicts if {"right_paths", "wrong_paths"} & rows else []
            read += question_round.corrections.values() if "corrections" in rows else []
            by_type = self.arm.by_error_type and question_round.error_types
            read += [by_type] if by_type and "corrections" in rows else []
        return self._identity(plain, read, core.prompt_identity(self.task))

    @property
    def run_name(self) -> str:
        """The stage and the arm."""
        return f"{self.name} {self.arm.name}"

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the rows of its pool: what screening and trimming leave out is in there."""
        return pool_rows(self.arm, self.pool, lambda ref: rows(ref) or 0)

    def write(self, store: Store, shard: Shard, part: PartWriter) -> None:  # noqa: ARG002
        """Build the examples."""
        pool = tuple(_source(store, question_round) for question_round in self.pool)
        for row in core.build_arm(self.arm, pool, self.rules(store)):
            part.rows_in += 1
            part.counts[row.kind if isinstance(row, Example) else "rejected"] += 1
            part.add(row)

    def check_corrections(self, store: Store) -> None:
        """Make sure that an arm with corrections in its definition holds some, once it is published.

        Raises:
            DataError: it holds none: it would be trained on the rows of another arm, under its own name.
        """
        views = [view for view in (*self.arm.views, *self.arm.fill) if view.rows == "corrections"]
        counts = store.manifest(self.ref).counts
        if not views or any(counts.get(_KINDS.get(view.format, "correction")) for view in views):
            return
        made = [store.manifest(ref) for data in self.pool for ref in data.corrections.values()]
        rejected = sum((Counter(manifest.reasons) for manifest in made), Counter[str]())
        why = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common(5))
        raise DataError(
            f"The arm {self.arm.name!r} holds no corrections although its definition has them: "
            f"{sum(manifest.rows_out for manifest in made)} of {sum(manifest.rows_in for manifest in made)} tries are "
            f"accepted{f' (rejected: {why})' if why else ''}, and its views take none of them. Nothing was trained. "
            "Look at the stage corrections, or leave the arm out."
        )

    def rules(self, store: Store) -> core.MixtureRules:
        """Return what holds for the arm: tokens are those of the model to be trained, words where none is.

        Raises:
            ConfigError: the arm is matched by tokens and the model's tokenizer can neither be found nor fetched.
        """
        excluded = (row for ref in self.test_questions for row in store.rows(ref, Question))
        held_out = frozenset[str]()
        if self.held_out:
            # Those evolved from a held-out question too: either would flatter a choice.
            kept_back = frozenset(row.id for row in store.rows(self.held_out, Question))
            later = (row for evolved in self.pool[1:] for row in store.rows(evolved.questions, Question))
            held_out = kept_back.union(row.id for row in later if row.seed_question_id in kept_back)
        return core.MixtureRules(
            seed=self.spec.seed,
            test_questions=KnownQuestions(row.text for row in excluded),
            held_out=held_out,
            count_targets=target_counter(self.training)
            if self.training and self.arm.by_tokens
            else core.count_target_words,
        )


def _counted_by(training: TrainingSpec | None) -> dict[str, object] | None:
    """Return what decides the trained tokens of an example; None where words are counted."""
    if training is None:
        return None
    frame = training.tokens_identity()
    decides = {name: value for name, value in frame.items() if name not in ("objective", "max_length", "loss_weights")}
    return decides | {"tokenizer": fingerprint_of_model(training.base)}


@dataclass(frozen=True)
class MaskedMixture(Mixture):
    """The examples of an arm with outputs of which a part is read, not trained."""

    record = MaskedExample


def pool_rows(arm: core.Arm, rounds: Iterable[QuestionRound], rows_of: Callable[[ArtifactRef], int]) -> int:
    """Return how many rows an arm's views find at most in a run's rounds, before screening and trimming."""
    views = (*arm.views, *arm.fill)
    return sum(_view_rows(view, question_round, rows_of) for question_round in rounds for view in views)


def _view_rows(view: core.View, question_round: QuestionRound, rows_of: Callable[[ArtifactRef], int]) -> int:
    where = view.where
    if where.rounds is not None and question_round.round not in where.rounds:
        return 0
    if where.evolution is not None and question_round.evolution not in where.evolution:
        return 0
    sources: dict[core.Rows, Iterable[ArtifactRef]] = {
        "rationales": (question_round.questions,),
        "right_paths": question_round.verdicts,
        "wrong_paths": question_round.verdicts,
        "corrections": question_round.corrections.values(),
    }
    rows = sum(map(rows_of, sources[view.rows]))
    return min(rows, where.per_question * rows_of(question_round.questions)) if where.per_question else rows


_KINDS = {
    "critique": "critique",
    "refinement": "refinement",
    "preference": "preference",
    "corrected_path": "cot",
    "fix_continue": "fix_continue",
    "fix_continue_masked": "fix_continue",
    "fresh_restart": "fresh_restart",
}
"""What examples of corrections are called, by format; those of other formats are corrections."""


@dataclass(frozen=True, slots=True)
class ArmExamples:
    """An arm's published or coming examples, and what else decides its model."""

    name: str
    ref: ArtifactRef
    definition: object
    training: object
    """How the arm is trained: the same examples trained in another way are another model."""
    record: type[Example] = Example


def check_distinct(store: Store, arms: Sequence[ArmExamples]) -> None:
    """Make sure that no two arms that are trained alike hold the same examples.

    Raises:
        DataError: two arms do: two models would be one, under two names. The text names both and the cause.
    """
    if pair := find_equal(store, arms):
        raise equal_error(*pair)


def find_equal(store: Store, arms: Sequence[ArmExamples]) -> tuple[ArmExamples, ArmExamples] | None:
    """Return two arms that are trained alike on the same examples, as far as their examples exist or are named."""
    found: dict[object, ArmExamples] = {}
    for arm in arms:
        trained = key_json(arm.training)
        for key in ((trained, arm.ref), (trained, _content(store, arm)) if store.exists(arm.ref) else None):
            if key and found.setdefault(key, arm).name != arm.name:
                return found[key], arm
    return None


def equal_error(one: ArmExamples, other: ArmExamples) -> DataError:
    """Return the error for two arms that are one."""
    cause = (
        "both have the same definition"
        if one.definition == other.definition
        else "the rows by which their definitions differ are missing (no corrections, no evolved questions, or no "
        "further paths)"
    )
    return DataError(
        f"The arms {one.name!r} and {other.name!r} hold the same examples: {cause}. They would be one model under two "
        "names, so neither is trained. Leave one of them out, or look at why those rows are missing."
    )


def _content(store: Store, arm: ArmExamples) -> tuple[int, int]:
    """Return what is equal for tables with the same examples in any order: their number, and a sum of hashes."""
    count = total = 0
    for row in store.rows(arm.ref, arm.record):
        masked = row.masked if isinstance(row, MaskedExample) else None
        text = (row.input, row.prefix, row.output, row.worse, row.weight, *(masked or ()))
        count, total = count + 1, total + int(content_id("e", *map(str, text)).removeprefix("e-"), 16)
    return count, total


def _source(store: Store, question_round: QuestionRound) -> core.RoundData:
    return core.RoundData(
        questions=lambda: store.rows(question_round.questions, Question),
        paths=lambda: (path for ref in question_round.verdicts for path in store.rows(ref, JudgedPath)),
        corrections=lambda: (row for ref in question_round.corrections.values() for row in store.rows(ref, Correction)),
        round=question_round.round,
        evolution=question_round.evolution,
        error_types=lambda: store.rows(types, ErrorType) if (types := question_round.error_types) else (),
    )
