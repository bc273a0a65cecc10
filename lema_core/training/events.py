"""What a running training tells the process that started it: JSON lines on stdout."""

import json
import sys
from typing import Any

CLOCK_FIELDS = ("tokens_per_second", "mfu")
"""What a clock has measured, so that no two runs agree on it."""
STEP_FIELDS = ("step", "loss", "learning_rate", "grad_norm", "tokens", *CLOCK_FIELDS)
_OF_PAIRS = {"rewards/accuracies": "pairs_in_order", "rewards/margins": "reward_margin"}
"""TRL's names of the figures of dpo, and ours."""


def emit(event: str, **fields: Any) -> None:
    """Write one event as one JSON line."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def parse(line: str) -> dict[str, Any] | None:
    """Return the event that a line of output holds; None for whatever else libraries print there."""
    if not line.startswith('{"event"'):
        return None
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def step_row(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one step from the trainer's log: a row of ``metrics.parquet``."""
    named = {_OF_PAIRS.get(name, name): value for name, value in entry.items()}
    return {
        name: int(named[name]) if name in ("step", "tokens") else float(named[name])
        for name in (*STEP_FIELDS, *_OF_PAIRS.values())
        if name in named
    }
