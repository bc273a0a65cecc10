"""``python -m lema_core.llm.simulated --port 8123 --questions FILE``: a command for a run file's endpoint.

POST /reset and /faults need the token that the environment variable LEMA_SIMULATED_TOKEN sets.
"""

import argparse
import sys

from lema_core.errors import LemaError
from lema_core.llm.simulated import RULE_SETS, Library, SimulatedEndpoint, parse_faults, serve


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m lema_core.llm.simulated", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--questions", action="append", default=[], metavar="FILE", help="file or folder; repeatable")
    parser.add_argument("--replay", action="append", default=[], metavar="FILE", help="recorded solutions; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--error-rate", type=float, default=0.5, help="share of wrong paths of the simulated student")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=VALUE", help="see Faults; repeatable")
    parser.add_argument("--rules", choices=RULE_SETS, help="refuse and ignore what this vendor or server does")
    chosen = parser.parse_args()
    try:
        endpoint = SimulatedEndpoint(
            Library.read(chosen.questions, chosen.replay),
            faults=parse_faults(chosen.fault),
            seed=chosen.seed,
            error_rate=chosen.error_rate,
            port=chosen.port,
            rules=chosen.rules,
        )
        serve(endpoint, lambda started: print(started.url, flush=True))  # noqa: T201 - its caller reads the URL
    except LemaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
