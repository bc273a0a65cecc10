"""The trials of docs/requests.md that can be done to other systems too, against the same server in the same run.

    python benchmarks/peers.py [TRIAL ...] [--requests N] [--curator PYTHON] [--distilabel PYTHON] [--inspect PYTHON]

Each peer lives in a virtual environment of its own, whose interpreter the option names; a peer without one is skipped,
by name. All clients ask `lema simulate` the same prompts, 64 in flight, each as its documentation says to. `ours` is
`lema complete` with its ledger; `bare` is an AsyncOpenAI loop that stores nothing.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import BARE, LEMA, Bench, Used, run, server

PATIENCE_S = 120
DRIVERS = {
    "curator": """
import importlib.util, json, os, sys
# Its tokenizer's vocabulary would be downloaded; the same one is in litellm, which it installs.
litellm = os.path.dirname(importlib.util.find_spec("litellm").origin)
os.environ["TIKTOKEN_CACHE_DIR"] = os.path.join(litellm, "litellm_core_utils", "tokenizers")
from bespokelabs import curator
url, model, path, out = sys.argv[1:5]
rows = [json.loads(line)["messages"][0]["content"] for line in open(path)]
limits = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**9, "max_concurrent_requests": 64}
where = {"base_url": url, "require_all_responses": False}
llm = curator.LLM(model_name=model, backend="openai", backend_params=where | limits,
                  generation_params={"temperature": 0.7, "max_tokens": 256})
found = llm(rows, working_dir=out)
found = getattr(found, "dataset", found)
print("ROWS", sum(bool(row.get("response")) for row in found))
""",
    "distilabel": """
import json, sys
from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration
url, model, path, out = sys.argv[1:5]
def main():
    rows = [{"instruction": json.loads(line)["messages"][0]["content"]} for line in open(path)]
    with Pipeline(name="bench", cache_dir=out) as pipeline:
        llm = OpenAILLM(model=model, base_url=url, api_key="none",
                        generation_kwargs={"temperature": 0.7, "max_new_tokens": 256})
        LoadDataFromDicts(data=rows, batch_size=64) >> TextGeneration(llm=llm, input_batch_size=64)
    found = pipeline.run(use_cache=True)["default"]["train"]
    print("ROWS", sum(row["generation"] is not None for row in found))
if __name__ == "__main__":
    main()
""",
    "inspect": """
import json, sys
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.solver import generate
url, model, path, out = sys.argv[1:5]
rows = [Sample(input=json.loads(line)["messages"][0]["content"]) for line in open(path)]
config = GenerateConfig(temperature=0.7, max_tokens=256, max_connections=64)
task = Task(dataset=MemoryDataset(rows), solver=generate(cache=True), config=config)
log = eval(task, model="openai-api/lema/" + model, model_base_url=url, display="none", log_dir=out,
           score=False, max_samples=64, fail_on_error=False)[0]
