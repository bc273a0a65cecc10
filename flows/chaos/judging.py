"""Whether a scenario held: its outcome against the undisturbed run's."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.chaos.arena import Arena
from flows.chaos.bout import Bout
from flows.chaos.outcome import Outcome
from flows.chaos.scenarios import Scenario
from lema_core.errors import LemaError
from lema_core.llm.simulated import Faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
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


def undisturbed(arena: Arena, text: Faults) -> Outcome:
    """Return what comes of the run that nothing disturbs, under the given faults of the texts; run it once.

    Raises:
        LemaError: the run does not finish even so.
    """
    if text not in arena.undisturbed:
        bout = Bout(arena, f"undisturbed-{len(arena.undisturbed)}", text)
        bout.finish()
        if bout.outcome is None:
            raise LemaError(f"the undisturbed run failed, so there is nothing to compare with: {bout.problems[0]}")
        arena.undisturbed[text] = bout.outcome
    return arena.undisturbed[text]


def judged(arena: Arena, scenario: Scenario) -> Verdict:
    """Play a scenario and compare what it left with the undisturbed run."""
    undisturbed(arena, Faults())
    expected = undisturbed(arena, scenario.expected)
    started = time.monotonic()
    bout = Bout(arena, scenario.name, scenario.faults)
    scenario.act(bout)
    found = bout.outcome
    problems = [*bout.problems, *(_differences(bout, found, expected) if found else ())]
    if scenario.text and expected.parts == arena.plain.parts:
        problems.append("the faults of the texts changed nothing: the run has too few requests for them")
    return Verdict(
        scenario=scenario,
        folder=bout.folder,
        kills=bout.kills,
        faults=sum(found.faults.values()) if found else 0,
        paid=found.paid if found else 0,
        paid_twice=found.paid_twice if found else 0,
        allowed=bout.allowed,
        identical=found is not None and found.parts == expected.parts,
        seconds=time.monotonic() - started,
        problems=tuple(problems),
    )


def _differences(bout: Bout, found: Outcome, expected: Outcome) -> Iterator[str]:
    changed = sorted(
        place for place in found.parts | expected.parts if found.parts.get(place) != expected.parts.get(place)
    )
    if changed:
        yield f"{len(changed)} parts differ from the undisturbed run's, the first is {changed[0]}"
    if found.completions - expected.completions:
        yield "the ledger holds other completions than the undisturbed run's"
    if (missing := len(expected.completions - found.completions)) > bout.torn:
        yield f"the ledger lacks {missing} completions; {bout.torn} went with the end of its log"
    if not found.sound:
        yield "SQLite finds damage in the ledger"
    if found.requests != expected.requests:
        more, fewer = len(found.requests - expected.requests), len(expected.requests - found.requests)
        yield f"{more} requests were paid that the undisturbed run did not pay, and {fewer} were not"
    if found.paid_twice > bout.allowed:
        yield f"{found.paid_twice} were paid twice; at most {bout.allowed} were in flight"
    shares = bout.faults.model_dump(include={"rate_limit", "server_error", "cut_connection", "malformed_body"})
    if any(shares.values()) and not sum(found.faults.values()):
        yield "no fault was injected: the run has too few requests for them"
