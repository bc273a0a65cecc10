"""Which optional packages a run needs. A missing one must be found before the first request is paid."""

from collections.abc import Iterable, Mapping

from lema_core.errors import MissingDependencyError
from lema_core.llm import embedded
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.database import is_postgres
from lema_core.run.plan import PlannedStage
from lema_core.run.spec import RunSpec
from lema_core.system.packages import MODULES, install_command, missing_modules

_OF_TRAINING = frozenset({"tokens", "training", "perplexity"})
"""Stages whose programs import torch and transformers."""


def extras_of(run: RunSpec, endpoints: Iterable[EndpointSpec], *, trains: bool) -> dict[str, str]:
    """Return the extras that a run needs, each with what needs it.

    Args:
        run: what is to be run.
        endpoints: those that it asks.
        trains: whether anything is trained.
    """
    found = {"train": "[training]"} if trains else {}
    for endpoint in endpoints:
        if is_embedded(endpoint):
            found.setdefault("local", f"the embedded server of endpoint {endpoint.name!r}")
        if endpoint.api == "anthropic":
            found.setdefault("anthropic", f'api = "anthropic" of endpoint {endpoint.name!r}')
    if run.runtime.ledger is not None and is_postgres(run.runtime.ledger):
        found["postgres"] = "runtime.ledger"
    if run.runtime.workers or run.runtime.scheduler:
        found["scale"] = "runtime.workers or runtime.scheduler"
    return found


def is_embedded(endpoint: EndpointSpec) -> bool:
    """Return whether LeMa's own server serves an endpoint."""
    return embedded.__name__ in (endpoint.command or ())


def missing_extras(run: RunSpec, stages: Iterable[PlannedStage]) -> dict[str, str]:
    """Return the extras that the missing stages of a run need and that are not complete here, each with what needs it.

    The text names the modules: ``[training] (torch, trl)``.
    """
    missing = [stage for stage in stages if not stage.there]
    endpoints = [stage.endpoint for stage in missing if stage.endpoint is not None]
    needed = extras_of(run, endpoints, trains=any(stage.ref.stage in _OF_TRAINING for stage in missing))
    absent = {extra: missing_modules(MODULES[extra]) for extra in needed}
    return {extra: f"{needed[extra]} ({', '.join(names)})" for extra, names in absent.items() if names}


def describe_missing(extras: Mapping[str, str]) -> str:
    """Return what the extras are needed for and how to get them, in one line."""
    return f"not installed here: what {' and '.join(extras.values())} needs. Run {install_command(*sorted(extras))}"


def check_installed(run: RunSpec, stages: Iterable[PlannedStage]) -> None:
    """Refuse a run whose missing stages need what is not installed.

    Raises:
        MissingDependencyError: an extra is missing; the text names all of them.
    """
    if extras := missing_extras(run, stages):
        raise MissingDependencyError(f"the run cannot finish; {describe_missing(extras)}")
