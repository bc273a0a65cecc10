"""Corrections of mistakes by a teacher, accepted only if they stand every check (paper, section 2.1)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, Self

from pydantic import Field, model_validator

from lema_core import prompts
from lema_core.artifacts import ArtifactRef, Identity, PartWriter, Shard, Store
from lema_core.corrections import Shape, parse_correction, select
from lema_core.corrections.requests import MistakeTries, correction_requests, keep_agreed, review_tries
from lema_core.corrections.review import Filter
from lema_core.corrections.structured import FORM_VERSION, parse_structured, response_format, structured_prompt
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.parameters import Parameters, Params, layered
from lema_core.llm.requests import CompletionRequest, Sampling, changed_params
from lema_core.questions import get_task
from lema_core.records import Correction, JudgedPath
from lema_core.scoring.pool import Scored, TextToScore
from lema_core.stages import Section
from lema_core.stages.failed_requests import JUDGE, SECOND
from lema_core.stages.judging import judge_calls, judge_requests, judged_as, score_texts
from lema_core.stages.stage import ModelCalls, RowCount, RowStage, StageContext, times


class CorrectionsSpec(Section):
    """How mistakes are corrected (the paper's M_c)."""

    endpoint: str
    tries: int = Field(1, ge=1)
    """Corrections sampled for one mistake (k)."""
    keep: Literal["shortest", "all"] = "shortest"
    """Which of the accepted ones of a mistake."""
    filter: Filter = "checks"
    """answer: the paper's only filter, so that shares of accepted corrections compare with its own: what can be read
    and ends in the gold answer is kept. checks: an explanation that says nothing, a named step that stays as it was, a
    rewritten beginning and a pasted answer are turned down too. strict: also a correction that repeats the named step
    and all that follow, and changes only the answer line (`only_the_answer`): it names a right step."""
    reject_false_steps: bool = False
    """Reject a correction of which a step holds a false equation; the paper checks the final answer only."""
    also: tuple[str, ...] = ()
    """Further correctors of the same mistakes. Every arm with corrections takes those of all correctors, but for the
    arms ``corrector_<endpoint>`` that compare them, and own arms with ``where.correctors``."""
    second: str | None = None
    """A second teacher: a correction is accepted only if this endpoint's own correction names the same step."""
    format: Literal["text", "json_schema"] = "text"
    """json_schema sends a JSON schema as `response_format` (OpenAI, vLLM, llama.cpp). An answer in the text form is
    read as well, where the endpoint ignores the field; the rows are the same."""
    temperature: float = Field(0.0, ge=0)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int = Field(1024, ge=1)
    params: Params = Field(default_factory=Parameters)
    """Request parameters of this stage alone, above those of its endpoint; see ``[endpoints.<name>] params``."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Return every corrector's endpoint, the main one first."""
        return (self.endpoint, *self.also)

    @model_validator(mode="after")
    def _teachers_and_tries_differ(self) -> Self:
        if self.second in self.endpoints:
            raise ValueError(f"second is a corrector itself ({self.second}): it would agree; name another endpoint")
        if self.tries > 1 and layered({"temperature": self.temperature}, self.params).get("temperature") == 0:
            raise ValueError(f"{self.tries} tries at temperature 0 are {self.tries} times the same; raise temperature")
        return self

    def sampling(self, shape: Shape = "steps") -> Sampling:
        """Return the sampling parameters of a correction; several tries differ by their seed where it is honoured."""
        seed = 0 if self.tries > 1 else None
        wanted = {"response_format": response_format(shape)} if self.format == "json_schema" else {}
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=seed,
            params=Parameters({**wanted, **self.params}),
        )


