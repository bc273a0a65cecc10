"""What a report says of a run beside its figures: the parameters, and what a careful reader has to know."""

from collections.abc import Iterator

from lema_core.artifacts import Store
from lema_core.rating.pilot import decision_folder, read_decision
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.sent import base_prompt_difference
from lema_core.run.spec import BASE, RunSpec
from lema_core.training.specs import TrainingSpec


def parameters_of(run: RunSpec, arm: str | None = None) -> dict[str, str]:
    """Return what was run, by name; of one arm's model only what made that model."""
    found = {"run": run.name, "task": run.questions.task}
    for student in run.students:
        found[f"paths of {student.endpoint}"] = (
            f"{student.samples} a question, temperature {student.temperature:g}, {student.prompt.replace('_', '-')}"
        )
    if run.corrections:
        found["corrections"] = f"{run.corrections.tries} a mistake, keep {run.corrections.keep}"
    if run.training and arm is None:
        found["fine-tuning"] = common = _fine_tuning(run, run.training)
        for trained in run.mixture.arms if run.mixture else ():
            if (own := _fine_tuning(run, run.training_of(trained))) != common:
                found[f"fine-tuning of {trained}"] = own
    elif run.training and arm is not None:
        *before, last = _chain(run, arm)
        for earlier in before:
            found[f"fine-tuning of {earlier}"] = _fine_tuning(run, run.training_of(earlier))
        found["fine-tuning"] = _fine_tuning(run, run.training_of(last))
    return found


def base_of(run: RunSpec, arm: str) -> str:
    """Return the model that an arm's training began from, before all arms that it builds on."""
    return run.training_of(_chain(run, arm)[0]).base


def _chain(run: RunSpec, arm: str) -> list[str]:
    """Return the arms whose models an arm's model was made from, the first one first, and the arm itself last."""
    start = run.training_of(arm).starts_from_arm
    return [*(_chain(run, start) if start else ()), arm]


def _fine_tuning(run: RunSpec, spec: TrainingSpec) -> str:
    length = f"{spec.max_steps} steps" if spec.max_steps else f"{spec.epochs:g} epochs"
    how = (
        f"{spec.method}, {length}, batch {spec.batch_size}, learning rate {spec.learning_rate:g}, "
        f"ZeRO stage {run.launch.zero_stage}"
    )
    start = f", from the model of {spec.starts_from_arm}" if spec.starts_from_arm else ""
    if spec.objective == "sft":
        return how + start
    return f"{spec.objective.upper()} with beta {spec.beta:g}, {how}{start}"


def notes_of(store: Store, run: RunSpec, artifacts: RunArtifacts) -> Iterator[str]:
    """Yield what a careful reader has to know.

    Raises:
        DataError: the decision of a quality gate cannot be read.
    """
    if run.corrections and "reference" in run.endpoints[run.corrections.endpoint].identity:
        yield (
            "The corrector is the reference corrector: a deterministic program that reads the gold rationale, not a "
            "language model."
        )
    yield from _gates(store, run, artifacts)
    # A run that ended early may have come to the base model only, or not so far.
    if run.evaluation and BASE in artifacts.evaluations:
        shots = "with four worked examples" if run.evaluation.base_prompt == "few_shot" else "without examples"
        tuned = "; the fine-tuned ones without any, as they were trained" if len(artifacts.evaluations) > 1 else ""
        yield f"The base model was asked {shots}{tuned}."
    left_out = list[str]()
    for arm, ref in artifacts.tokens.items():
        counts = store.manifest(ref).extra
        if lost := int(counts["rejected"]):
            left_out.append(f"{lost:,} of {arm}, which was trained on {int(counts['examples']):,}")
    if left_out:
        arms = "; ".join(left_out)
        yield (
            "Examples that are longer than training.max_length, empty, or hold a control token of the model were left "
            f"out of the training: {arms}."
        )
    yield from _prompts(store, run, artifacts)
    if artifacts.perplexities and run.evaluation:
        yield (
            f"delta-PPL is measured on the first {run.evaluation.perplexity} corrections of the task's own questions, "
            "without pairs that are longer than the model's context or have no finite perplexity. Arms that take "
            "corrections were trained on mostly the same ones: it shows how well they were learned, not how far that "
            "carries."
        )


def _prompts(store: Store, run: RunSpec, artifacts: RunArtifacts) -> Iterator[str]:
    """Yield by which prompt each arm was trained, and where the base model was asked by another."""
    arms: dict[str, list[str]] = {}
    for arm, ref in artifacts.tokens.items():
        # Tokens of older versions have none.
        if known := store.manifest(ref).extra.get("prompt_hash"):
            arms.setdefault(str(known), []).append(arm)
    for name, trained in arms.items():
        yield (
            f"Chat template, template arguments and date give {', '.join(trained)} the prompt {name}, in training and, "
            "saved with the checkpoint, at every server of it. `lema evaluate` shows the same hash for that prompt."
        )
    if BASE in artifacts.evaluations and (different := base_prompt_difference(run)):
        yield different


def _gates(store: Store, run: RunSpec, artifacts: RunArtifacts) -> Iterator[str]:
    """Yield what was decided about the pilot of each corrector, where the run waited for that."""
    for name, pilot in artifacts.rounds[0].pilots.items() if artifacts.rounds else ():
        decision = read_decision(decision_folder(store.root, pilot))
        if decision is None:
            continue
        bounds = decision.bounds.model_dump(exclude_none=True) if decision.bounds else {}
        limits = " and ".join(f"{bounded} = {bound:g}" for bounded, bound in bounds.items())
        by = "a person" if decision.by == "person" else f"the rule {limits}".rstrip()
        said = f" Note: {decision.note}" if decision.note else ""
        verb, corrector = "approved" if decision.approved else "refused", run.endpoints[name].model
        yield f"A pilot of the corrections by {corrector} was {verb} by {by}. {decision.findings}{said}"
