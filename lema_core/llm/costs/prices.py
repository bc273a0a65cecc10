"""What tokens cost, and how many a request takes before the endpoint has counted them.

A price comes from the run file's override, else from the price list of genai-prices, which is shipped offline.
"""

from functools import lru_cache

from lema_core.errors import ConfigError
from lema_core.llm.endpoints import EndpointSpec, Price
from lema_core.llm.requests import CompletionRequest

CHARS_PER_TOKEN = 4
"""Of English prose and sums, roughly, before any tokenizer has counted."""
UNKNOWN_OUTPUT = 2048
"""Output tokens to reserve for a request without a cap, before any answer."""


def price_of(spec: EndpointSpec) -> Price | None:
    """Return the endpoint's price, or None if it is unknown.

    The list is asked by URL and model: a model that is served at home has a famous name too, but no price.
    """
    if spec.price is not None:
        return spec.price
    return _look_up_price(spec.urls[0], spec.model) if spec.urls else None


@lru_cache(maxsize=256)
def _look_up_price(base_url: str, model: str) -> Price | None:
    from genai_prices import Usage, calc_price

    def per_million(usage: Usage) -> float:
        # A thousand tokens: long prompts have higher tiers with some providers.
        return 1000 * float(calc_price(usage, model, provider_api_url=base_url).total_price)

    try:
        return Price(
            input_per_million=per_million(Usage(input_tokens=1000)),
            output_per_million=per_million(Usage(output_tokens=1000)),
            # All of the prompt from the cache, or into it: where the list has no price of its own, that of the input.
            cached_input_per_million=per_million(Usage(input_tokens=1000, cache_read_tokens=1000)),
            cache_write_per_million=per_million(Usage(input_tokens=1000, cache_write_tokens=1000)),
        )
    except LookupError:
        return None


def cost_of(
    spec: EndpointSpec,
    price: Price | None,
    prompt_tokens: float,
    completion_tokens: float,
    cached_tokens: float = 0,
    cache_write_tokens: float = 0,
) -> float | None:
    """Return dollars, or None without a price; cached and written tokens are part of the prompt's."""
    if price is None:
        return None
    fresh = prompt_tokens - cached_tokens - cache_write_tokens
    cached, written = price.cached_input_per_million, price.cache_write_per_million
    dollars = (
        fresh * price.input_per_million
        + cached_tokens * (price.input_per_million if cached is None else cached)
        + cache_write_tokens * (price.input_per_million if written is None else written)
        + completion_tokens * price.output_per_million
    ) / 1e6
    return dollars * price.batch_factor if spec.transport == "batch" else dollars


def money(dollars: float | None) -> str:
    """Return US dollars, to the cent from one cent on; a dash where no price is known."""
    if dollars is None:
        return "–"
    return "$0" if dollars == 0 else f"${dollars:,.2f}" if dollars >= 0.01 else f"${dollars:.4f}"


def need_price(spec: EndpointSpec, price: Price | None) -> None:
    """Refuse a budget in money for an endpoint without a known price.

    Raises:
        ConfigError: there is no price.
    """
    if price is None:
        raise ConfigError(
            f"a budget in money needs a price for {spec.model!r}, and the price list has none for "
            f"{', '.join(spec.urls) or 'it'}. Give the endpoint's `price` (input_per_million and output_per_million), "
            "or a budget in tokens"
        )


class TokenEstimator:
    """Running estimates of one endpoint."""

    def __init__(self) -> None:
        self._chars = self._prompt_tokens = self._answers = self._output = 0
        self._longest = self._beyond_cap = 0

    def observe(self, chars: int, prompt_tokens: int, completion_tokens: int, cap: float | None = None) -> None:
        """Learn from an answer; ``cap`` is the largest that it was asked with."""
        # xAI's cap leaves thinking out: an answer of 100 tokens may be billed with 2,000.
        if cap is not None:
            self._beyond_cap = max(self._beyond_cap, completion_tokens - int(cap))
        self._chars += chars
        self._prompt_tokens += prompt_tokens
        self._answers += 1
        self._output += completion_tokens
        self._longest = max(self._longest, completion_tokens)

    def upper_bound(self, chars: int, cap: int | None) -> tuple[float, float]:
        """Return (prompt, output) tokens that a request will hardly exceed. Without a cap the output is a guess."""
        ratio = self._prompt_tokens / self._chars if self._chars else 0.5
        prompt = 1.2 * ratio * chars + 16
        if cap is None:
            return prompt, float(max(UNKNOWN_OUTPUT, 2 * self._longest))
        return prompt, float(cap + self._beyond_cap)

    def expected(self, chars: int, cap: int | None) -> tuple[float, float]:
        """Return (prompt, output) tokens that a request probably takes."""
        ratio = self._prompt_tokens / self._chars if self._chars else 1 / CHARS_PER_TOKEN
        output = self._output / self._answers if self._answers else 256.0
        return ratio * chars, output if cap is None else min(cap + self._beyond_cap, output)


def prompt_chars(request: CompletionRequest) -> int:
    """Return the length of a request's messages in characters."""
    # Called several times per request: a generator takes twice as long.
    chars = 0
    for message in request.messages:
        content = message.get("content")
        chars += len(content if isinstance(content, str) else str(content))
    return chars
