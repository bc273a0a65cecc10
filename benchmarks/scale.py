"""Requests a second with 1, 2 and 4 Dask workers, and what a shard costs besides its requests, as docs/scale.md tells.

    python benchmarks/scale.py [workers] [shards] [--seconds S] [--concurrency N] [--ledger URL]

One stage (reasoning_paths, as `lema run` runs it) against the simulated endpoint, which answers after 200 ms and shares
the machine. `workers`: the same run file but for its number of workers; each worker has so many requests in flight as
`--concurrency` says, so the ideal is workers x concurrency / 0.2 s. `shards`: every answer lies in the ledger already,
once in one shard and once in a shard a request: the difference is what Prefect, Dask and the files of a part cost.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from bench import prefect_server, server

LATENCY_S = 0.2
SHARD = 256


class Bench:
    """A Prefect server, a folder, and the flow with one stage."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self._runs = 0

    def stage(self, requests: int, base: str, **runtime: Any) -> float:
        """Sample so many paths; return the seconds of the stage alone, the workers' start left out."""
        return asyncio.run(self._stage(requests, base, runtime))

    async def _stage(self, requests: int, base: str, runtime: dict[str, Any]) -> float:
        from prefect import flow

        from lema_core.llm.endpoints import EndpointSpec
        from lema_core.questions import QuestionsSpec
        from lema_core.run.spec import RunContext
        from lema_core.stages.questions import Questions
        from lema_core.stages.reasoning_paths import ReasoningPaths, StudentSpec
        from tasks.engine_session import engine_session
        from tasks.run_stage import run_rows

        self._runs += 1
        at = RunContext(root=str(self.folder / f"store-{self._runs}"), run="scale", **runtime)
        model = EndpointSpec(model="fixed", base_url=f"{base}/v1", concurrency=self.options.concurrency)
        seconds = 0.0

        @flow(name="scale")
        async def scale() -> None:
            nonlocal seconds
            asked = await run_rows(at, Questions(QuestionsSpec(task="arithmetic", limit=requests)))
            async with engine_session(at):
                started = time.monotonic()
                await run_rows(at, ReasoningPaths(StudentSpec(endpoint="s", samples=1), model, "arithmetic", asked))
                seconds = time.monotonic() - started

        await scale()
        return seconds

    def workers(self) -> None:
        """Print the rate for 1, 2 and 4 workers."""
        ideal = self.options.concurrency / LATENCY_S
        print("| workers | requests | requests/s | of the ideal | CPU busy |\n|---|---|---|---|---|")
        for count in (1, 2, 4):
            requests = int(ideal * self.options.seconds) * count
            ledger = self.options.ledger or str(self.folder / f"ledger-{count}.sqlite")
            with server(LATENCY_S) as base:
                psutil.cpu_percent()
                seconds = self.stage(requests, base, workers=count, ledger=ledger, shard_requests=SHARD)
            rate, busy = requests / seconds, psutil.cpu_percent()
            share = rate / ideal / count
            print(f"| {count} | {requests:,} | {rate:.0f} | {share:.0%} | {busy:.0f} % |", flush=True)

    def shards(self) -> None:
        """Print the cost of a shard in the flow's own process and on a cluster."""
        count = 300
        print("| where | one shard | a shard a request | a shard costs |\n|---|---|---|---|")
        ledger = str(self.folder / "ledger.sqlite")
        with server(0.0) as base:
            self.stage(count, base, ledger=ledger)
            for where, workers in (("the flow's process", None), ("2 workers", 2)):
                one = self.stage(count, base, ledger=ledger, workers=workers, shard_requests=count)
                many = self.stage(count, base, ledger=ledger, workers=workers, shard_requests=1)
                each = 1000 * (many - one) / (count - 1)
                print(f"| {where} | {one:.2f} s | {many:.2f} s | {each:.0f} ms |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trials", nargs="*", choices=[[], "workers", "shards"], metavar="TRIAL")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--ledger", default="")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lema-scale-") as folder, prefect_server(Path(folder) / "prefect"):
        bench = Bench(Path(folder), options)
        for trial in options.trials or ("workers", "shards"):
            getattr(bench, trial)()


if __name__ == "__main__":
    main()
