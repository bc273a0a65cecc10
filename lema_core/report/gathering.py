"""The figures of a run, read back from its artifacts: what the report tells, and nothing it has not seen there."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow.parquet as pq

from lema_core.artifacts import ArtifactRef, Manifest, Store
from lema_core.evaluation import Evaluation, evaluate
from lema_core.lineage import Lineage
from lema_core.llm.prices import cost_of, price_of
from lema_core.records import Correction, JudgedPath
from lema_core.report.data import Funnel, LossCurve, Provenance, ReportData, Usage
from lema_core.specs import RunSpec

EXAMPLES = 6
"""Mistakes shown side by side with their corrections."""
METRICS_FILE = "metrics.parquet"
"""What the training program writes beside the model: a row a step."""


def gather(store: Store, run: RunSpec, made: Lineage) -> ReportData:
    """Return a run's figures, reading each table as a stream.

    Raises:
        ArtifactError: an artifact of the run is not in the store.
        DataError: the evaluations are not of the same questions.
    """
    corrections = made.corrections
    steps = Counter(row.step for row in store.rows(corrections, Correction)) if corrections else Counter[int]()
    return ReportData(
        title=run.title or run.name,
        task=run.questions.task,
        students=_names(run, (student.endpoint for student in run.students)),
        corrector=", ".join(_names(run, [run.corrections.endpoint] if run.corrections else [])) or "none",
        parameters=_parameters(run),
        notes=tuple(_notes(run)),
        funnel=funnel_of(store, made),
        evaluation=evaluation_of(store, made),
        curves=tuple(_curves(store, made)),
        mistake_steps=dict(sorted(steps.items())),
        examples=tuple(_examples(store, corrections)) if corrections else (),
        usage=tuple(_usage(store, run, made)),
        provenance=tuple(_provenance(store.manifest(ref)) for ref in made),
    )


def _names(run: RunSpec, endpoints: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.endpoints[name].model for name in endpoints))


def _parameters(run: RunSpec) -> dict[str, str]:
    found = {"run": run.name, "task": run.questions.task}
    for student in run.students:
        found[f"paths of {student.endpoint}"] = (
            f"{student.samples} a question, temperature {student.temperature:g}, {student.prompt.replace('_', '-')}"
        )
    if run.corrections:
        found["corrections"] = f"{run.corrections.tries} a mistake, keep {run.corrections.keep}"
    if run.training:
        spec = run.training
        length = f"{spec.max_steps} steps" if spec.max_steps else f"{spec.epochs:g} epochs"
        found["fine-tuning"] = (
            f"{spec.method}, {length}, batch {spec.batch_size}, learning rate {spec.learning_rate:g}, "
            f"ZeRO stage {run.launch.zero_stage}"
        )
    return found


def _notes(run: RunSpec) -> Iterator[str]:
    if run.corrections and "reference" in run.endpoints[run.corrections.endpoint].identity:
        yield (
            "The corrector is the reference corrector: a deterministic program that reads the gold rationale, not a "
            "language model."
        )
    if run.evaluation and run.evaluation.base:
        shots = "with four worked examples" if run.evaluation.base_prompt == "few_shot" else "without examples"
        yield f"The base model was asked {shots}; the fine-tuned ones without any, as they were trained."


def funnel_of(store: Store, made: Lineage) -> Funnel | None:
    """Return how many rows each data stage kept, None before there are verdicts."""
    if made.questions is None or not made.verdicts:
        return None
    judged = [store.manifest(ref) for ref in made.verdicts]
    verdicts = sum((Counter(manifest.counts) for manifest in judged), Counter[str]())
    corrected = store.manifest(made.corrections) if made.corrections else None
    return Funnel(
        questions=store.manifest(made.questions).rows_out,
        paths=sum(manifest.rows_in for manifest in judged),
        verdicts=dict(verdicts),
        mistakes=store.manifest(made.mistakes).rows_out if made.mistakes else 0,
        corrections=corrected.rows_in if corrected else 0,
        accepted=corrected.rows_out if corrected else 0,
        rejected=corrected.reasons if corrected else {},
    )


def evaluation_of(store: Store, made: Lineage) -> Evaluation | None:
    """Return the comparison of the arms with the base model, None where the base was not evaluated."""
    tables = {name: store.rows(ref, JudgedPath) for name, ref in made.evaluations.items()}
    base = tables.pop("base", None)
    return None if base is None else evaluate(base, tables)


def _curves(store: Store, made: Lineage) -> Iterator[LossCurve]:
    for arm, ref in made.models.items():
        with store.fs.open(f"{store.folder(ref)}/{METRICS_FILE}", "rb") as file:
            table = pq.read_table(file, columns=["step", "loss"])
        points = zip(table["step"].to_pylist(), table["loss"].to_pylist(), strict=True)
        yield LossCurve(arm=arm, points=tuple((step, loss) for step, loss in points if loss is not None))


def _examples(store: Store, corrections: ArtifactRef) -> Iterator[Correction]:
    """Choose evenly over the table, so that the examples are not all of one question."""
    rows = store.manifest(corrections).rows_out
    stride = max(1, rows // EXAMPLES)
    yield from islice(store.rows(corrections, Correction), 0, stride * EXAMPLES, stride)


def _usage(store: Store, run: RunSpec, made: Lineage) -> Iterator[Usage]:
    students = [student.endpoint for student in run.students]
    teacher = [run.corrections.endpoint] if run.corrections else []
    asked = [*zip(made.reasoning_paths, students, strict=True), *zip([made.corrections], teacher, strict=False)]
    for ref, name in asked:
        if ref is not None:
            yield _used(store.manifest(ref), run, name, run.endpoints[name].model)
    for name, ref in made.evaluations.items():
        endpoint = run.evaluation.base if run.evaluation and name == "base" else None
        yield _used(store.manifest(ref), run, endpoint, name)


def _used(manifest: Manifest, run: RunSpec, endpoint: str | None, shown: str) -> Usage:
    counts = manifest.counts
    tokens = counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0)
    spec = run.endpoints[endpoint] if endpoint else None
    return Usage(
        stage=manifest.stage,
        endpoint=shown,
        completions=counts.get("completions", 0),
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
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