print("ROWS", sum(bool(sample.output.completion) for sample in log.samples or [] if not sample.error))
""",
}
PRIVATE = {
    "OPENAI_API_KEY": "none",
    "LEMA_API_KEY": "none",
    "TELEMETRY_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "0",
}


class Client:
    """One system under trial: a command for a file of prompts and a folder that keeps its state."""

    def __init__(self, name: str, bench: Bench, python: str = "") -> None:
        self.name, self._bench, self._python = name, bench, python

    def command(self, file: Path, out: Path) -> list[str]:
        """Return the command; its home and caches lie in ``out``, so that nothing is left from an earlier trial."""
        place = [f"{self._bench.base}/v1", self._bench.model, str(file)]
        if self.name == "ours":
            return [*LEMA, "complete", str(file), "--base-url", place[0], "--model", place[1], "--out", str(out)]
        if self.name == "bare":
            return [sys.executable, "-c", BARE, *place, "64"]
        script = self._bench.folder / f"{self.name}_driver.py"
        script.write_text(DRIVERS[self.name])
        home = {"HOME": str(out), "CURATOR_CACHE_DIR": str(out / "c"), "INSPECT_CACHE_DIR": str(out / "i")} | PRIVATE
        settings = [f"{name}={value}" for name, value in home.items()]
        patience = ["timeout", "-k", "5", str(PATIENCE_S)]
        return [*patience, "env", *settings, self._python, str(script), *place, str(out / "work")]

    def use(self, file: Path, out: str) -> Used:
        """Run it on a file; the caller looks at the exit code."""
        folder = self._bench.folder / self.name / out
        folder.mkdir(parents=True, exist_ok=True)
        return run(self.command(file, folder))


def rows_of(used: Used) -> str:
    """Return what the client says that it has: rows with an answer, or how it ended."""
    told = [line.split()[1] for line in used.output.splitlines() if line.startswith("ROWS ")]
    if used.code in {124, 137, -9}:
        return f"no end in {PATIENCE_S} s"
    return f"{told[-1]} rows" if told else f"exit {used.code}"


def cost(client: Client, bench: Bench) -> str:
    """CPU a request with start-up subtracted, the largest process, and the time at 64 in flight and 50 ms."""
    bench.reset(latency_s=0.05)
    few, many = bench.file("few", range(50)), bench.file("many", range(bench.requests))
    start, whole = client.use(few, "few"), client.use(many, "many")
    if start.code or whole.code:
        return f"no figure: {rows_of(start)}, then {rows_of(whole)}"
    count = bench.requests - 50
    cpu, wall = 1000 * (whole.cpu - start.cpu) / count, whole.wall - start.wall
    return f"CPU {cpu:.2f} ms a request, {whole.megabytes:.0f} MB, {count / wall:.0f}/s"


def kill(client: Client, bench: Bench) -> str:
    """SIGKILL to the whole group at half of 1,000 rows, then the same command again."""
    bench.reset(latency_s=0.05)
    file, folder = bench.file("k", range(1000)), bench.folder / client.name / "kill"
    folder.mkdir(parents=True)
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(client.command(file, folder), stdout=nowhere, stderr=nowhere, start_new_session=True)
    while bench.get("stats")["ok"] < 500 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = client.use(file, "kill")
    stats = bench.get("stats")
    return f"again: {ending(client, again)}; paid twice {stats['paid_twice']:.0f}, distinct {stats['distinct']:.0f}"


def failing(client: Client, bench: Bench) -> str:
    """About 10 % of 300 prompts always answer 500; then the server is well and the same command runs again."""
    bench.reset(latency_s=0.02, always_failing=0.1)
    file = bench.file("f", range(300))
    first, paid = client.use(file, "failing"), bench.get("stats")["ok"]
    bench.get("faults", {})
    second, both = client.use(file, "failing"), bench.get("stats")["ok"]
    return f"pays {paid:.0f}, {ending(client, first)}; again pays {both - paid:.0f}, {ending(client, second)}"


def growing(client: Client, bench: Bench) -> str:
    """200 rows, then 201 of which 200 are the same."""
    bench.reset()
    client.use(bench.file("g", range(200)), "growing")
    paid = bench.get("stats")["ok"]
    grown = client.use(bench.file("g", range(201)), "growing")
    return f"pays {paid:.0f}, then {bench.get('stats')['ok'] - paid:.0f}; {ending(client, grown)}"


def ending(client: Client, used: Used) -> str:
    """Return how many rows came out, or how it ended."""
    if client.name == "ours" and used.code == 0:
        return next(
            line.partition(": ")[2].partition(";")[0] for line in used.output.splitlines() if "answered" in line
        )
    return rows_of(used)


TRIALS: tuple[Callable[[Client, Bench], str], ...] = (cost, kill, failing, growing)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [trial.__name__ for trial in TRIALS]
    parser.add_argument("trials", nargs="*", choices=[[], *names], metavar="TRIAL")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--only", default="", metavar="NAME", help="one client alone")
    for name in DRIVERS:
        parser.add_argument(f"--{name}", default="", help=f"the interpreter of {name}'s environment")
    options = parser.parse_args()
    for trial in TRIALS:
        for name in ("ours", "bare", *DRIVERS):
            stateless = name == "bare" and trial is not cost
            if stateless or options.only not in {"", name} or (options.trials and trial.__name__ not in options.trials):
                continue
            python = getattr(options, name, "")
            if name in DRIVERS and not shutil.which(python):
                print(f"| {trial.__name__} | {name} | skipped: no --{name} |", flush=True)
                continue
            with (
                tempfile.TemporaryDirectory(prefix="lema-peers-", ignore_cleanup_errors=True) as folder,
                server() as base,
            ):
                bench = Bench(base, "fixed", Path(folder), options.requests)
                print(f"| {trial.__name__} | {name} | {trial(Client(name, bench, python), bench)} |", flush=True)


if __name__ == "__main__":
    main()
