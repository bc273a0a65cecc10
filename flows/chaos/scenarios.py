"""The scenarios: what goes wrong at the endpoint, and what is done to the run."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flows.chaos.bout import Bout
from flows.chaos.damage import garbled, small_disk, tear_tail
from lema_core.errors import ConfigError
from lema_core.llm.simulated import Faults

STORM_S = 2.0
SLOW = {"latency_s": 0.03, "latency_spread": 0.5}
"""So that there is something in flight when the run is stopped."""
WEATHER = {
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
    act: Callable[[Bout], None] = Bout.finish
    weather: dict[str, float] = field(default_factory=dict)
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
        return Faults.model_validate(self.text | self.weather | {"failures_in_a_row": FEW_IN_A_ROW})


def _storm(bout: Bout) -> None:
    """Answer nothing but 429 for a while, in the middle of the work."""
    run, endpoint = bout.start(), bout.arena.endpoint
    if bout.wait(run, bout.paid(0.3)):
        endpoint.faults = bout.faults.model_copy(update={"rate_limit": 1.0, "failures_in_a_row": 10**6})
        time.sleep(STORM_S)
        endpoint.faults = bout.faults
    else:
        bout.problems.append("the run ended before the storm")
    bout.finish(run)


def _kill_once(bout: Bout) -> None:
    bout.kill_at("half of the payments", bout.paid(0.5))
    bout.finish()


def _kill_while_paying(bout: Bout) -> None:
    for share in PAYMENTS:
        bout.kill_at(f"{share:.0%} of the payments", bout.paid(share))
    bout.finish()


def _kill_every_stage(bout: Bout) -> None:
    """Kill as each artifact is begun, between the parts of those that are paid for, and as each is published."""
    store = bout.root / "store"
    for stage in bout.arena.stages():
        folder = store / stage.ref.stage / stage.ref.fingerprint
        bout.kill_at(f"the start of {stage.name}", folder.exists)
        if stage.endpoint is not None:
            bout.kill_at(f"the first part of {stage.name}", lambda place=folder: any(place.glob("part-*")))  # type: ignore[misc]
        bout.kill_at(f"the end of {stage.name}", (folder / "manifest.json").exists)
    bout.kill_at("the start of report", (store / "report").exists)
    bout.finish()


def _torn_tail(bout: Bout) -> None:
    bout.kill_at("half of the payments", bout.paid(0.5))
    if not bout.problems:
        bout.torn = tear_tail(bout.ledger)
        bout.allowed += bout.torn
    bout.finish()


def _garbled(bout: Bout) -> None:
    bout.kill_at("half of the payments", bout.paid(0.5))
    if not bout.problems:
        for what, start in (("the ledger's head is noise", 0), ("the ledger's pages are noise", 4096)):
            with garbled(bout.ledger, start):
                bout.fail(what)
    bout.finish()


def _full_disk(bout: Bout) -> None:
    plain = bout.arena.plain
    with small_disk(bout.root, disk=plain.disk_bytes // 2, file=plain.ledger_bytes // 2) as disk:
        bout.fail("the disk is full", disk.file_limit)
        bout.allow_uncommitted()
        disk.grow()
        bout.finish()


SCENARIOS = (
    Scenario(
        name="storm",
        about="429 with Retry-After: now and then, and for two seconds to everything",
        act=_storm,
        weather=SLOW | {"rate_limit": 0.2, "retry_after_s": 0.1},
    ),
    Scenario(name="errors", about="500 and 503", weather={"server_error": 0.2, "overload": 0.2, "retry_after_s": 0.05}),
    Scenario(name="cuts", about="connections cut in the middle of the answer", weather={"cut_connection": 0.3}),
    Scenario(name="broken", about="answers that are no JSON", weather={"malformed_body": 0.3}),
    Scenario(name="weather", about="all of these together", weather=WEATHER, quick=True),
    Scenario(name="cut-off", about="texts that end after half their words", text={"cut_off": 0.3}, weather=WEATHER),
    Scenario(name="unreadable", about="texts without their labels", text={"malformed_text": 0.3}, weather=WEATHER),
    Scenario(name="kill", about="kill -9 in the middle of paying", act=_kill_once, weather=SLOW, quick=True),
    Scenario(name="kill-paying", about="kill -9 five times while it pays", act=_kill_while_paying, weather=SLOW),
    Scenario(
        name="kill-stages", about="kill -9 at the start and the end of every stage", act=_kill_every_stage, weather=SLOW
    ),
    Scenario(name="torn-tail", about="kill -9, and the ledger's log loses its end", act=_torn_tail, weather=SLOW),
    Scenario(name="garbled", about="kill -9, and noise in the ledger's file", act=_garbled, weather=SLOW),
    Scenario(name="full-disk", about="no space left, then space again", act=_full_disk, weather=SLOW, quick=True),
    Scenario(
        name="everything",
        about="all faults at the endpoint and five kills",
        act=_kill_while_paying,
        text={"cut_off": 0.2, "malformed_text": 0.1},
        weather=SLOW | WEATHER,
    ),
)


def chosen(only: Iterable[str], *, quick: bool) -> list[Scenario]:
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
