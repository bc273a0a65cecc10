"""How throughput grows with the servers behind an endpoint: `lema complete` against 1, 2 and 4 simulated endpoints.

    python benchmarks/replicas.py [--requests N] [--slots N] [--latency S]

Each server answers ``slots`` requests at a time and takes ``latency`` seconds for each, so one can give slots / latency
a second. Each line has the rate, and its share of what the servers can give together. Our client and the servers share
this machine: without free cores a short latency measures those.
"""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import Bench, server


def rate(folder: Path, servers: int, requests: int, slots: int, latency: float) -> float:
    """Return answers a second."""
    with ExitStack() as stack:
        bases = [stack.enter_context(server()) for _ in range(servers)]
        benches = [Bench(base, "fixed", folder, requests) for base in bases]
        for bench in benches:
            bench.reset(latency_s=latency, slots=slots)
        file = benches[0].file("requests", range(requests))
        more = [word for base in bases[1:] for word in ("--base-url", f"{base}/v1")]
        benches[0].complete(file, f"out-{servers}", *more, "--concurrency", str(2 * slots))
        stats = [bench.get("stats") for bench in benches]
    if sum(figures["ok"] for figures in stats) != requests:
        sys.exit(f"not each request was paid once: {stats}")
    # From the first arrival at a server to the last one, which waits for one turn and takes another.
    return requests / (max(figures["wall_s"] for figures in stats) + 2 * latency)


def main() -> None:
    """Print a line per number of servers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=200, help="per server")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.5)
    options = parser.parse_args()
    one = options.slots / options.latency
    print("| servers | answers a second | of linear | time |\n|---|---|---|---|")
    for servers in (1, 2, 4):
        with tempfile.TemporaryDirectory(prefix="lema-replicas-") as folder:
            began = time.monotonic()
            found = rate(Path(folder), servers, servers * options.requests, options.slots, options.latency)
            print(f"| {servers} | {found:.1f} | {found / (servers * one):.2f} | {time.monotonic() - began:.0f} s |")


if __name__ == "__main__":
    main()
