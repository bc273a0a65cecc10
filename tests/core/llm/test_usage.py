"""What vendors write under ``usage``: every token of the total is billed, cached and reasoning ones are kept."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vendor_usage import (
    ANTHROPIC,
    ANTHROPIC_LAYER_BESIDE,
    ANTHROPIC_LAYER_INCLUSIVE,
    DEEPSEEK,
    DEEPSEEK_SHORT,
    GEMINI,
    GEMINI_NATIVE,
    OPENAI,
    XAI,
)

from lema_core.llm.usage import MOST_TOKENS, TokenUsage, parse_usage


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (OPENAI, TokenUsage(1117, 446, 1024, 0, 384)),
        (ANTHROPIC, TokenUsage(1317, 446, 1024, 200)),
        (ANTHROPIC_LAYER_INCLUSIVE, TokenUsage(1317, 446, 1024, 200)),
        (ANTHROPIC_LAYER_BESIDE, TokenUsage(1317, 446, 1024, 200)),
        (GEMINI, TokenUsage(12, 1020)),
        (GEMINI_NATIVE, TokenUsage(1200, 1020, 1000, 0, 960)),
        (XAI, TokenUsage(1000, 500, 64, 0, 450)),
        ({name: value for name, value in XAI.items() if name != "total_tokens"}, TokenUsage(1000, 500, 64, 0, 450)),
        (DEEPSEEK, TokenUsage(1000, 500, 832, 0, 300)),
        (DEEPSEEK_SHORT, TokenUsage(1000, 500, 832)),
        ({"prompt_tokens": "100", "completion_tokens": 350.0, "total_tokens": "450"}, TokenUsage(100, 350)),
        ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 20}, TokenUsage(100, 50)),
        ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": math.nan}, TokenUsage(100, 50)),
        ({"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": -9}, TokenUsage(100, 50)),
        # OpenAI's details are part of the prompt, also where a server states more than the prompt.
        (
            {"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 900}},
            TokenUsage(100, 50, 100),
        ),
        ({"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": "x"}, TokenUsage(100, 50)),
        ({"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": None}, TokenUsage(100, 50)),
        ({"total_tokens": 900}, TokenUsage(11, 889)),
    ],
)
def test_forms_of_the_vendors(usage: Any, expected: TokenUsage) -> None:
    assert parse_usage(usage, 40, 200) == expected


counts = st.one_of(
    st.integers(-10, 5000),
    st.floats(),
    st.sampled_from(["7", "-7", "x", 10**30, 2**63, True, None, [], {}, math.nan, math.inf, MOST_TOKENS - 1]),
)
names = st.sampled_from(sorted({name for form in (OPENAI, ANTHROPIC, GEMINI_NATIVE, XAI, DEEPSEEK) for name in form}))
inner = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "cache_write_tokens"]), counts)


@given(st.dictionaries(names, st.one_of(counts, inner)), st.integers(0, 10_000), st.integers(0, 10_000))
def test_any_usage_is_bounded_and_its_parts_fit_their_wholes(usage: dict[str, Any], prompt: int, answer: int) -> None:
    found = parse_usage(usage, prompt, answer)
    assert 0 <= found.cached + found.cache_writes <= found.prompt <= MOST_TOKENS
    assert 0 <= found.reasoning <= found.completion <= MOST_TOKENS
    total = usage.get("total_tokens")
    if type(total) is int and 0 <= total < MOST_TOKENS:
        assert found.prompt + found.completion >= total, "nothing that the total holds is free"
