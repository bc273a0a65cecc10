"""What decides each artifact, stage by stage: the one place to look when a stage ran again, or did not.

Only what changes rows is here: an endpoint enters by its identity and never by its URL; shards, ranks and keys do not.
A developer raises a stage's revision when its code changes meaning. Every identity follows from the run file and the
sources alone, so that a plan can name all artifacts of a run before anything is made.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lema_core import prompts
from lema_core import questions as question_source
from lema_core.ablation.cells import CellResult, reference_of
from lema_core.artifacts import ArtifactRef, Identity
from lema_core.corrections.specs import CorrectionsSpec
from lema_core.evaluation.selection_spec import SelectionSpec
from lema_core.evolution import Kind
from lema_core.llm import embedded
from lema_core.llm.costs.prices import price_of
from lema_core.llm.embedded import EMBEDDED, TINY, weights_identity
from lema_core.llm.endpoints import WEIGHTS, EndpointSpec
from lema_core.mixture import Arm, reads
from lema_core.mixture import prompt_identity as mixture_prompts
from lema_core.questions import QuestionsSpec, get_task
from lema_core.rating.gate_spec import QualityGateSpec
from lema_core.reasoning_paths import prompt_identity as path_prompts
from lema_core.run.artifacts import Collection, Lineage
from lema_core.run.spec import (
    EvaluationSpec,
    EvolutionSpec,
    MistakesSpec,
    MixtureSpec,
    PromptKind,
    RunSpec,
    StudentSpec,
    VerdictsSpec,
)
from lema_core.training.specs import TrainingSpec

Choice = Mapping[str, Any]
"""What decides which checkpoint becomes the model."""

REVISIONS = {
    "questions": 2,
    "reasoning_paths": 3,
    "verdicts": 2,
    "mistakes": 2,
    "quality_gate": 1,
    "corrections": 4,
    "evolution_created": 2,
    "evolution_novel": 1,
    "evolution": 3,
    "held_out": 1,
    "mixture": 3,
    "tokens": 1,
    "training": 2,
    "evaluation": 3,
    "votes": 3,
    "perplexity": 1,
    "report": 5,
    "ablation": 3,
}


def questions(spec: QuestionsSpec) -> Identity:
    """Return the identity of the questions of a source: its bytes, not its place."""
    return _identity("questions", question_source.identity(spec))


def reasoning_paths(student: StudentSpec, model: str, task: str, questions: str) -> Identity:
    """Return the identity of the paths that ``model`` samples to some questions."""
    spec = student.model_dump(exclude={"endpoint", "mistakes"}) | {"student": model}
    return _identity("reasoning_paths", spec, [questions], path_prompts(task))


def verdicts(spec: VerdictsSpec, task: str, paths: str) -> Identity:
    """Return the identity of the verdicts on some paths."""
    return _identity("verdicts", spec.model_dump() | {"family": get_task(task).family}, [paths])


def mistakes(spec: MistakesSpec, verdicts: Sequence[str]) -> Identity:
    """Return the identity of the mistakes chosen from the verdicts of all students."""
    return _identity("mistakes", spec, verdicts)


def quality_gate(spec: QualityGateSpec, mistakes: str) -> Identity:
    """Return the identity of the pilot's mistakes: what is drawn, never how it is judged."""
    return _identity("quality_gate", spec.model_dump(include={"rows", "seed"}), [mistakes])


def corrections(
    spec: CorrectionsSpec, corrector: str, task: str, mistakes: str, second: EndpointSpec | None = None
) -> Identity:
    """Return the identity of the accepted corrections: the quality gate's too, whose ``mistakes`` are the pilot's."""
    named = {"corrector": corrector, "second": second.identity if second else None, "task": task}
    plain = spec.model_dump(exclude={"endpoint", "also", "second"}) | named
    return _identity("corrections", plain, [mistakes], _prompt(task, "correction"))


