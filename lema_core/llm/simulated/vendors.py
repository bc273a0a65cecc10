"""Rule sets of the simulated endpoint: what a vendor refuses or ignores, in its own words and shape of an error.

They hold what is known of the vendors (the sources are those of `lema_core.llm.rules`), so that a run file can be tried
against a vendor's rules without a key. Thinking is counted words, and counts into the cap as it does there.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from lema_core.llm.simulated.models import count_tokens

RuleSet = Literal["openai-reasoning", "claude", "gemini", "qwen-thinking", "llamacpp"]
RULE_SETS: tuple[RuleSet, ...] = get_args(RuleSet)

Body = Mapping[str, Any]
Refusal = tuple[int, Any]
"""Status and body of an error."""

_EFFORTS = {"none": 0, "minimal": 8, "low": 24, "medium": 48, "high": 160, "xhigh": 320}
"""Thinking tokens by reasoning_effort; of no vendor, but in the right order."""
_DEFAULT_EFFORT = "medium"
_CLAUDE_IGNORES = frozenset(
    {
        "seed", "response_format", "reasoning_effort", "verbosity", "presence_penalty", "frequency_penalty",
        "logit_bias", "logprobs", "top_logprobs", "metadata", "store", "user", "service_tier", "prediction",
    }
)  # fmt: skip
_OPENAI_FIELDS = frozenset(
    {
        "model", "messages", "max_completion_tokens", "max_tokens", "temperature", "top_p", "n", "stop", "seed",
        "stream", "response_format", "reasoning_effort", "verbosity", "presence_penalty", "frequency_penalty",
        "logit_bias", "logprobs", "top_logprobs", "user", "metadata", "store", "service_tier", "prediction",
        "tools", "tool_choice",         "safety_identifier", "prompt_cache_key", "stream_options",
    }
)  # fmt: skip
THINKING = (
    "Okay, let me think about this step by step. At first sight the answer is 7, but wait, I should read the question "
    "again and check every number in it before I write the solution down."
)


def refuse(rules: RuleSet | None, body: Body) -> Refusal | None:
    """Return the refusal of a request that the vendor does not take; None: it is answered."""
    return _REFUSE[rules](body) if rules else None


def ignored(rules: RuleSet | None) -> frozenset[str]:
    """Return the fields that the vendor takes and does not look at."""
    return _CLAUDE_IGNORES if rules == "claude" else frozenset()


def thinking_of(rules: RuleSet | None, body: Body) -> str:
    """Return what the model thinks before its answer."""
    if rules == "qwen-thinking":
        switches = body.get("chat_template_kwargs")
        is_on = not isinstance(switches, Mapping) or switches.get("enable_thinking", True) is not False
        return THINKING if is_on else ""
    if rules in {"openai-reasoning", "gemini"}:
        return " ".join(["thought"] * _EFFORTS.get(str(body.get("reasoning_effort") or _DEFAULT_EFFORT), 0))
    return ""


def message_of(rules: RuleSet | None, body: Body, thinking: str, text: str, *, answered: bool) -> dict[str, Any]:
    """Return the message of an answer; ``answered``: thinking ended before the cap."""
    plain: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if rules != "qwen-thinking" or not thinking:
        return plain
    if body.get("separate_reasoning") is False:
        # A server without a reasoning parser leaves the model's own marks in the content.
        end = f"</think>\n\n{text}" if answered else ""
        return plain | {"content": f"<think>\n{thinking}\n{end}"}
    # vLLM 0.33 writes `reasoning`, older ones and others `reasoning_content`; the content is null if it was cut before.
    return plain | {"content": text if answered else None, "reasoning": thinking, "reasoning_content": thinking}


def usage_of(rules: RuleSet | None, prompt: int, thinking: str, text: str) -> dict[str, Any]:
    """Return the usage as the vendor states it."""
    thought, answer = count_tokens(thinking), count_tokens(text)
    total = prompt + thought + answer
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": thought + answer, "total_tokens": total}
    if rules == "openai-reasoning":
        usage["prompt_tokens_details"] = {"cached_tokens": 0}
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    if rules == "gemini":
        # Thoughts are in the total only.
        usage["completion_tokens"] = answer
    return usage


def _openai(body: Body) -> Refusal | None:
    def error(message: str, param: str, code: str) -> Refusal:
        return 400, {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}

    for field in body:
        if field not in _OPENAI_FIELDS:
            return 400, {
                "error": {
                    "message": f"Unrecognized request argument supplied: {field}",
                    "type": "invalid_request_error", "param": None, "code": None,
                }
            }  # fmt: skip
    if "max_tokens" in body:
        said = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        return error(said, "max_tokens", "unsupported_parameter")
    for field, default in (("temperature", 1), ("presence_penalty", 0), ("frequency_penalty", 0)):
        if body.get(field, default) != default:
            said = (
                f"Unsupported value: '{field}' does not support {body[field]} with this model. Only the default "
                f"({default}) value is supported."
            )
            return error(said, field, "unsupported_value")
    for field in ("top_p", "stop", "logit_bias", "logprobs", "top_logprobs"):
        if field in body and not (field == "top_p" and body[field] == 1):
            return error(
                f"Unsupported parameter: '{field}' is not supported with this model.", field, "unsupported_parameter"
            )
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        known = ", ".join(f"'{name}'" for name in _EFFORTS)
        said = f"Unsupported value: '{effort}' is not supported with this model. Supported values are: {known}."
        return error(said, "reasoning_effort", "unsupported_value")
    return None


def _claude(body: Body) -> Refusal | None:
    for field in ("temperature", "top_p", "top_k"):
        if field in body and not (field == "temperature" and body[field] == 1):
            error = {"code": "invalid_request_error", "message": f"`{field}` is deprecated for this model."}
            return 400, {"error": error | {"type": "invalid_request_error", "param": None}}
    return None


def _gemini(body: Body) -> Refusal | None:
    def error(message: str) -> Refusal:
        return 400, [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]

    for field in body:
        if field not in _OPENAI_FIELDS:
            return error(f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.')
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in {"low", "high"}:
        level = str(effort).upper()[:20]
        return error(f"Thinking level {level} is not supported for this model. Please retry with other thinking level.")
    return None


def _vllm(body: Body) -> Refusal | None:  # noqa: ARG001  it ignores what it does not know
    return None


def _llamacpp(body: Body) -> Refusal | None:
    def error(message: str) -> Refusal:
        return 400, {"error": {"code": 400, "message": message, "type": "invalid_request_error"}}

    for field in ("max_tokens", "max_completion_tokens", "seed", "temperature"):
        if field in body and isinstance(body[field], str):
            return error(f"Field '{field}': type must be number, but is string")
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind not in {None, "text", "json_object", "json_schema"}:
        return error(f'response_format type must be one of "text" or "json_object", but got: {str(kind)[:40]}')
    return None


_REFUSE: Mapping[RuleSet, Callable[[Body], Refusal | None]] = {
    "openai-reasoning": _openai,
    "claude": _claude,
    "gemini": _gemini,
    "qwen-thinking": _vllm,
    "llamacpp": _llamacpp,
}
