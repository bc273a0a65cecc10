"""The cards of a run: what they name follows from the run file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from lema_core.report.cards import Source, dataset_card, model_card
from lema_core.report.data import ReportData
from lema_core.report.settings import base_of, parameters_of
from lema_core.run.spec import RunSpec

UNKNOWN = "unknown"
"""The Hub's identifier of a licence that nobody told."""


def data_card(run: RunSpec, data: ReportData, rows: Mapping[str, int]) -> str:
    """Return the card of a run's exported data; ``rows`` are those of each file.

    Raises:
        ConfigError: a licence that the Hub would refuse.
    """
    configs = {name.rpartition(".")[0]: name for name in rows}
    arms = set(run.mixture.arms if run.mixture else ())
    return dataset_card(
        data,
        name=run.title or run.name,
        licence=run.licences.get("data", UNKNOWN),
        sources=list(_sources(run)),
        configs=configs,
        rows=max(rows.values(), default=0),
        preferences=[name for name in configs if name in arms and run.arm(name).preferences],
    )


def arm_card(run: RunSpec, data: ReportData, arm: str) -> str:
    """Return the card of the model that was fine-tuned on an arm.

    Raises:
        ConfigError: a licence that the Hub would refuse.
    """
    base = base_of(run, arm) if run.training else UNKNOWN
    return model_card(
        replace(data, parameters=parameters_of(run, arm)),
        name=f"{run.name}-{arm}",
        arm=arm,
        # A folder's place is this machine's own business.
        base_model=Path(base).name if Path(base).exists() else base,
        licence=run.licences.get("model", UNKNOWN),
        sources=list(_sources(run)),
    )


def _sources(run: RunSpec) -> Iterator[Source]:
    named = run.questions.hub or (Path(run.questions.path).name if run.questions.path else run.questions.task)
    yield Source(name=named, kind="questions", licence=run.licences.get("questions", UNKNOWN))
    used = [("student", student.endpoint) for student in run.students]
    used += [("corrector", name) for name in (run.corrections.endpoints if run.corrections else ())]
    if run.corrections and run.corrections.second:
        used.append(("second teacher", run.corrections.second))
    if run.evolution:
        used += zip(("writer of new questions", "answerer of new questions"), run.evolution.endpoints, strict=True)
    for kind, name in dict.fromkeys(used):
        yield Source(name=run.endpoints[name].model, kind=kind, licence=run.licences.get(name, UNKNOWN))
