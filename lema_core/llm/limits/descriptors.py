"""File descriptors: connections must leave enough for the ledger, the output and everything else of this process.

A process that runs out of them cannot open its ledger, and what is paid is lost.
"""

import logging
import resource

import psutil

RESERVE = 64
"""Left free beside connections: the ledger and its journal, two files for each shard, Prefect's client, imports."""
SPARE = 8
"""Connections of one pool beyond its requests in flight: kept alive, or being closed."""

_log = logging.getLogger(__name__)


class Descriptors:
    """Shares what the limit of open files (RLIMIT_NOFILE) allows among the pools of one process."""

    def __init__(self) -> None:
        self._granted: dict[str, int] = {}
        self._others: int | None = None
        self.refused = 0
        """Connections that were wanted and not granted."""

    def grant(self, pool: str, wanted: int) -> int:
        """Return how many requests of a pool may be in flight, at least one; the limit is raised where it may be.

        The same pool again is granted what it has, or more where it wants more.
        """
        if self._others is None:
            # Counted before the first connection, which would be counted twice later on.
            self._others = psutil.Process().num_fds()
        used = self._others + RESERVE + sum(count + SPARE for name, count in self._granted.items() if name != pool)
        limit = _raised(used + wanted + SPARE)
        granted = max(1, min(wanted, limit - used - SPARE))
        if granted < wanted:
            self.refused += wanted - granted
            _log.warning(
                "%d requests may be in flight instead of %d: this process may open %d files, and the ledger needs "
                "some. Raise the limit with `ulimit -n`, or lower concurrency",
                granted, wanted, limit,
            )  # fmt: skip
        self._granted[pool] = max(granted, self._granted.get(pool, 0))
        return granted


def _raised(needed: int) -> int:
    """Return the limit of open files, raised to what is needed as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed if soft == resource.RLIM_INFINITY else soft
    most = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most
