"""How many requests of a stage may fail and become rejected rows; and which artifacts hold such rows.

A failed request is in no artifact's identity: the same artifact could be made with its answer. So a part counts its
failures, and an artifact that holds too many of them is not published.
"""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

from lema_core.artifacts import PartWriter
from lema_core.artifacts.manifest import Manifest
from lema_core.errors import BatchPendingError, RequestsFailedError
from lema_core.llm.limits.health import remedy
from lema_core.llm.requests import PROMPTS_FAULT, Failure, Outcome

FAILED = "failed_"
"""Begins a part's counts of requests that failed, by reason."""
ANSWERED = "completions"
"""A part's count of requests that were answered."""
SECOND = "second_"
"""Begins the counts of a stage's second endpoint."""
JUDGE = "judge_"
"""Begins the counts of the endpoint that a scorer asks."""
REJECTED = "request_failed"
"""The reason of a row that is rejected because its request failed."""
CUT_IN_THINKING = "cut_in_thinking"
"""A part's count of answers without a text, because the cap was used up before it."""
SMALL = 20
"""Fewer requests may lose as many as one of this size: one of four is no sign that an endpoint does not work."""


def failures_in(counts: Mapping[str, int], prefix: str = "") -> Counter[str]:
    """Return how many requests failed, by reason, from the counts of a part or a manifest.

    ``prefix`` names the endpoint: empty for the first one, `SECOND` for the second.
    """
    start = f"{prefix}{FAILED}"
    return Counter({name.removeprefix(start): count for name, count in counts.items() if name.startswith(start)})


def all_failures(counts: Mapping[str, int]) -> Counter[str]:
    """Return how many requests failed at any endpoint of a stage, by reason."""
    return failures_in(counts) + failures_in(counts, SECOND) + failures_in(counts, JUDGE)


def failures_of(manifest: Manifest) -> Counter[str]:
    """Return how many requests failed when an artifact was made, by reason."""
    # The first versions counted them as rejected rows of one reason only.
    old = Counter({REJECTED: manifest.reasons.get(REJECTED, 0)})
    return all_failures(manifest.counts) or +old


def unanswered(manifest: Manifest) -> Counter[str]:
    """Return the failures of an endpoint that answered none of a stage's requests; empty where each answered some."""
    counts = manifest.counts
    for prefix in ("", SECOND, JUDGE):
        if (failed := failures_in(counts, prefix)) and not counts.get(f"{prefix}{ANSWERED}"):
            return failed
    failed = failures_of(manifest)
    answered = counts.get(ANSWERED) or counts.get(f"{JUDGE}{ANSWERED}")
    return failed if not answered and failed.total() == manifest.rows_in else Counter()


def too_many(failed: Mapping[str, int], requests: int, allowed: float) -> bool:
    """Return whether more requests failed than may become rejected rows, not counting those due to a prompt."""
    counted = sum(count for reason, count in failed.items() if reason not in PROMPTS_FAULT)
    # One of three is chance and no outage: few requests may lose as many as SMALL of them would.
    return counted > allowed * max(requests, SMALL)


def failed_error(
    failed: Mapping[str, int], requests: int, allowed: float, words: Mapping[str, str]
) -> RequestsFailedError:
    """Return the error for requests that failed; ``words`` is what the endpoint said, by reason."""
    reasons = {reason: count for reason, count in sorted(failed.items()) if count}
    main = max(reasons, key=lambda reason: reasons[reason])
    said = {reason: words[reason] for reason in reasons if reason in words}
    return RequestsFailedError(reasons, requests, allowed, said, remedy(main, said.get(main, "")))


def check_stage(counts: Mapping[str, int], allowed: float, prefix: str, words: Mapping[str, str]) -> None:
    """Make sure that a whole stage may be published: each of its parts alone may be too small to judge.

    Raises:
        RequestsFailedError: one of its endpoints answered nothing, or too many of its requests failed.
    """
    failed, answered = failures_in(counts, prefix), counts.get(f"{prefix}{ANSWERED}", 0)
    requests = failed.total() + answered
    if failed and allowed < 1 and (not answered or too_many(failed, requests, allowed)):
        raise failed_error(failed, requests, allowed, words)


async def tally_outcomes(
    outcomes: AsyncIterator[Outcome], part: PartWriter, requests: int, max_failed: float, prefix: str = ""
) -> AsyncIterator[Outcome]:
    """Pass outcomes on and add up what they used and what failed, in the part's counts.

    Args:
        outcomes: of the requests, in order.
        part: keeps the counts, for the report and for ``lema run``.
        requests: how many there are.
        max_failed: the largest share of them that may fail.
        prefix: keeps apart the counts of a stage's second endpoint.

    Raises:
        BatchPendingError: an outcome is still to come. A part must not hold it as a failure.
        RequestsFailedError: with the last outcome, so that all are settled: more failed than the run lets pass.
    """
    failed, words, seen = Counter[str](), dict[str, str](), 0
    async for outcome in outcomes:
        seen += 1
        if isinstance(outcome, Failure):
            if outcome.reason == "pending":
                raise BatchPendingError(f"a batch is submitted and not finished ({outcome.detail})")
            part.counts[f"{prefix}{FAILED}{outcome.reason}"] += 1
            failed[outcome.reason] += 1
            words[outcome.reason] = outcome.detail
        else:
            part.counts[f"{prefix}{ANSWERED}"] += 1
            part.counts[f"{prefix}prompt_tokens"] += outcome.prompt_tokens
            part.counts[f"{prefix}completion_tokens"] += outcome.completion_tokens
            # Exactly nothing: a model may also write white space until its cap.
            if outcome.finish_reason == "length" and not outcome.text and not prefix:
                part.counts[CUT_IN_THINKING] += 1
            for name in ("cached_tokens", "reasoning_tokens", "cache_write_tokens"):
                if count := getattr(outcome, name):
                    part.counts[f"{prefix}{name}"] += count
        if seen == requests and max_failed < 1:
            # Of a filter's refusals too: where it lets nothing pass, the prompts are not to blame one by one.
            nothing = failed.total() == requests >= SMALL
            if nothing or too_many(failed, requests, max_failed):
                raise failed_error(failed, requests, max_failed, words)
        yield outcome
