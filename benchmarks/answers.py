"""The answer matcher side by side with Math-Verify, in one run on one core: accuracy and pairs a CPU second.

    python benchmarks/answers.py DATA [--skip-peer]

DATA is a folder with ``verify_cases/*.jsonl`` and ``model_solutions/*.jsonl``. Times are CPU times of this process and
the matcher's worker processes, so that other load on the machine does not matter; the caches are cold, the workers are
started beforehand on both sides (Math-Verify's imports are not timed either).
"""

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from lema_core.answers import judge, match
from lema_core.answers.judge import verify_pair
from lema_core.answers.results import family_of

Case = dict[str, Any]
SHORTEST = 0.02
"""CPU seconds below which a rate is noise."""
MATH_SETS = ("math_gold_identity", "math_gold_perturbed", "math_gold_rewrites", "real_math_pairs_adjudicated")


def read(path: Path) -> list[Case]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def cpu_seconds() -> float:
    # This process by its fine clock: the kernel's figures of the workers have ticks of a hundredth.
    workers = psutil.Process().children(recursive=True)
    return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in workers)


def timed(call: Callable[[Case], bool], cases: Iterable[Case]) -> tuple[list[bool], float]:
    start = cpu_seconds()
    results = [call(case) for case in cases]
    return results, cpu_seconds() - start


def wrapped(text: str) -> str:
    return text if any(sign in text for sign in ("$", "\\boxed", "\\(", "\\[")) else f"${text}$"


def peer_pair(case: Case) -> bool:
    from math_verify import parse, verify

    pred = case["pred"] if case["kind"] in {"extract", "choice"} else wrapped(case["pred"])
    return bool(verify(parse(wrapped(case["gold"])), parse(pred)))


def peer_solution(case: Case) -> bool:
    from math_verify import parse, verify

    return bool(verify(parse(wrapped(case["gold_answer"])), parse(case["solution"])))


def our_pair(case: Case) -> bool:
    choices = tuple(case["candidates"]) if case.get("candidates") else None
    return verify_pair(case["gold"], case["pred"], family_of(case), choices).verdict == "equal"


def our_solution(family: str) -> Callable[[Case], bool]:
    return lambda case: judge(case["solution"], case["gold_answer"], family).verdict == "right"


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds:.0f}/s" if seconds >= SHORTEST else "-"


def row(
    name: str, ours: Callable[[Case], bool], peer: Callable[[Case], bool] | None, cases: list[Case], label: str
) -> None:
    results, seconds = timed(ours, cases)
    right = sum(result == case[label] for result, case in zip(results, cases, strict=True))
    wrongly_equal = sum(result and not case[label] for result, case in zip(results, cases, strict=True))
    line = f"{name:28} {len(cases):5} | ours {right / len(cases):.4f} {wrongly_equal:3} {rate(len(cases), seconds):>9}"
    if peer is not None:
        results, peer_seconds = timed(peer, cases)
        peer_right = sum(result == case[label] for result, case in zip(results, cases, strict=True))
        peer_equal = sum(result and not case[label] for result, case in zip(results, cases, strict=True))
        line += f" | Math-Verify {peer_right / len(cases):.4f} {peer_equal:3} {rate(len(cases), peer_seconds):>9}"
        line += f" | {peer_seconds / seconds:.1f}x" if seconds >= SHORTEST else ""
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--skip-peer", action="store_true", help="only our own figures")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    match(r"\int_0^1 x dx", "1/2")
    pair, solution = (None, None) if options.skip_peer else (peer_pair, peer_solution)
    if pair is not None:
        peer_pair({"gold": "1", "pred": "1", "kind": "short"})
    print("set, rows | accuracy, wrongly equal, pairs a CPU second")
    sets = options.data / "verify_cases"
    mixed = [case for name in MATH_SETS[:3] for case in read(sets / f"{name}.jsonl")]
    solutions = options.data / "model_solutions"
    gsm8k = read(solutions / "gsm8k_model_solutions.jsonl")
    row("GSM8K real solutions", our_solution("numeric"), solution, gsm8k, "official_is_correct")
    math = read(solutions / "math_model_solutions.jsonl")
    row("MATH real solutions, cold", our_solution("latex"), solution, math, "official_is_correct")
    row("MATH mixed set", our_pair, pair, mixed, "equal")
    row("MATH adjudicated pairs", our_pair, pair, read(sets / f"{MATH_SETS[3]}.jsonl"), "equal")
    peers = []
    for path in sorted(sets.glob("*.jsonl")):
        if path.stem not in MATH_SETS:
            peers += read(path)
            row(path.stem, our_pair, pair, read(path), "equal")
    row("all peers' cases (memoised)", our_pair, pair, peers, "equal")


if __name__ == "__main__":
    main()
