"""What an endpoint says that it bills for one answer, in the forms of the vendors.

The forms disagree on what is inside of what. Reasoning is part of ``completion_tokens`` at OpenAI and DeepSeek, and
stands beside it at xAI and in Gemini's OpenAI layer, where only the total has it. What a prompt cache gave is part of
``prompt_tokens`` at OpenAI, DeepSeek, Gemini and xAI, and stands beside ``input_tokens`` at Anthropic. The rule is the
same for all: nothing that the total holds is free.

Forms: platform.openai.com/docs/api-reference/chat/object, docs.x.ai/docs/guides/reasoning,
api-docs.deepseek.com/guides/kv_cache, ai.google.dev/gemini-api/docs/openai and /tokens,
platform.claude.com/docs/en/build-with-claude/prompt-caching.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 10**8
"""More than any context window. A usage above it is ignored, since it would use up any budget."""
CHARS_PER_TOKEN = 4

_PROMPT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_COMPLETION = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_TOTAL = ("total_tokens", "totalTokenCount")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details")
_CACHED = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount")
_CACHE_WRITES = ("cache_creation_input_tokens", "cache_creation_tokens", "cache_write_tokens")
_REASONING = ("reasoning_tokens", "thoughts_tokens", "thoughtsTokenCount")


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that are billed for one answer."""

    prompt: int
    """All of the prompt, from the cache or not."""
    completion: int
    """All that was written, thinking included."""
    cached: int = 0
    """Of the prompt: read from the prompt cache."""
    cache_writes: int = 0
    """Of the prompt: written into the prompt cache, which some vendors bill at a higher price."""
    reasoning: int = 0
    """Of the completion: spent on thinking."""


def parse_count(value: Any) -> int | None:
    """Return a number of tokens from an int, a whole float or digits; None for anything else, True included."""
    whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12
    if isinstance(value, bool) or not (isinstance(value, int) or whole or digits):
        return None
    count = int(value)
    return count if 0 <= count < MOST_TOKENS else None


def parse_usage(usage: Any, prompt_chars: int, answer_chars: int) -> TokenUsage:
    """Return what was billed, whatever an endpoint wrote under ``usage``.

    Args:
        usage: the value, of any type.
        prompt_chars: of the request; what is not stated is estimated, else a budget would limit nothing.
        answer_chars: of the answer.
    """
    given: Mapping[str, Any] = usage if isinstance(usage, dict) else {}
    cached = _find(given, _CACHED, _PROMPT_DETAILS) or 0
    writes = _find(given, _CACHE_WRITES, _PROMPT_DETAILS) or 0
    reasoning = _find(given, _REASONING, _COMPLETION_DETAILS) or 0
    prompt, completion, total = (_find(given, names) for names in (_PROMPT, _COMPLETION, _TOTAL))
    if not prompt and (prompt is None or prompt_chars) and not cached + writes:
        prompt = 1 + prompt_chars // CHARS_PER_TOKEN
    prompt = _add_cache(given, prompt or 0, completion or 0, total, cached + writes)
    if not completion and (completion is None or answer_chars):
        completion = 1 + answer_chars // CHARS_PER_TOKEN
    completion = completion or 0
    if total is not None:
        completion = max(completion, total - prompt)
    # More reasoning than the whole completion proves that it stands beside it.
    if reasoning > completion:
        completion += reasoning
    prompt, completion = min(prompt, MOST_TOKENS), min(completion, MOST_TOKENS)
    cached = min(cached, prompt)
    return TokenUsage(prompt, completion, cached, min(writes, prompt - cached), reasoning)


def _add_cache(given: Mapping[str, Any], prompt: int, completion: int, total: int | None, cache: int) -> int:
    """Return the whole prompt's tokens, where those of the cache may stand beside the stated number."""
    # Anthropic leaves the cache out of its own names; layers over it do either, and then the sums decide.
    is_anthropic = "cache_read_input_tokens" in given or "cache_creation_input_tokens" in given
    is_beside = is_anthropic and "prompt_tokens" not in given and "input_tokens" in given
    in_total = total is not None and total >= prompt + completion + cache
    return prompt + cache if is_anthropic and (cache > prompt or is_beside or in_total) else prompt


def _find(given: Mapping[str, Any], names: tuple[str, ...], details: tuple[str, ...] = ()) -> int | None:
    """Return the first count under one of the names, at the top or in the details."""
    places = [given, *(inner for name in details if isinstance(inner := given.get(name), dict))]
    counts = (parse_count(place.get(name)) for place in places for name in names if name in place)
    return next((count for count in counts if count is not None), None)