def evolution_created(
    spec: EvolutionSpec, kind: Kind, round_number: int, writer: str, task: str, first: Collection
) -> Identity:
    """Return the identity of the questions that ``writer`` makes from the seeds of the first collection."""
    fields = {"draws", "seed", "temperature", "max_tokens"}
    plain = spec.model_dump(include=fields) | {"kind": kind, "round": round_number, "writer": writer, "task": task}
    seeds = [first.main_corrections] if kind == "centric" and first.main_corrections else []
    return _identity("evolution_created", plain, _prints(first.questions, *seeds), _prompt(task, "evolution"))


def evolution_novel(spec: EvolutionSpec, created: ArtifactRef, known: Sequence[ArtifactRef]) -> Identity:
    """Return the identity of the created questions that are like none of the known ones."""
    return _identity("evolution_novel", {"similarity": spec.similarity}, _prints(created, *known))


def evolution(spec: EvolutionSpec, answerer: str, task: str, novel: ArtifactRef) -> Identity:
    """Return the identity of the evolved questions: the new ones that a majority of samples answers alike."""
    fields = {"votes", "answer_temperature", "answer_max_tokens"}
    plain = spec.model_dump(include=fields) | {"answerer": answerer, "task": task}
    return _identity("evolution", plain, _prints(novel), path_prompts(task))


def mixture(spec: MixtureSpec, arm: Arm, task: str, made: Lineage, base: str | None) -> Identity:
    """Return the identity of an arm's examples: a view over the pool, of which only what the arm reads counts.

    ``base`` is the model that is trained on them: its tokenizer decides the size of an arm that is matched by tokens.
    """
    excluded = made.test_questions.fingerprint if made.test_questions else None
    plain = {"arm": arm.identity, "seed": spec.seed, "task": task, "excluded": excluded}
    if base and arm.by_tokens:
        plain["tokenizer"] = _base(base)
    if made.held_out:
        plain["held_out"] = {"questions": made.held_out.fingerprint, "evolved_from_them": "left out too"}
    pool = [ref for one in made.collections for ref in _read(arm, one)]
    return _identity("mixture", plain, _prints(*pool), mixture_prompts(task))


def _read(arm: Arm, one: Collection) -> Iterator[ArtifactRef]:
    """Yield what the arm reads of a collection: another corrector makes no arm anew that has no corrections."""
    rows = reads(arm, one.round, one.evolution)
    yield from [one.questions] if "rationales" in rows else []
    yield from one.verdicts if "right_paths" in rows else []
    yield from one.corrections.values() if "corrections" in rows else []


def tokens(spec: TrainingSpec, mixture: str, start: ArtifactRef | None = None) -> Identity:
    """Return the identity of an arm's examples as the base model's tokens."""
    base = start.fingerprint if start else _base(spec.base)
    return _identity("tokens", spec.tokens_identity() | {"base": base}, [mixture])


def held_out(spec: SelectionSpec, questions: str) -> Identity:
    """Return the identity of the training questions that are kept back for choosing checkpoints."""
    return _identity("held_out", {"questions": spec.questions, "seed": spec.seed}, [questions])


def selection(run: RunSpec, made: Lineage) -> Choice | None:
    """Return what decides which checkpoint of a run becomes the model; None: the last one does."""
    if run.selection is None or run.evaluation is None or made.held_out is None:
        return None
    asked = {"held_out": (run.questions.task, made.held_out)}
    if run.selection.protocol == "best_on_test" and made.test_questions and run.test_questions:
        asked["test"] = (run.test_questions.task, made.test_questions)
    # The answers that a model without a name would give: serving, questions, prompt, cap and revision are in there.
    return {
        name: evaluation(run.evaluation, served_as(run.evaluation), "zero_shot", task, ref.fingerprint).fingerprint
        for name, (task, ref) in asked.items()
    }


