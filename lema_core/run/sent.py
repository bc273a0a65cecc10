"""What a run will send: per stage and endpoint the fields of a request, and what was renamed or left out, and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lema_core.errors import ConfigError
from lema_core.llm.adaptation import Spelling, place_of
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.store import LedgerStore
from lema_core.llm.requests import Sampling
from lema_core.llm.rules import NONE, Change
from lema_core.run.spec import RunSpec
from lema_core.system.redaction import one_line

OWN_SEEDS = frozenset({"reasoning_paths", "votes", "evolution_created", "evolution"})
"""Stages whose questions bring a seed each."""


@dataclass(frozen=True, slots=True)
class SentRequest:
    """How the requests of some stages to one endpoint look."""

    stages: tuple[str, ...]
    endpoint: EndpointSpec
    fields: dict[str, Any]
    headers: tuple[str, ...]
    changes: tuple[Change, ...]

    @property
    def model(self) -> str:
        """What answers; of a checkpoint its folder would say little."""
        return self.endpoint.model.rsplit("/", 1)[-1] if self.endpoint.model.startswith("/") else self.endpoint.model

    def lines(self) -> Iterator[str]:
        """Yield it as text: a line with the fields, and one for each change."""
        some, more = ", ".join(self.stages[:3]), len(self.stages) - 3
        others = f" and {more} more" if more > 0 else ""
        family = f", rules {self.endpoint.family}" if self.endpoint.family != NONE else ""
        fields = ", ".join(f"{name} = {_shown(value)}" for name, value in sorted(self.fields.items()))
        yield f"{some}{others} to {self.endpoint.name} ({self.model}{family}): {fields or 'nothing else'}"
        if self.headers:
            yield f"  headers {', '.join(self.headers)}"
        for change in self.changes:
            yield f"  {_said(change)}"


def sent_by(
    stage: str, name: str, endpoint: EndpointSpec, sampling: Sampling, ledger: LedgerStore | None = None
) -> SentRequest:
    """Return how a stage's requests to an endpoint look.

    Args:
        stage: the stage's own name.
        name: what a plan calls it.
        endpoint: what is asked.
        sampling: how the answers are drawn, before the endpoint's parameters.
        ledger: knows what earlier refusals taught.

    Raises:
        ConfigError: a value is refused by the model, or has the wrong type.
    """
    spelling = Spelling(endpoint)
    if ledger is not None:
        spelling.remember(ledger.learned_rules(endpoint.identity, place_of(endpoint.first_url)))
    if sampling.seed is None and stage in OWN_SEEDS:
        sampling = sampling.model_copy(update={"seed": 0})
    try:
        found = sampling.resolved(endpoint.params)
    except ValueError as error:
        raise ConfigError(f"{name}: the parameters for {endpoint.name} cannot be sent: {error}") from None
    body = found.body()
    if stage in OWN_SEEDS and "seed" in body and "seed" not in {**endpoint.params, **sampling.params}:
        body["seed"] = "one per question"
    try:
        fields, changed = spelling.describe(body)
    except ConfigError as error:
        raise ConfigError(f"{name}, endpoint {endpoint.name} ({endpoint.model}): {error}") from None
    headers = found.headers
    if endpoint.transport == "batch":
        # A line of a batch has no headers: those of the endpoint go with the calls that submit it.
        why = "a batch carries the endpoint's headers only"
        dropped = sorted(headers.items() - endpoint.headers.items())
        changed += [Change(f"header {header}", value, "ignored", "", why, "Batch API") for header, value in dropped]
        headers = endpoint.headers
    return SentRequest((name,), endpoint, fields, tuple(sorted(headers)), tuple(changed))


def group_alike(sent: Iterable[SentRequest]) -> list[SentRequest]:
    """Return the requests with the stages that send alike together: a sweep has many of them."""
    groups: dict[str, SentRequest] = {}
    for request in sent:
        endpoint, fields = request.endpoint, sorted(request.fields.items())
        key = repr((endpoint.name, request.model, fields, request.headers, request.changes))
        stages = groups[key].stages if key in groups else ()
        new = () if request.stages[0] in stages else request.stages
        groups[key] = replace(request, stages=(*stages, *new))
    return list(groups.values())


def base_prompt_difference(run: RunSpec) -> str | None:
    """Return where the base model is asked under other template arguments than the fine-tuned ones; None: it is not."""
    if not (run.training and run.evaluation and run.evaluation.base) or run.training.template == "plain":
        return None
    endpoint, wanted = run.endpoints[run.evaluation.base], run.training.template_arguments
    try:
        asked = run.evaluation.greedy().resolved(endpoint.params).body().get("chat_template_kwargs") or {}
    except ValueError:
        # `sent_by` refuses it, with its place.
        return None
    if asked == wanted:
        return None
    return (
        f"The base model is asked under the template arguments {asked}, the fine-tuned ones are trained and asked "
        f"under {wanted}. For one prompt give the endpoint {run.evaluation.base!r} params.chat_template_kwargs."
    )


def _shown(value: object) -> str:
    return one_line(str(value).lower() if isinstance(value, bool) else str(value), 80)


def _said(change: Change) -> str:
    if change.action == "note":
        return f"{change.why} ({change.source})"
    what = f"goes as {change.to}" if change.to else "is left out"
    return f"{change.field} = {_shown(change.value)} {what}: {one_line(change.why, 160)} ({change.source})"
