"""What a running training tells the process that started it: JSON lines on stdout."""

import json
import sys
from typing import Any

STEP_FIELDS = ("step", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "mfu")


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
    return {
        name: int(entry[name]) if name in ("step", "tokens") else float(entry[name])
        for name in STEP_FIELDS
        if name in entry
    }
