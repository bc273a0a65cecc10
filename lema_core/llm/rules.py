"""What vendors and servers do with the fields of a request: a table by model family, each row with its source.

A row renames a field, leaves one out that is refused or ignored, or knows values that are refused. Rows change how a
request is spelled on the wire, never its key: the key holds what the run file asks for. ``rules`` of an endpoint names
a family, or "none"; a field that ``rename`` names is sent as that says, whatever the table says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from lema_core.errors import ConfigError
from lema_core.llm.parameters import CAP, LONG_CAP

AUTO, NONE = "auto", "none"
MESSAGES = "messages"
"""The rows of ``api = "anthropic"``, which hold beside those of the model's family."""
Action = Literal["rename", "omit", "ignored", "refuse", "note"]
"""``omit``: the field is refused there. ``ignored``: it has no effect there, so that leaving it out changes nothing.
``refuse``: some values are refused, and only the user can choose another. ``note``: a plan says it, nothing changes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    family: str
    fields: tuple[str, ...]
    action: Action
    why: str
    source: str
    to: str = ""
    """The name that a renamed field gets."""
    taken: tuple[object, ...] = ()
    """Values that are sent all the same."""
    refused: tuple[object, ...] = ()
    """Of ``refuse``: the values."""
    models: re.Pattern[str] | None = None
    """The models of the family that it holds for; None: all."""
    host: str = ""
    """The host that it holds for, where the family's models are served by several."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a row or an earlier refusal makes of one field of a request."""

    field: str
    value: Any
    action: Action
    to: str
    why: str
    source: str


# The name of a model without its folder: `openai/gpt-5`, `Qwen/Qwen3-8B`.
_MODELS: dict[str, re.Pattern[str]] = {
    "openai-reasoning": re.compile(r"(o[1-9]|gpt-([5-9]|[1-9][0-9])(\.[0-9]+)?)(?![\w.])(?!.*-chat)", re.IGNORECASE),
    "claude": re.compile(r"claude-", re.IGNORECASE),
    "gemini": re.compile(r"gemini-", re.IGNORECASE),
    "qwen-thinking": re.compile(r"(qwen-?3(?!.*(instruct|base|coder|embedding|reranker))|qwq)", re.IGNORECASE),
}
_COMMANDS: dict[str, re.Pattern[str]] = {
    "llamacpp": re.compile(r"llama-server|llama_cpp|lema_core\.llm\.embedded", re.IGNORECASE),
}
FAMILIES = ("openai-reasoning", "claude", "gemini", "qwen-thinking", "llamacpp")

_CLAUDE_LAYER = "https://platform.claude.com/docs/en/api/openai-sdk"
_CLAUDE_SAMPLERS = re.compile(r"claude-(opus-4-[7-9]|(opus|sonnet|haiku)-([5-9]|[1-9][0-9]))", re.IGNORECASE)
_FIXED_TEMPERATURE = re.compile(r"(o[1-9]|gpt-5(?!\.)|gpt-5\.[6-9]|gpt-([6-9]|[1-9][0-9]))", re.IGNORECASE)

RULES: tuple[Rule, ...] = (
    Rule(
        "openai-reasoning",
        (CAP,),
        "rename",
        "max_tokens is refused",
        "https://github.com/anomalyco/opencode/issues/37964",
        to=LONG_CAP,
    ),
    Rule(
        "openai-reasoning",
        ("temperature", "top_p"),
        "omit",
        "only the default (1) is taken",
        # gpt-5.1 to 5.5 take a temperature without reasoning (vercel/ai#10932): there a refusal decides, not this row.
        "https://github.com/ItzCrazyKns/Vane/issues/1173",
        taken=(1,),
        models=_FIXED_TEMPERATURE,
    ),
    Rule(
        "openai-reasoning",
        ("presence_penalty", "frequency_penalty"),
        "omit",
        "only the default (0) is taken",
        "https://github.com/softwaremill/sttp-ai/issues/490",
        taken=(0,),
        models=_FIXED_TEMPERATURE,
    ),
    Rule(
        "openai-reasoning",
        ("stop", "logit_bias", "logprobs", "top_logprobs"),
        "omit",
        "it is refused",
        "https://github.com/EleutherAI/lm-evaluation-harness/pull/3247",
        models=_FIXED_TEMPERATURE,
    ),
    Rule(
        "claude",
        ("temperature", "top_p", "top_k"),
        "omit",
        "it is refused from Opus 4.7 on",
        "https://github.com/UKGovernmentBEIS/inspect_ai/issues/3722",
        models=_CLAUDE_SAMPLERS,
    ),
    Rule(
        "claude",
        (
            "seed", "response_format", "reasoning_effort", "verbosity", "presence_penalty", "frequency_penalty",
            "logit_bias", "logprobs", "top_logprobs", "metadata", "store", "user", "service_tier", "prediction",
        ),
        "ignored",
        "Claude's OpenAI layer ignores it",
        _CLAUDE_LAYER,
        host="api.anthropic.com",
    ),
    Rule(
        MESSAGES,
        (
            "seed", "response_format", "reasoning_effort", "verbosity", "presence_penalty", "frequency_penalty",
            "logit_bias", "logprobs", "top_logprobs", "store", "user", "prediction", "n", "stream_options",
            "prompt_cache_key", "safety_identifier",
        ),
        "ignored",
        "the Messages API has no such field",
        "https://platform.claude.com/docs/en/api/messages",
    ),
    Rule(
        "gemini",
        ("reasoning_effort",),
        "refuse",
        "gemini-3-pro takes low and high",
        "https://discuss.ai.google.dev/t/112648",
        refused=("medium", "minimal", "none"),
        models=re.compile(r"gemini-3-pro", re.IGNORECASE),
    ),
    Rule(
        "gemini",
        ("reasoning_effort",),
        "refuse",
        "these models take no minimal",
        "https://github.com/agentjido/req_llm/issues/971",
        refused=("minimal", "none"),
        models=re.compile(r"gemini-(3\.1-pro|3\.7-flash)", re.IGNORECASE),
    ),
    Rule(
        "qwen-thinking",
        ("chat_template_kwargs",),
        "note",
        "the model thinks unless chat_template_kwargs = {enable_thinking = false}, and the cap counts thinking",
        "https://github.com/NVIDIA/NemoClaw/issues/8878",
    ),
    Rule(
        "llamacpp",
        ("verbosity", "store", "metadata", "service_tier", "user"),
        "ignored",
        "llama.cpp ignores it",
        "tried with xllamacpp's server on 2026-11-30",
    ),
)  # fmt: skip


