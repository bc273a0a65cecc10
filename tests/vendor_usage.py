"""Bodies of `usage` in the vendors' documented forms, with figures of one request each."""

from typing import Any

OPENAI: dict[str, Any] = {
    "prompt_tokens": 1117,
    "completion_tokens": 446,
    "total_tokens": 1563,
    "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 384,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
ANTHROPIC: dict[str, Any] = {
    "input_tokens": 93,
    "output_tokens": 446,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 1024,
    "service_tier": "standard",
}
ANTHROPIC_LAYER_INCLUSIVE: dict[str, Any] = {
    "prompt_tokens": 1317,
    "completion_tokens": 446,
    "total_tokens": 1763,
    "prompt_tokens_details": {"cached_tokens": 1024},
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 1024,
}
ANTHROPIC_LAYER_BESIDE: dict[str, Any] = {
    "prompt_tokens": 93,
    "completion_tokens": 446,
    "total_tokens": 539,
    "cache_creation_input_tokens": 200,
    "cache_read_input_tokens": 1024,
}
GEMINI: dict[str, Any] = {"prompt_tokens": 12, "completion_tokens": 60, "total_tokens": 1032}
GEMINI_NATIVE: dict[str, Any] = {
    "promptTokenCount": 1200,
    "candidatesTokenCount": 60,
    "thoughtsTokenCount": 960,
    "totalTokenCount": 2220,
    "cachedContentTokenCount": 1000,
}
XAI: dict[str, Any] = {
    "prompt_tokens": 1000,
    "completion_tokens": 50,
    "total_tokens": 1500,
    "prompt_tokens_details": {"text_tokens": 1000, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 64},
    "completion_tokens_details": {
        "reasoning_tokens": 450,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
    "num_sources_used": 0,
}
DEEPSEEK: dict[str, Any] = {
    "prompt_tokens": 1000,
    "completion_tokens": 500,
    "total_tokens": 1500,
    "prompt_tokens_details": {"cached_tokens": 832},
    "completion_tokens_details": {"reasoning_tokens": 300},
    "prompt_cache_hit_tokens": 832,
    "prompt_cache_miss_tokens": 168,
}
DEEPSEEK_SHORT: dict[str, Any] = {
    "prompt_tokens": 1000,
    "completion_tokens": 500,
    "total_tokens": 1500,
    "prompt_cache_hit_tokens": 832,
    "prompt_cache_miss_tokens": 168,
}
