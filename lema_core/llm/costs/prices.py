"""What tokens cost: the run file's override first, then the price list of genai-prices, which is shipped offline."""

from functools import lru_cache

from lema_core.errors import ConfigError
from lema_core.llm.endpoints import EndpointSpec, Price


def price_of(spec: EndpointSpec) -> Price | None:
    """Return the endpoint's price, or None if it is unknown.

    The list is asked by URL and model: a model that is served at home has a famous name too, but no price.
    """
    if spec.price is not None:
        return spec.price
    return _look_up_price(spec.base_url, spec.model) if spec.base_url else None


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
        )
    except LookupError:
        return None


def cost_of(spec: EndpointSpec, price: Price | None, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Return dollars, or None without a price."""
    if price is None:
        return None
    dollars = (prompt_tokens * price.input_per_million + completion_tokens * price.output_per_million) / 1e6
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
            f"{spec.base_url or 'it'}. Give the endpoint's `price` (input_per_million and output_per_million), or a "
            "budget in tokens"
        )
