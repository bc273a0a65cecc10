"""Repeat the trials of docs/requests.md: `lema complete` against the simulated endpoint, and a bare AsyncOpenAI loop.

    python benchmarks/requests.py [TRIAL ...] [--requests N] [--server URL]

Without names all trials run (about ten minutes on two quiet cores). Each prints one line of a Markdown table. --server
takes another endpoint with /stats (hits, ok, r429, distinct, paid_twice), /reset and --model for its model's name.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import Bench, Used, run, server


def speed(bench: Bench, concurrency: int, latency: float) -> str:
    few, many = bench.file("few", range(50)), bench.file("many", range(bench.requests))
    names: dict[str, Callable[[Path, str], Used]] = {
        "ours": lambda file, out: bench.complete(file, out, "--concurrency", str(concurrency)),
        "bare": lambda file, _: bench.bare(file, concurrency),
    }
    found = {}
    for name, client in names.items():
        bench.reset(latency_s=latency)
        start, whole = client(few, f"{concurrency}-few"), client(many, f"{concurrency}-many")
        count = bench.requests - 50
        found[name] = (1000 * (whole.cpu - start.cpu) / count, count / (whole.wall - start.wall), whole.megabytes)
    (cpu, rate, memory), (bare_cpu, bare_rate, _) = found["ours"], found["bare"]
    ideal = concurrency / latency
    return (
        f"CPU {cpu:.2f} ms a request, bare loop {bare_cpu:.2f}: {cpu / bare_cpu:.2f} x; {rate:.0f}/s, bare "
        f"{bare_rate:.0f}/s, concurrency/latency {ideal:.0f}/s; {memory:.0f} MB"
    )


def narrow(bench: Bench) -> str:
    return speed(bench, 64, 0.05)


def wide(bench: Bench) -> str:
    return speed(bench, 512, 0.2)


def roomy(bench: Bench) -> str:
    return speed(bench, 64, 0.2)


def memory(bench: Bench) -> str:
    bench.reset()
    used = {}
    for count in (10_000, 100_000):
        used[count] = bench.complete(bench.file(f"m{count}", range(count)), f"m{count}").megabytes
    return f"{used[10_000]:.0f} MB for 10,000, {used[100_000]:.0f} MB for 100,000: {used[100_000] / used[10_000]:.2f} x"


def again(bench: Bench) -> str:
    bench.reset()
    file = bench.file("m100000", range(100_000))
    bench.complete(file, "m100000")
    before = bench.get("stats")["hits"]
    read = "import sys, pyarrow.parquet as pq; pq.read_table(sys.argv[1])"
    answers = bench.folder / "m100000" / "completions.parquet"
    reading = run([sys.executable, "-c", read, str(answers)]).wall
    finished = bench.complete(file, "m100000").wall
    ledger = bench.complete(file, "new", "--ledger", str(bench.folder / "m100000" / "ledger.sqlite")).wall
    hits = bench.get("stats")["hits"] - before
    return (
        f"{hits:.0f} requests; a process that reads the Parquet {reading:.2f} s; the same command again "
        f"{finished:.2f} s ({finished / reading:.1f} x); into a new folder, every row from the ledger, {ledger:.2f} s"
    )


def kills(bench: Bench) -> str:
    bench.reset(latency_s=0.05)
    file = bench.file("k", range(2000))
    command, times = bench.command(file, "killed"), (100, 700, 1500)
    for after in times:
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while bench.get("stats")["ok"] < after and client.poll() is None:
            time.sleep(0.02)
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    bench.complete(file, "killed")
    twice = bench.get("stats")["paid_twice"]
    bench.complete(file, "undisturbed")
    names = ("completions.parquet", "rejected.parquet")
    same = all(
        (bench.folder / "killed" / n).read_bytes() == (bench.folder / "undisturbed" / n).read_bytes() for n in names
    )
    return f"{len(times)} kills at 64 in flight: paid twice {twice:.0f} (at most {64 * len(times)}); same bytes: {same}"


def duplicates(bench: Bench) -> str:
    bench.reset(latency_s=0.05)
    bench.complete(bench.file("d", [row % 100 for row in range(1000)]), "duplicates")
    return f"1,000 rows, 100 distinct: pays {bench.get('stats')['ok']:.0f}"


def failing(bench: Bench) -> str:
    bench.reset(latency_s=0.02, always_failing=0.1)
    file = bench.file("f", range(1000))
    first = bench.complete(file, "failing").output.strip().splitlines()[-1]
    paid = bench.get("stats")["ok"]
    bench.get("faults", {})
    bench.complete(file, "failing")
    return f"{first.split('; ')[0].split(': ')[-1]}; the next run pays {bench.get('stats')['ok'] - paid:.0f}"


def growing(bench: Bench) -> str:
    bench.reset()
    paid = [0.0]

    def step(file: Path, *more: str) -> int:
        bench.complete(file, "growing", *more)
        paid.append(bench.get("stats")["ok"])
        return round(paid[-1] - paid[-2])

    step(bench.file("g1", range(200)))
    grown = step(bench.file("g2", range(201)))
    shuffled = step(bench.file("g3", list(range(201))[::-1]))
    added = step(bench.file("g4", range(201), user="somebody", n=1))
    other = step(bench.file("g5", range(201)), "--identity", "another")
    return f"200 to 201 rows pays {grown}; shuffled {shuffled}; a neutral parameter {added}; another identity {other}"


def limited(bench: Bench) -> str:
    bench.reset(latency_s=0.05, requests_per_second=100, retry_after_s=1)
    bench.complete(bench.file("l", range(1000)), "limited")
    stats = bench.get("stats")
    share = stats["r429"] / stats["hits"]
    return f"1,000 requests at 100/s: {stats['wall_s']:.1f} s (ideal 10.0), answers 429: {share:.1%}"


def changing(bench: Bench) -> str:
    found = []
    for before, after in ((100, 10), (10, 100), (100, 1000)):
        bench.reset(latency_s=0.05, requests_per_second=before, retry_after_s=1)
        command = bench.command(bench.file("c", range(1000)), f"changing{before}-{after}")
        client = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while bench.get("stats")["ok"] < 500 and client.poll() is None:
            time.sleep(0.02)
        bench.get("faults", {"latency_s": 0.05, "requests_per_second": after, "retry_after_s": 1})
        client.wait()
        stats, ideal = bench.get("stats"), 500 / before + 500 / after
        share = stats["r429"] / stats["hits"]
        found.append(f"{before} to {after}/s: {stats['wall_s']:.1f} s (ideal {ideal:.1f}), 429: {share:.1%}")
    return "; ".join(found)


def processes(bench: Bench) -> str:
    bench.reset(latency_s=0.2)
    file, shared = bench.file("p", range(2000)), str(bench.folder / "shared.sqlite")
    commands = [bench.command(file, f"p{number}", "--ledger", shared, "--concurrency", "16") for number in range(24)]
    clients = [subprocess.Popen(one, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for one in commands]
    errors = [client.communicate()[1].decode() for client in clients]
    bad = [text for client, text in zip(clients, errors, strict=True) if client.returncode]
    stats = bench.get("stats")
    same = len({(bench.folder / f"p{number}" / "completions.parquet").read_bytes() for number in range(24)}) == 1
    paid = f"pays {stats['ok']:.0f}, paid twice {stats['paid_twice']:.0f}"
    return f"24 processes, 2,000 rows: errors {len(bad)}, {paid}; same bytes: {same}"


TRIALS = (narrow, roomy, wide, memory, again, kills, duplicates, failing, growing, limited, changing, processes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trials", nargs="*", choices=[[], *(trial.__name__ for trial in TRIALS)], metavar="TRIAL")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--server", default="")
    parser.add_argument("--model", default="fixed")
    options = parser.parse_args()
    for trial in TRIALS:
        if options.trials and trial.__name__ not in options.trials:
            continue
        with tempfile.TemporaryDirectory(prefix="lema-bench-") as folder, server() as own:
            bench = Bench(options.server or own, options.model, Path(folder), options.requests)
            print(f"| {trial.__name__} | {trial(bench)} |", flush=True)


if __name__ == "__main__":
    main()
