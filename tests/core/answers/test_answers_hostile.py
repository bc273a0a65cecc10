"""Hostile text: no crash, no execution, under a second, no verdict "right"."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lema_core.answers import extract, judge, majority_vote, match
from lema_core.answers.judge import verify_pair
from lema_core.answers.worker_pool import Workers
from lema_core.step_checker import false_equations

HOSTILE = {
    "tower": "9**9**9**9",
    "latex tower": "9^{9^{9^{9}}}",
    "factorials": "((((9!)!)!)!)!",
    "big factorial": "9999999!",
    "braces": "{" * 10_000 + "}" * 10_000,
    "brackets": "(" * 10_000 + "1" + ")" * 10_000,
    "fractions": r"\frac{1}{" * 5_000 + "1" + "}" * 5_000,
    "boxes": r"\boxed{" * 10_000 + "1" + "}" * 10_000,
    "open boxes": r"\boxed{" * 20_000,
    "megabyte of digits": "1" * 1_000_000,
    "megabyte of spaces": " " * 1_000_000,
    "cues": "answer is " * 15_000,
    "cues and spaces": "answer is" + " " * 190_000,
    "hashes": "#### " * 30_000,
    "open formulas": r"\[ " * 50_000,
    "dollars": "$" * 190_000,
    "sum": "1+" * 90_000 + "= 3",
    "equations": "1 = 2 " * 30_000,
    "code": "__import__('os').system('touch {marker}')",
    "full-width code": "＿＿ｉｍｐｏｒｔ＿＿（'ｏｓ'）．ｓｙｓｔｅｍ（'touch {marker}'）",
    "NUL": "18\x00\x00",
    "format string": "%s%n%x{0.__class__}{}",
    "surrogates": "\ud800\udfff 18",
    "right to left": "\u202e81",
    "roots": r"\sqrt{" * 300 + "2" + "}" * 300,
    "exponentials": "e^{e^{e^{e^{10}}}}",
    "binomial": r"\binom{10000000}{5000000}",
    "long sum": r"\sum_{k=1}^{99999} k^{k}",
    "long product": r"\prod_{k=1}^{9999} k!",
    "signs": "-" * 100_000 + "1",
    "commas": "1," * 50_000,
    "plus minus": "(" + ",".join([r"\pm 1"] * 60) + ")",
    "matrices": r"\begin{matrix}" * 2_000,
    "functions": r"\sin" * 5_000 + " x",
    "float": "1e999999999",
    "tangents": r"\tan(\tan(\tan(\tan(10^{9000}))))",
    "expansion": "(1+x)^{9999}-(1+y)^{9999}",
    "zero": "1/0",
    "relations": "x<" * 150 + "1",
}
SECONDS = 1.0


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers, those that ended too: a busy machine does not count."""
    used = sum(os.times()[:4])
    for worker in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            used += sum(worker.cpu_times()[:2])
    return used


@pytest.fixture(scope="module", autouse=True)
def _warm_worker():
    match(r"\int_0^1 x dx", "1/2")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_data(name, tmp_path):
    text = HOSTILE[name].replace("{marker}", str(tmp_path / "executed"))
    calls = [
        lambda: extract(text, "numeric", loose=True),
        lambda: extract(text, "latex", loose=True),
        lambda: extract("The answer is " + text, "choice", ("a", "b c")),
        lambda: false_equations(text),
    ]
    for call in calls:
        start = time.process_time()  # all in this process: other load on the machine does not count
        call()
        assert time.process_time() - start < SECONDS
    for check in (
        lambda: judge("#### " + text, "18").verdict,
        lambda: judge("The answer is " + text, "18", "latex").verdict,
        lambda: match("18", text).outcome,
        lambda: match(text, "18").outcome,
        lambda: verify_pair("18", text).verdict,
    ):
        start = cpu_seconds()
        assert check() not in {"right", "equal"}
        assert cpu_seconds() - start < 3 * SECONDS
    assert not Path(tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "name", ["tower", "factorials", "big factorial", "NUL", "code", "full-width code", "surrogates"]
)
def test_hostile_answers_are_unknown(name):
    assert match("18", HOSTILE[name]).outcome == "unknown"


def test_votes_over_hostile_answers():
    assert majority_vote(["9**9**9**9", "1", "1", "__import__('os')"], "latex").answer == "1"


def test_a_pair_that_computes_too_long_is_killed_and_the_next_one_answered():
    workers = Workers(1, cpu_seconds=0.8)
    try:
        endless = workers.match(r"\int_0^\infty e^{-x^{x}} \sin(x^x) dx", r"\int_0^\infty e^{-x^{x}} \cos(x^x) dx")
        assert endless.outcome == "unknown"
        assert workers.match(r"\int_0^1 x dx", "1/2").outcome == "equal"
    finally:
        workers.close()


def test_a_worker_that_wants_too_much_memory_dies_alone():
    workers = Workers(1, memory_mib=64)
    try:
        assert workers.match(r"\int_0^1 x dx", "1/2").outcome == "unknown"
    finally:
        workers.close()


def test_threads_and_asyncio_share_the_workers():
    pairs = [(rf"\int_0^{n} x dx", rf"\frac{{{n * n}}}{{2}}") for n in range(2, 8)]
    with ThreadPoolExecutor(6) as pool:
        assert [one.outcome for one in pool.map(lambda pair: match(*pair), pairs)] == ["equal"] * len(pairs)

    async def compare() -> list[str]:
        results = await asyncio.gather(*(asyncio.to_thread(match, right, left) for left, right in pairs))
        return [one.outcome for one in results]

    assert asyncio.run(compare()) == ["equal"] * len(pairs)


@pytest.mark.parametrize("text", [r"A:.(percent\[\sin\times(}(.(", "①:②", "𐩀 𐩀/𐩁", "1_①", "10:３0", "."])
def test_odd_texts_that_a_fuzzer_found(text):
    for family in ("numeric", "latex", "text"):
        extract("The answer is " + text, family, loose=True)
        match(text, "18", family)
    false_equations(text + " + 1 = 3")
