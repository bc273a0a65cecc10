"""The data stages at GSM8K's full size with the simulated endpoint: rows per second and peak memory of the run.

    python benchmarks/full_size.py path/to/gsm8k/train.jsonl [--limit 7473] [--samples 4] [--draws 10000]

7,473 questions, 4 paths each, judged, the mistakes corrected, questions evolved and the mistakes on them corrected, two
mixtures: one flow, in a process whose memory is read every tenth of a second. The endpoint runs in a process of its own
and is not counted. The work is the pipeline's: what a real model would take comes on top.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lema_core.artifacts import Store

RUN = """
name = "full_size"
[questions]
task = "gsm8k"
path = "{source}"
limit = {limit}
[[students]]
endpoint = "student"
samples = {samples}
[corrections]
endpoint = "reference"
[evolution]
endpoint = "reference"
draws = {draws}
[mixture]
arms = ["cot", "lema"]
[endpoints.student]
model = "simulated-student"
base_url = "{url}"
concurrency = 256
[endpoints.reference]
model = "reference-corrector"
base_url = "{url}"
concurrency = 256
"""
SHOWN = ("questions", "reasoning_paths", "verdicts", "mistakes", "corrections", "evolution_created", "evolution_novel",
         "evolution", "mixture")  # fmt: skip


def main() -> None:
    """Run once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="GSM8K's train.jsonl, or a file of its form")
    parser.add_argument("--limit", type=int, default=7473)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--draws", type=int, default=10_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        endpoint, url = start_endpoint(chosen.source)
        try:
            text = RUN
            for name, value in {**vars(chosen), "source": chosen.source.resolve(), "url": url}.items():
                text = text.replace("{" + name + "}", str(value))
            (folder / "run.toml").write_text(text)
            seconds, peak = run_and_watch(folder)
        finally:
            endpoint.terminate()
            endpoint.wait()
        show(Store(str(folder / "out" / "store")), seconds, peak)


def start_endpoint(source: Path) -> tuple[subprocess.Popen[str], str]:
    """Start the simulated endpoint in a process of its own, and wait until it answers."""
    words = [sys.executable, "-m", "lema_core.llm.simulated", "--port", "0", "--questions", str(source)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline() if process.stdout else ""
    return process, next(word for word in line.split() if word.startswith("http"))


def run_and_watch(folder: Path) -> tuple[float, int]:
    """Run the flow; return its seconds and the largest resident memory of its process and what it started, in bytes."""
    words = [sys.executable, "-c", "from flows.cli import app; app()", "run", "run.toml", "--root", "out"]
    started, peak = time.monotonic(), 0
    run = psutil.Popen(words, cwd=folder, env=os.environ | {"PREFECT_HOME": str(folder / "prefect")})
    while run.poll() is None:
        peak = max(peak, resident(run))
        time.sleep(0.1)
    seconds = time.monotonic() - started
    subprocess.run([*words[:3], "ui", "stop"], cwd=folder, check=False)
    if run.returncode:
        sys.exit(f"the run failed with exit code {run.returncode}")
    return seconds, peak


def resident(run: psutil.Popen) -> int:
    """Return the run's resident memory, without the Prefect server it started."""
    family = [run, *run.children(recursive=True)]
    total = 0
    for process in family:
        try:
            if "prefect" not in " ".join(process.cmdline()):
                total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def show(store: Store, seconds: float, peak: int) -> None:
    """Print a line a stage and the totals."""
    rows = 0
    for stage in SHOWN:
        for found in (manifest for manifest in store.manifests() if manifest.stage == stage):
            rows += found.rows_in
            rate = found.rows_in / max(found.seconds, 1e-3)
            print(f"{stage:18} {found.rows_in:7} in {found.rows_out:7} out {found.seconds:8.1f} s {rate:9.0f} rows/s")
    print(f"all stages: {rows} rows in {seconds:.0f} s with start-up, {rows / seconds:.0f} rows/s")
    print(f"peak memory of the run: {peak / 2**20:.0f} MiB (target: under 1,500 MB)")


if __name__ == "__main__":
    main()
