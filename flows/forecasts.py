"""What a plan's missing stages would cost: from the very requests where they can be written, else by their number."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.planning import PlannedStage
from lema_core.llm.database import is_postgres
from lema_core.llm.forecast import Forecast, forecast, forecast_unread
from lema_core.llm.store import LedgerStore

UNREAD_CHARS = 4_000
"""Characters of a correction prompt with its four examples, until the mistakes are there to write it."""


@contextmanager
def reading(ledger: str) -> Iterator[LedgerStore]:
    """Give the ledger to look things up in; where there is none yet, an empty one that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        there = is_postgres(ledger) or Path(ledger).exists()
        store = LedgerStore(ledger if there else str(Path(scratch) / "empty.sqlite"))
        try:
            yield store
        finally:
            store.close()


def forecast_of(store: LedgerStore, stage: PlannedStage) -> Forecast | None:
    """Return what a stage would cost; None where it is there already or asks nobody."""
    if stage.endpoint is None or not stage.requests:
        return None
    if stage.asked is None:
        return forecast_unread(store, stage.endpoint, stage.requests, UNREAD_CHARS, stage.max_tokens)
    return forecast(store, stage.endpoint, stage.asked())
