"""A worker process of the matcher: pairs come in as JSON lines, matches go out; started by worker_pool.py.

It limits its own memory before it imports anything heavy, and ends when its parent does.
"""

import json
import logging
import os
import resource
import sys
import threading
import time
from dataclasses import asdict
from typing import TextIO


def main() -> None:
    """Answer pairs until the input ends."""
    limit = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    logging.disable(logging.CRITICAL)
    from lema_core.answers.symbolic import match_symbolically

    match_symbolically(r"\int_0^1 x dx", r"\sqrt{3}")  # the parsers build their tables on first use
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints must not end up between the answers
    _send(out, {"ready": True})
    for line in sys.stdin:
        gold, pred = json.loads(line)
        try:
            _send(out, asdict(match_symbolically(gold, pred)))
        except (Exception, RecursionError) as error:  # noqa: BLE001 sympy raises anything; the pair stays unknown
            _send(
                out, {"outcome": "unknown", "layer": "math_verify", "ground": f"{type(error).__name__}: {error}"[:200]}
            )


def _send(out: TextIO, message: object) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def _end_with(parent: int) -> None:
    """A parent killed with -9 closes nothing that a computing child would notice."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
