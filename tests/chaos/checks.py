"""Whether a scenario held: its outcome against the undisturbed run's."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos.harness import Harness
from chaos.scenario_run import ScenarioRun
from chaos.scenarios import Scenario
from chaos.snapshot import Snapshot
from lema_core.errors import LemaError
from lema_core.llm.simulated import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """What a scenario showed."""

    scenario: Scenario
    folder: Path
    kills: int
    faults: int
    paid: int
    paid_twice: int
    allowed: int
    """How much of it may have been in flight when the run was stopped."""
    identical: bool
    seconds: float
    problems: tuple[str, ...]


def run_undisturbed(harness: Harness, text: Faults) -> Snapshot:
    """Return what comes of the run that nothing disturbs, under the given faults of the texts; run it once.

    Raises:
        LemaError: the run does not finish even so.
    """
    if text not in harness.undisturbed:
        scenario_run = ScenarioRun(harness, f"undisturbed-{len(harness.undisturbed)}", text)
        scenario_run.finish()
        if scenario_run.snapshot is None:
            raise LemaError(
                f"the undisturbed run failed, so there is nothing to compare with: {scenario_run.problems[0]}"
            )
        harness.undisturbed[text] = scenario_run.snapshot
    return harness.undisturbed[text]


def check_scenario(harness: Harness, scenario: Scenario) -> ScenarioResult:
    """Play a scenario and compare what it left with the undisturbed run."""
    run_undisturbed(harness, Faults())
    expected = run_undisturbed(harness, scenario.expected)
    started = time.monotonic()
    scenario_run = ScenarioRun(harness, scenario.name, scenario.faults)
    scenario.act(scenario_run)
    found = scenario_run.snapshot
    problems = [*scenario_run.problems, *(_differences(scenario_run, found, expected) if found else ())]
    if scenario.text and expected.parts == harness.plain.parts:
        problems.append("the faults of the texts changed nothing: the run has too few requests for them")
    return ScenarioResult(
        scenario=scenario,
        folder=scenario_run.folder,
        kills=scenario_run.kills,
        faults=sum(found.faults.values()) if found else 0,
        paid=found.paid if found else 0,
        paid_twice=found.paid_twice if found else 0,
        allowed=scenario_run.allowed,
        identical=found is not None and found.parts == expected.parts,
        seconds=time.monotonic() - started,
        problems=tuple(problems),
    )


def _differences(scenario_run: ScenarioRun, found: Snapshot, expected: Snapshot) -> Iterator[str]:
    changed = sorted(
        place for place in found.parts | expected.parts if found.parts.get(place) != expected.parts.get(place)
    )
    if changed:
        yield f"{len(changed)} parts differ from the undisturbed run's, the first is {changed[0]}"
    if found.completions - expected.completions:
        yield "the ledger holds other completions than the undisturbed run's"
    if (missing := len(expected.completions - found.completions)) > scenario_run.torn:
        yield f"the ledger lacks {missing} completions; {scenario_run.torn} went with the end of its log"
    if not found.sound:
        yield "SQLite finds damage in the ledger"
    if found.requests != expected.requests:
        more, fewer = len(found.requests - expected.requests), len(expected.requests - found.requests)
        yield f"{more} requests were paid that the undisturbed run did not pay, and {fewer} were not"
    if found.paid_twice > scenario_run.allowed:
        yield f"{found.paid_twice} were paid twice; at most {scenario_run.allowed} were in flight"
    shares = scenario_run.faults.model_dump(include={"rate_limit", "server_error", "cut_connection", "malformed_body"})
    if any(shares.values()) and not sum(found.faults.values()):
        yield "no fault was injected: the run has too few requests for them"
