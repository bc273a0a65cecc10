"""The scenarios: what goes wrong at the endpoint, and what is done to the run."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from chaos.damage import garble, small_disk, tear_tail
from chaos.scenario_run import ScenarioRun
from lema_core.errors import ConfigError
from lema_core.llm.simulated import Faults

STORM_S = 2.0
SLOW = {"latency_s": 0.03, "latency_spread": 0.5}
"""So that there is something in flight when the run is stopped."""
TRANSPORT_FAULTS = {
    "rate_limit": 0.06,
    "retry_after_s": 0.05,
    "server_error": 0.1,
    "overload": 0.04,
    "cut_connection": 0.06,
    "malformed_body": 0.06,
}
FEW_IN_A_ROW = 2
"""A malformed body is given up after three, and a row that was given up would not be the undisturbed run's."""
PAYMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the requests paid at which runs are killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way to disturb a run."""

    name: str
    about: str
    act: Callable[[ScenarioRun], None] = ScenarioRun.finish
    transport: dict[str, float] = field(default_factory=dict)
    """Faults of the transport: they must not change a byte."""
    text: dict[str, float] = field(default_factory=dict)
    """Faults of the answers' texts: the undisturbed run has the same."""
    quick: bool = False

    @property
    def expected(self) -> Faults:
        """Return the faults of the undisturbed run to compare with."""
        return Faults.model_validate(self.text)

    @property
    def faults(self) -> Faults:
        """Return all faults."""
        return Faults.model_validate(self.text | self.transport | {"failures_in_a_row": FEW_IN_A_ROW})


def _storm(scenario_run: ScenarioRun) -> None:
    """Answer nothing but 429 for a while, in the middle of the work."""
    run, endpoint = scenario_run.start(), scenario_run.harness.endpoint
    if scenario_run.wait(run, scenario_run.paid(0.3)):
        endpoint.faults = scenario_run.faults.model_copy(update={"rate_limit": 1.0, "failures_in_a_row": 10**6})
        time.sleep(STORM_S)
        endpoint.faults = scenario_run.faults
    else:
        scenario_run.problems.append("the run ended before the storm")
    scenario_run.finish(run)


def _kill_once(scenario_run: ScenarioRun) -> None:
    scenario_run.kill_at("half of the payments", scenario_run.paid(0.5))
    scenario_run.finish()


def _kill_while_paying(scenario_run: ScenarioRun) -> None:
    for share in PAYMENTS:
        scenario_run.kill_at(f"{share:.0%} of the payments", scenario_run.paid(share))
    scenario_run.finish()


def _kill_every_stage(scenario_run: ScenarioRun) -> None:
    """Kill as each artifact is begun, between the parts of those that are paid for, and as each is published."""
    store = scenario_run.root / "store"
    for stage in scenario_run.harness.stages():
        folder = store / stage.ref.stage / stage.ref.fingerprint
        scenario_run.kill_at(f"the start of {stage.name}", folder.exists)
        if stage.endpoint is not None:
            scenario_run.kill_at(f"the first part of {stage.name}", lambda place=folder: any(place.glob("part-*")))  # type: ignore[misc]
        scenario_run.kill_at(f"the end of {stage.name}", (folder / "__lema__" / "manifest.json").exists)
    scenario_run.kill_at("the start of report", (store / "report").exists)
    scenario_run.finish()


def _torn_tail(scenario_run: ScenarioRun) -> None:
    scenario_run.kill_at("half of the payments", scenario_run.paid(0.5))
    if not scenario_run.problems:
        scenario_run.torn = tear_tail(scenario_run.ledger)
        scenario_run.allowed += scenario_run.torn
    scenario_run.finish()


def _garbled(scenario_run: ScenarioRun) -> None:
    scenario_run.kill_at("half of the payments", scenario_run.paid(0.5))
    if not scenario_run.problems:
        for what, start in (("the ledger's head is noise", 0), ("the ledger's pages are noise", 4096)):
            with garble(scenario_run.ledger, start):
                scenario_run.fail(what)
    scenario_run.finish()


def _full_disk(scenario_run: ScenarioRun) -> None:
    plain = scenario_run.harness.plain
    with small_disk(scenario_run.root, disk=plain.disk_bytes // 2, file=plain.ledger_bytes // 2) as disk:
        scenario_run.fail("the disk is full", disk.file_limit)
        scenario_run.allow_uncommitted()
        disk.grow()
        scenario_run.finish()


SCENARIOS = (
    Scenario(
        name="storm",
        about="429 with Retry-After: now and then, and for two seconds to everything",
        act=_storm,
        transport=SLOW | {"rate_limit": 0.2, "retry_after_s": 0.1},
    ),
    Scenario(
        name="errors", about="500 and 503", transport={"server_error": 0.2, "overload": 0.2, "retry_after_s": 0.05}
    ),
    Scenario(name="cuts", about="connections cut in the middle of the answer", transport={"cut_connection": 0.3}),
    Scenario(name="broken", about="answers that are no JSON", transport={"malformed_body": 0.3}),
    Scenario(name="transport", about="all of these together", transport=TRANSPORT_FAULTS, quick=True),
    Scenario(
        name="cut-off", about="texts that end after half their words", text={"cut_off": 0.3}, transport=TRANSPORT_FAULTS
    ),
    Scenario(
        name="unreadable", about="texts without their labels", text={"malformed_text": 0.3}, transport=TRANSPORT_FAULTS
    ),
    Scenario(name="kill", about="kill -9 in the middle of paying", act=_kill_once, transport=SLOW, quick=True),
    Scenario(name="kill-paying", about="kill -9 five times while it pays", act=_kill_while_paying, transport=SLOW),
    Scenario(
        name="kill-stages",
        about="kill -9 at the start and the end of every stage",
        act=_kill_every_stage,
        transport=SLOW,
    ),
    Scenario(name="torn-tail", about="kill -9, and the ledger's log loses its end", act=_torn_tail, transport=SLOW),
    Scenario(name="garbled", about="kill -9, and noise in the ledger's file", act=_garbled, transport=SLOW),
    Scenario(name="full-disk", about="no space left, then space again", act=_full_disk, transport=SLOW, quick=True),
    Scenario(
        name="everything",
        about="all faults at the endpoint and five kills",
        act=_kill_while_paying,
        text={"cut_off": 0.2, "malformed_text": 0.1},
        transport=SLOW | TRANSPORT_FAULTS,
    ),
)


def choose_scenarios(only: Iterable[str], *, quick: bool) -> list[Scenario]:
    """Return the scenarios to play.

    Raises:
        ConfigError: there is none of a name.
    """
    names = list(only)
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"there is no scenario {unknown[0]!r}; there are {', '.join(known)}")
    if names:
        return [scenario for scenario in SCENARIOS if scenario.name in names]
    return [scenario for scenario in SCENARIOS if scenario.quick or not quick]