def training(
    spec: TrainingSpec, tokens: str, start: ArtifactRef | None = None, choice: Choice | None = None
) -> Identity:
    """Return the identity of a fine-tuned model; weights on this machine enter by their hash, not their place.

    ``start`` is the model of another arm that training starts from, in place of the spec's base; ``choice`` is how one
    of its checkpoints is chosen.
    """
    base = start.fingerprint if start else _base(spec.base)
    chosen = {"selection": {**choice, "save_steps": spec.save_steps}} if choice else {}
    return _identity("training", spec.identity() | {"base": base} | chosen, [tokens])


def evaluation(spec: EvaluationSpec, model: str, prompt: PromptKind, task: str, questions: str) -> Identity:
    """Return the identity of a model's greedy answers to the held-out questions."""
    plain = {"model": model, "prompt": prompt, "max_tokens": spec.max_tokens, "task": task}
    return _identity("evaluation", plain, [questions], path_prompts(task))


def served_as(spec: EvaluationSpec) -> str:
    """Return what tells this way of serving checkpoints from others, empty where a command serves them as they are.

    It is the identity that ``serve`` gives, else that of the embedded server, which converts to Q8_0.
    """
    if spec.serve is None:
        return ""
    if spec.serve.identity not in {spec.serve.model, WEIGHTS}:
        return spec.serve.identity
    return "Q8_0" if embedded.__name__ in (spec.serve.command or ()) else ""


def votes(spec: EvaluationSpec, model: str, prompt: PromptKind, task: str, questions: str) -> Identity:
    """Return the identity of a model's sampled answers to the held-out questions (maj@k)."""
    drawn = spec.model_dump(include={"samples", "temperature", "top_p", "max_tokens"})
    plain = drawn | {"model": model, "prompt": prompt, "task": task}
    return _identity("votes", plain, [questions], path_prompts(task))


def perplexity(pairs: int, model: str, corrections: str) -> Identity:
    """Return the identity of a model's perplexities of mistaken and corrected paths."""
    return _identity("perplexity", {"pairs": pairs}, [model, corrections])


def report(run: RunSpec, made: Lineage) -> Identity:
    """Return the identity of a report: the artifacts it tells of, what it calls them, and what they cost."""
    named = {
        "name": run.name,
        "title": run.title or run.name,
        "endpoints": {name: [one.model, one.transport, _price(one)] for name, one in run.endpoints.items()},
        "evaluations": {name: ref.fingerprint for name, ref in made.evaluations.items()},
        "votes": {name: ref.fingerprint for name, ref in made.votes.items()},
        "licences": run.licences,
        "stage": run.launch.zero_stage,
    }
    return _identity("report", named, [ref.fingerprint for ref in made])


def ablation(run: RunSpec, results: Sequence[CellResult]) -> Identity:
    """Return the identity of a sweep's table: what became of each cell, under its name."""
    named = {
        "title": run.title or run.name,
        "reference": reference_of(run),
        "cells": {one.cell.name: one.error or (one.evaluation and one.evaluation.fingerprint) for one in results},
    }
    made = [ref for one in results for ref in (one.mixture, one.model, one.evaluation) if ref]
    return _identity("ablation", named, list(dict.fromkeys(_prints(*made))))


def _price(endpoint: EndpointSpec) -> dict[str, float] | None:
    price = price_of(endpoint)
    return price.model_dump() if price else None


def _prints(*refs: ArtifactRef) -> list[str]:
    return [ref.fingerprint for ref in refs]


def _base(model: str) -> str:
    return weights_identity(model) if model in {EMBEDDED, TINY} or Path(model).exists() else model


def _identity(stage: str, spec: object, inputs: Sequence[str] = (), texts: str = "") -> Identity:
    return Identity(stage, spec, tuple(inputs), texts, REVISIONS[stage])


def _prompt(task: str, part: prompts.sets.Part) -> str:
    return prompts.fingerprint(get_task(task).prompts, part)