def detect_family(model: str, command: Iterable[str] = ()) -> str:
    """Return the family of a model by its name, or of the server that a command starts; ``none`` if unknown."""
    words = " ".join(command)
    for family, pattern in _COMMANDS.items():
        if pattern.search(words):
            return family
    # A folder of weights has the name that its owner gave it.
    if model.startswith(("/", ".", "~")):
        return NONE
    name = model.rsplit("/", 1)[-1]
    return next((family for family, pattern in _MODELS.items() if pattern.match(name)), NONE)


@lru_cache(maxsize=256)
def rules_for(family: str, model: str, host: str, *, adopted: bool = False) -> Mapping[str, Rule]:
    """Return the rows that hold for a model, by field.

    A family that was named for a model of another name (a deployment, a gateway's alias) holds whole, but for the rows
    that depend on values. ``adopted``: the family was recognized by a refusal, and what a layer ignores is not known.
    """
    name = model.rsplit("/", 1)[-1]
    known = family in _MODELS and bool(_MODELS[family].match(name))
    found: dict[str, Rule] = {}
    for rule in RULES:
        if rule.family != family or (rule.action == "ignored" and adopted):
            continue
        is_meant = not known or detect_host(rule.host, host)
        fits = rule.models is None or bool(rule.models.match(name)) or (not known and rule.action != "refuse")
        if is_meant and fits:
            found.update((field, rule) for field in rule.fields)
    return found


def detect_host(wanted: str, host: str) -> bool:
    """Return whether a row for one host holds at a host; a row without one holds at all."""
    return not wanted or host == wanted


def apply_rules(body: Mapping[str, Any], rules: Mapping[str, Rule], fixed: Iterable[str] = ()) -> dict[str, Any]:
    """Return a request's body as it is sent; the fields in ``fixed`` stay as they are."""
    sent = dict(body)
    for field in rules.keys() & body.keys():
        rule = rules[field]
        if field in fixed or _is_taken(rule, body[field]):
            continue
        if rule.action == "rename":
            sent[rule.to] = sent.pop(field)
        elif rule.action in {"omit", "ignored"}:
            del sent[field]
    return sent


def changes(body: Mapping[str, Any], rules: Mapping[str, Rule], fixed: Iterable[str] = ()) -> list[Change]:
    """Return what the rows make of a request, in the fields' order, for a plan.

    Raises:
        ConfigError: a value is refused, and only the user can choose another.
    """
    found = []
    for field, rule in rules.items():
        if field in fixed:
            continue
        if rule.action == "refuse" and field in body and body[field] in rule.refused:
            raise ConfigError(
                f"{field} = {body[field]!r} is refused there: {rule.why} ({rule.source}). Give another value, or "
                'rules = "none" with the endpoint if this is no longer so'
            )
        if rule.action == "note":
            if field not in body:
                found.append(Change(field, None, "note", "", rule.why, rule.source))
        elif field in body and rule.action != "refuse" and not _is_taken(rule, body[field]):
            found.append(Change(field, body[field], rule.action, rule.to, rule.why, rule.source))
    return found


def _is_taken(rule: Rule, value: object) -> bool:
    return value in rule.taken
