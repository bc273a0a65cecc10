"""What a set of requests would cost, before the first is sent: requests, tokens and money, with an interval.

Prompt tokens are exact with a tokenizer, else estimated from the tokens per character that the endpoint billed before.
Output tokens come from stored answers of the same endpoint to requests of the same kind: with the same cap, and prompts
that begin alike, because a model may solve in 100 tokens and correct in 600. A pilot sends some of the very requests,
which the run then gets for free. The interval is the 95 % prediction interval of a sum: it covers both the spread of
single answers and the error of a mean known from few.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import commonprefix
from statistics import fmean, stdev
from typing import Any

from lema_core.llm.costs.prices import UNKNOWN_OUTPUT, cost_of, price_of, prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.engine import Engine
from lema_core.llm.ledger.store import LedgerStore, unpack
from lema_core.llm.requests import CompletionRequest, KeyMaker, Message, Outcome, Resolver
from lema_core.system.chunking import chunked

Z95 = 1.96
SAMPLE = 500
"""Earlier requests of the same kind to learn from."""
SEARCHED = 5000
"""Earlier requests among which to look for them."""
CountTokens = Callable[[Sequence[Message]], int]


@dataclass(frozen=True, slots=True)
class Interval:
    """A likely value and the bounds it lies between, at 95 % where it rests on data."""

    low: float
    likely: float
    high: float

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.likely + other.likely, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is requested, how much of it the ledger has, and what the rest would take."""

    requests: int
    distinct: int
    stored: int
    prompt_tokens: Interval
    completion_tokens: Interval
    dollars: Interval | None
    """None: no price is known."""
    prompts_counted: bool
    """Whether the prompts were counted by the model's tokenizer; else they are estimated."""
    prompt_basis: str
    output_basis: str

    @property
    def to_send(self) -> int:
        """Return how many requests would be sent."""
        return self.distinct - self.stored


@dataclass(frozen=True, slots=True)
class _Unpaid:
    """Requests that are not paid yet, summed up."""

    count: int
    chars: int
    exact_tokens: int
    caps: int
    """The sum of their caps; a default stands for a missing one."""
    kind: "_Kind"


class _Kind:
    """What requests have in common: their caps, and how the first messages of all begin."""

    def __init__(self, caps: Iterable[int | None] = ()) -> None:
        self.caps = set(caps)
        self._opening: str | None = None

    def add(self, request: CompletionRequest) -> None:
        self.caps.add(request.sampling.cap)
        first = _first(request.messages)
        if self._opening is None:
            self._opening = first
        elif not first.startswith(self._opening):
            self._opening = commonprefix([self._opening, first])  # noqa: RUF071 - of texts, not of paths

    def has(self, document: Mapping[str, Any]) -> bool:
        """Return whether an earlier request, as the ledger stores it, is of this kind."""
        same_cap = document["params"].get("max_tokens") in self.caps
        return same_cap and _first(document["messages"]).startswith(self._opening or "")


def _first(messages: Sequence[Message]) -> str:
    return str(messages[0].get("content")) if messages else ""


@dataclass(frozen=True, slots=True)
class _EarlierAnswers:
    """What the ledger has of requests of one kind."""

    ratios: list[float]
    """Tokens per character of the prompts."""
    answers: list[int]
    """Tokens of the answers."""
    cached: list[float]
    """Shares of the prompts' tokens that came from the endpoint's prompt cache."""


def _find_earlier(store: LedgerStore, spec: EndpointSpec, kind: _Kind) -> _EarlierAnswers:
    ratios, answers, cached = [], [], []
    for packed, prompt, answer, from_cache in islice(store.sample(spec.identity), SEARCHED):
        document = unpack(packed)
        if kind.has(document):
            chars = sum(len(str(message.get("content"))) for message in document["messages"])
            ratios.append(prompt / max(1, chars))
            answers.append(answer)
            cached.append(from_cache / max(1, prompt))
        if len(answers) == SAMPLE:
            break
    return _EarlierAnswers(ratios, answers, cached)


def forecast(
    store: LedgerStore,
    spec: EndpointSpec,
    requests: Iterable[CompletionRequest],
    count_tokens: CountTokens | None = None,
) -> Forecast:
    """Return what the requests would cost at an endpoint. Nothing is sent; memory grows with the number of keys only.

    Raises:
        LedgerError: the ledger cannot be read.
    """
    keys, seen = KeyMaker(spec.identity), set[str]()
    tokens_of = _memoize_last_prompt(count_tokens) if count_tokens else None
    asked = stored = count = chars = exact = caps = 0
    kind = _Kind()
    for chunk in chunked(map(Resolver(spec.params), requests), SAMPLE):
        asked += len(chunk)
        fresh = {key: request for request in chunk if (key := keys.key(request)) not in seen}
        seen.update(fresh)
        found = store.lookup(list(fresh))
        stored += len(found)
        for key, request in fresh.items():
            if key not in found:
                count += 1
                chars += prompt_chars(request)
                exact += tokens_of(request.messages) if tokens_of else 0
                caps += request.sampling.cap or UNKNOWN_OUTPUT
                kind.add(request)
    unpaid = _Unpaid(count, chars, exact, caps, kind)
    return _price_requests(store, spec, (asked, len(seen), stored), unpaid, exact=bool(count_tokens))


