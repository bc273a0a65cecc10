"""Fuzz the answer matcher: hostile text must not crash it, run, take long, or be called right.

    python benchmarks/fuzz_answers.py --seconds 60      # as in CI
    python benchmarks/fuzz_answers.py --seconds 3600    # once for a release

Prints the number of texts tried and the slowest one; exits with 1 at the first finding, which is printed.
"""

import argparse
import sys
import time
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lema_core.answers import Match, extract, judge, match
from lema_core.answers.judge import verify_pair
from lema_core.step_checker import false_equations

SECONDS_A_TEXT = 1.0
GOLD = "73951"
"""A number that no hostile text should turn out to be."""

WORDS = r"""
{ } ( ) [ ] \{ \} | $ $$ \( \) \[ \] \left( \right) ^ _ & \\ % ! , ; : . = < > <= != \pm \cup \in - + * / **
\frac \dfrac12 \sqrt \sqrt[3] \binom \text{ \boxed{ \begin{pmatrix} \end{pmatrix} \overline{3} \sum_{k=1}^{9}
\int_0^1 \prod \log_2 \sin \cot \pi \infty ^\circ \lceil \rceil \cdot \times 9 99 9999999 0 0.5 .5 1e9 1/2 10:30
12_7 x y n i e f(x) dx pm am cm dollars percent and or the is answer #### A: Q: Question: <<1+1=3>>
<think> </think> <answer> </answer> <|im_end|> {"answer": Wait, not wrong Therefore, 答案： Réponse Choice: ### **
__import__('os') {0.__class__} %s ½ ² √ ∞ ３ − ٣ 💥
"""
PIECES = (*WORDS.split(), "The answer is ", "\n", " ", "\x00", "\ud800", "\u202e")

texts = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=60).map(" ".join),
    st.tuples(st.sampled_from(PIECES), st.integers(1, 20_000)).map(lambda pair: pair[0] * pair[1]),
    st.text(max_size=300),
    st.recursive(
        st.sampled_from(["9", "x", "2", "\\pi"]),
        lambda inner: st.tuples(
            st.sampled_from(["({}+{})", "{}^{{{}}}", "\\frac{{{}}}{{{}}}", "({}!{})"]), inner, inner
        ).map(lambda parts: parts[0].format(parts[1], parts[2])),
        max_leaves=30,
    ),
)


class FindingError(Exception):
    """A text that broke a promise."""


def _extracted(text: str, family: str) -> tuple[str, str]:
    found = extract(text, family, ("a", "b c") if family == "choice" else None, loose=True)
    return found.outcome, found.cue


def _judged(text: str, family: str) -> tuple[str, str]:
    judged = judge(text, GOLD, family)
    return judged.verdict, judged.decided_by


def _matched(found: Match) -> tuple[str, str]:
    return found.outcome, found.layer


def check(text: str) -> float:
    """Try one text every way; return the slowest call's seconds."""
    slowest = 0.0
    calls: tuple[Callable[[], tuple[str, str]], ...] = (
        lambda: _extracted(text, "numeric"),
        lambda: _extracted(text, "latex"),
        lambda: _extracted("The answer is " + text, "choice"),
        lambda: _judged("#### " + text, "numeric"),
        lambda: _judged("\\boxed{" + text + "}", "latex"),
        lambda: _matched(match(GOLD, text)),
        lambda: _matched(match(text, GOLD)),
        lambda: _matched(verify_pair(GOLD, text).match),
        lambda: (str(false_equations(text)), ""),
    )
    for call in calls:
        start = time.process_time()
        outcome, by = call()
        slowest = max(slowest, time.process_time() - start)
        if outcome in {"right", "equal"} or by == "error":  # the guard hides a defect from users, not from here
            raise FindingError(f"{text!r} was called {outcome} by {by}")
    if slowest > SECONDS_A_TEXT:
        raise FindingError(f"{text[:200]!r} took {slowest:.2f} s")
    return slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    count, slowest = 0, 0.0
    match(r"\int_0^1 x dx", "1/2")

    @settings(
        max_examples=500, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(texts)
    def fuzz(text: str) -> None:
        nonlocal count, slowest
        if time.monotonic() < end:
            slowest = max(slowest, check(text))
            count += 1

    try:
        while time.monotonic() < end:
            fuzz()
    except FindingError as finding:
        print(f"after {count} texts: {finding}")
        sys.exit(1)
    print(f"{count} texts, nothing found; the slowest call took {slowest:.2f} s of CPU time")


if __name__ == "__main__":
    main()
