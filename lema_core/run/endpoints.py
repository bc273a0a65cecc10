"""The run file's endpoints made ready: placeholders of a command filled in, identities of local weights computed."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from lema_core.artifacts import ArtifactRef, Store
from lema_core.llm.endpoints import EndpointSpec
from lema_core.mixture.arms import RoundEvolution
from lema_core.questions import get_task, with_own_source
from lema_core.reasoning_paths import PromptKind
from lema_core.run.artifacts import RunArtifacts
from lema_core.run.spec import BASE, RunSpec
from lema_core.stages.evaluation import EvaluationSpec
from lema_core.stages.pretraining import PRETRAINED, Pretraining
from lema_core.stages.reasoning_paths import StudentSpec
from lema_core.training import MODEL_FOLDER

QUESTIONS, TEST_QUESTIONS = "{questions}", "{test_questions}"


@dataclass(frozen=True, slots=True)
class Student:
    """A model that is asked for paths."""

    name: str
    """The endpoint's in the run file, or the arm of a model that this run fine-tuned."""
    spec: StudentSpec
    endpoint: EndpointSpec


class PreparedEndpoints:
    """Endpoints by their name in the run file.

    A command may hold ``{python}`` (this interpreter), ``{source}`` (the file of ``[questions]``), ``{questions}`` and
    ``{test_questions}`` (the folders of the artifacts), besides the ``{model}`` and ``{port}`` filled in at its start.
    With several test sets the word with ``{test_questions}`` is repeated for each, with the option before it.
    """

    def __init__(self, run: RunSpec, store: Store, artifacts: RunArtifacts) -> None:
        self.run = run
        self.store = store
        self.artifacts = artifacts
        source = with_own_source(run.questions, get_task(run.questions.task)).path
        self._filled = {"{python}": sys.executable, "{source}": source or ""}

    def __getitem__(self, name: str) -> EndpointSpec:
        return self.prepared(self.run.endpoint(name))

    def prepared(self, endpoint: EndpointSpec) -> EndpointSpec:
        """Return an endpoint with its command and identity filled in."""
        if endpoint.model == PRETRAINED and (model := self.artifacts.others.get(Pretraining.name)):
            named = {"model": f"{self.store.folder(model)}/{MODEL_FOLDER}", "identity": model.fingerprint}
            return self.filled(endpoint).model_copy(update=named)
        return self.filled(endpoint).model_copy(update={"identity": endpoint.answers_as})

    def filled(self, endpoint: EndpointSpec) -> EndpointSpec:
        """Return an endpoint with its command filled in."""
        if not endpoint.command:
            return endpoint
        command = list[str]()
        own = self.artifacts.questions
        for place, word in enumerate(endpoint.command):
            for name, value in self._filled.items():
                word = word.replace(name, value)  # noqa: PLW2901
            # Only where it is named: a store on another machine has no local path.
            if own and QUESTIONS in word:
                word = word.replace(QUESTIONS, str(self.store.local_path(own)))  # noqa: PLW2901
            tests = self.artifacts.all_test_questions if TEST_QUESTIONS in word else ()
            folders = [str(self.store.local_path(ref)) for ref in tests]
            words = [word.replace(TEST_QUESTIONS, folder) for folder in folders] or [word]
            option = endpoint.command[place - 1] if place else ""
            between = [option] if word == TEST_QUESTIONS and option.startswith("-") else []
            command += words[:1]
            for repeated in words[1:]:
                command += [*between, repeated]
        return endpoint.model_copy(update={"command": tuple(command)})

    def students(self, round_number: int, evolution: RoundEvolution = "none") -> Iterator[Student]:
        """Yield who is asked in a round: the run's students, in a later round the model of the round before.

        A fine-tuned model knows the format: it is asked without examples, and samples as the first student does. As in
        the paper, round 1 of an evolution asks the run's students.
        """
        if round_number < (1 if evolution == "on_policy" else 2):
            for spec in self.run.students if round_number == 0 else self.run.mistaken_students:
                yield self.student(spec)
            return
        arm = f"round_{round_number - 1}"
        spec = self.run.mistaken_students[0].model_copy(update={"endpoint": arm, "prompt": "zero_shot"})
        yield Student(arm, spec, self.fine_tuned(self.artifacts.models[arm]))

    def student(self, spec: StudentSpec) -> Student:
        """Return a student of the run file; the model of its arm, if it names one, is known by then."""
        if spec.arm is None:
            return Student(spec.endpoint, spec, self[spec.endpoint])
        return Student(spec.endpoint, spec, self.fine_tuned(self.artifacts.warm_models[spec.arm]))

    def evaluated(self, models: dict[str, ArtifactRef]) -> Iterator[tuple[str, EndpointSpec, PromptKind]]:
        """Yield what is evaluated, in the report's order: name, endpoint, prompt."""
        spec = self.run.evaluation
        if spec is None:
            return
        if spec.base:
            yield BASE, self[spec.base], spec.base_prompt
        for arm, model in models.items():
            yield arm, self.fine_tuned(model), "zero_shot"

    @property
    def evaluation(self) -> EvaluationSpec:
        """How models are measured, with the command that serves a checkpoint filled in.

        Raises:
            LookupError: the run has no [evaluation].
        """
        spec = self.run.evaluation
        if spec is None:
            raise LookupError("a run with training and evaluation has [evaluation.serve]; the run file was not checked")
        return spec.model_copy(update={"serve": self.filled(spec.serve)}) if spec.serve else spec

    def fine_tuned(self, model: ArtifactRef) -> EndpointSpec:
        """Return how a fine-tuned model is served; its identity is the training artifact's, and how it is served."""
        return self.evaluation.checkpoint(f"{self.store.folder(model)}/{MODEL_FOLDER}", model.fingerprint)