def _memoize_last_prompt(count_tokens: CountTokens) -> CountTokens:
    """Return a counter that remembers the last prompt: the samples of one request share it, and follow each other."""
    last: tuple[Sequence[Message], int] | None = None

    def count_last(messages: Sequence[Message]) -> int:
        nonlocal last
        if last is None or last[0] is not messages:
            last = messages, count_tokens(messages)
        return last[1]

    return count_last


def forecast_unwritten(
    store: LedgerStore, spec: EndpointSpec, requests: int, chars: int, max_tokens: int | None
) -> Forecast:
    """Return the forecast for requests that cannot be written yet, of about ``chars`` characters each."""
    kind = _Kind([max_tokens])
    unpaid = _Unpaid(requests, requests * chars, 0, requests * (max_tokens or UNKNOWN_OUTPUT), kind)
    return _price_requests(store, spec, (requests, requests, 0), unpaid, exact=False)


async def pilot(
    engine: Engine, spec: EndpointSpec, requests: Iterable[CompletionRequest], total: int, size: int
) -> list[Outcome]:
    """Send ``size`` of ``total`` requests, evenly spread over them, so that a forecast has answers to learn from.

    They are sent by HTTP, also if the endpoint's transport is ``batch``: a forecast must not wait a day. Requests
    in open batches are ``pending``.
    """
    chosen = list(islice(requests, 0, None, max(1, total // size)))[:size]
    # Evenly spread: run files list questions by source, and the first ones may be the easy ones.
    soon = spec.model_copy(update={"transport": "http", "wait_for_batch": False})
    return [outcome async for outcome in engine.stream(soon, chosen)]


def _price_requests(
    store: LedgerStore, spec: EndpointSpec, counts: tuple[int, int, int], unpaid: _Unpaid, *, exact: bool
) -> Forecast:
    earlier = _find_earlier(store, spec, unpaid.kind)
    prompt, prompt_basis = _prompt(earlier.ratios, unpaid, exact=exact)
    output, output_basis = _output(earlier.answers, unpaid)
    price = price_of(spec)
    # From the most that a cache gave to nothing: it may be cold when the rest is sent.
    most, mean = max(earlier.cached, default=0.0), fmean(earlier.cached or [0.0])
    # The bounds of both are added, as if prompts and answers were long together: wider than needed, never too narrow.
    points = (
        (prompt.low, output.low, most * prompt.low),
        (prompt.likely, output.likely, mean * prompt.likely),
        (prompt.high, output.high, 0.0),
    )
    costs = [cost for point in points if (cost := cost_of(spec, price, *point)) is not None]
    dollars = Interval(*costs) if costs else None
    return Forecast(*counts, prompt, output, dollars, exact, prompt_basis, output_basis)


def _prompt(ratios: Sequence[float], unpaid: _Unpaid, *, exact: bool) -> tuple[Interval, str]:
    if exact:
        return Interval(unpaid.exact_tokens, unpaid.exact_tokens, unpaid.exact_tokens), "counted by the tokenizer"
    if len(ratios) < 2:
        chars = unpaid.chars
        # English prose has about 4 characters per token; digits and other scripts far fewer.
        return Interval(chars / 6, chars / 4, chars / 2), "4 characters a token (no earlier prompts)"
    mean = fmean(ratios)
    low, high = _sum_interval(mean, stdev(ratios), unpaid.count, len(ratios))
    scale = unpaid.chars / max(1, unpaid.count)
    basis = f"{mean:.3f} tokens a character, as in {len(ratios)} earlier prompts"
    return Interval(low * scale, mean * unpaid.chars, high * scale), basis


def _output(answers: Sequence[int], unpaid: _Unpaid) -> tuple[Interval, str]:
    if len(answers) < 2:
        return Interval(
            unpaid.count, unpaid.caps / 2, unpaid.caps
        ), "between one token and the cap (no earlier answers)"
    mean, spread = fmean(answers), stdev(answers)
    low, high = _sum_interval(mean, spread, unpaid.count, len(answers))
    basis = f"{mean:.0f} ± {spread:.0f} tokens an answer, as in {len(answers)} earlier ones"
    # Every answer has at least one token, however wide the spread.
    return Interval(max(low, min(unpaid.count, high)), mean * unpaid.count, high), basis


def _sum_interval(mean: float, spread: float, count: int, known: int) -> tuple[float, float]:
    """Return the 95 % prediction interval of the sum of ``count`` more values."""
    # count: the spread of the values themselves; count^2 / known: the error of a mean known from few.
    half = Z95 * spread * math.sqrt(count + count * count / known)
    return max(0.0, mean * count - half), mean * count + half