@dataclass(frozen=True)
class Corrections(RowStage):
    """The accepted corrections of some mistakes; the other tries are rejected rows.

    With a ``second`` teacher a correction is accepted only if that one's own correction names the same step.
    """

    name = "corrections"
    revision = 5
    record = Correction

    spec: CorrectionsSpec
    corrector: EndpointSpec
    second: EndpointSpec | None
    task: str
    mistakes: ArtifactRef
    judge: EndpointSpec | None = field(default=None, kw_only=True)
    """What the task's scorer asks."""

    @cached_property
    def identity(self) -> Identity:
        """The teachers, how they are asked and checked, and the mistakes: those of a pilot too."""
        second = self.second.identity if self.second else None
        named = {"corrector": self.corrector.identity, "second": second, "task": get_task(self.task).name}
        named |= judged_as(self.task, self.judge)
        sampling = self.spec.sampling(get_task(self.task).shape)
        asked = changed_params(sampling, self.corrector.params)
        if self.second and (seconds := changed_params(sampling, self.second.params)) != asked:
            asked["second_params"] = seconds
        spec = self.spec.model_dump(exclude={"endpoint", "also", "second", "params", "format"}) | named | asked
        if spec["filter"] == "checks":
            del spec["filter"]  # as it was before there was a choice
        if self.structured:
            spec["format"] = f"json_schema {FORM_VERSION}"
        texts = prompts.fingerprint(get_task(self.task).prompts, "correction")
        return self._identity(spec, [self.mistakes], texts)

    @property
    def structured(self) -> bool:
        """Whether corrections are asked for as JSON."""
        return self.spec.format == "json_schema"

    @property
    def teachers(self) -> Sequence[EndpointSpec]:
        """The corrector, and the second teacher."""
        return (self.corrector, self.second) if self.second else (self.corrector,)

    @property
    def endpoints(self) -> Sequence[EndpointSpec]:
        """The teachers, and the scorer's judge."""
        return (*self.teachers, self.judge) if self.judge else self.teachers

    @property
    def prefixes(self) -> Sequence[str]:  # type: ignore[override]  # of a class or of a value
        """What the counts of each endpoint begin with."""
        return (*("", SECOND)[: len(self.teachers)], JUDGE)

    @property
    def scored(self) -> bool:
        """Whether the task has a scorer."""
        return get_task(self.task).scorer is not None

    def requests_per_row(self, store: Store) -> int:  # noqa: ARG002
        """The tries on each mistake, and one of the second teacher; a judge is asked of each."""
        return (self.spec.tries + len(self.teachers) - 1) * (1 + judge_requests(self.task))

    def input_rows(self, store: Store) -> int:
        """Return the number of mistakes."""
        return store.manifest(self.mistakes).rows_out

    def row_bound(self, rows: RowCount) -> int | None:
        """Return the tries on all mistakes; what a second teacher must agree on counts once per mistake."""
        return times(rows(self.mistakes), 1 if self.second else self.spec.tries)

    def calls(self, store: Store, rows: RowCount) -> Sequence[ModelCalls]:
        """Return the tries of the corrector, and the single tries of the second teacher."""
        asked = list[ModelCalls]()
        for endpoint, tries, role in zip(self.teachers, (self.spec.tries, 1), ("", "second teacher"), strict=False):
            requests = partial(self._requests_now, store, tries) if store.exists(self.mistakes) else None
            asked.append(
                ModelCalls(
                    endpoint=endpoint, rows=times(rows(self.mistakes), tries), max_tokens=self.spec.max_tokens,
                    requests=requests, role=role, sampling=self.spec.sampling(get_task(self.task).shape),
                )
            )  # fmt: skip
        tried = self.spec.tries + len(self.teachers) - 1
        return [*asked, *judge_calls(self.task, self.judge, times(rows(self.mistakes), tried))]

    def _requests_now(self, store: Store, tries: int) -> Iterator[CompletionRequest]:
        return self._requests(store.rows(self.mistakes, JudgedPath), tries)

    def _requests(self, mistakes: Iterable[JudgedPath], tries: int) -> Iterator[CompletionRequest]:
        task, prompt = get_task(self.task), structured_prompt if self.structured else prompts.correction_prompt
        return correction_requests(mistakes, task, self.spec.sampling(task.shape), tries, prompt)

    async def run_shard(self, context: StageContext, shard: Shard, part: PartWriter) -> None:
        """Ask for the corrections of a range of mistakes and review each."""
        spec, task = self.spec, get_task(self.task)
        parse = parse_structured if self.structured else parse_correction
        mistakes = list(context.store.rows(self.mistakes, JudgedPath, shard.start, shard.stop))
        count = part.rows_in = len(mistakes) * spec.tries
        corrector, *seconds = context.endpoints[: len(self.teachers)]
        found = review_tries(
            mistakes,
            context.ask(corrector, self._requests(mistakes, spec.tries), count, part),
            task,
            partial(self._score, context, part) if self.scored else None,
            corrector=corrector.identity,
            tries=spec.tries,
            reject_false_steps=spec.reject_false_steps,
            parse=parse,
            rule=spec.filter,
        )
        tried: list[MistakeTries] = [tries async for tries in found]
        for second in seconds:
            # One request per mistake that the first teacher corrected: the others are rejected already.
            corrected = [tries.mistake for tries in tried if tries.corrected]
            outcomes = context.ask(second, self._requests(corrected, 1), len(corrected), part, SECOND)
            score = partial(self._score, context, part) if self.scored else None
            tried = await keep_agreed(tried, outcomes, task, second.identity, score, parse, rule=spec.filter)
        for tries in tried:
            for row in select(tries.rows, spec.keep):
                part.add(row)

    async def _score(self, context: StageContext, part: PartWriter, texts: Sequence[TextToScore]) -> Sequence[Scored]:
        judge = context.endpoints[-1] if self.judge else None
        return await score_texts(context, get_task(self.task), judge, part, texts)
