"""What a chat template puts before, between and after question and answer, found by rendering it.

A template is a program, so nothing is read off its text: two renderings with different answers show where the answer
begins and how its turn ends. The prompt is what a server renders for one user message with a generation prompt. What
the template writes between that and the answer (Qwen3's empty ``<think>`` block, gpt-oss's channel) is written by the
model when it is served, so it is trained as the beginning of the output.

Arguments and the date are set at the top of the template that is saved with a checkpoint: every server then renders
what training rendered, without being asked to.
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lema_core.errors import ConfigError
from lema_core.llm.costs.tokenizers import tokenizer_of
from lema_core.llm.endpoints import EndpointSpec
from lema_core.system.foreign_models import render_chat
from lema_core.thinking import PAIRS
from lema_core.training.specs import TrainingSpec

PROBE = "Question: Tom has 3 apples and buys 4 more. How many apples does he have?"
"""The user message whose rendered prompt is hashed."""
_ANSWERS = ("Step 1: 3 + 4 = 7.", "7 apples it is, he")
_THOUGHTS = ("Let me add 3 and 4", "I wonder: 4 + 3")
# Two probes that share neither their first nor their last character, so that common prefix and suffix end at them.
_THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"})
"""Names that a server gives to every template; no argument may take their place."""
_HEADER, _HEADER_END = "{#- lema: arguments and date of the training -#}", "{# lema: end #}{{ '' }}"
# The empty expression at its end: a block or comment there would swallow a line break that the template begins with.


@dataclass(frozen=True)
class Vocabulary:
    """What of a tokenizer a template's text depends on."""

    special: Mapping[str, str]
    """The template's names for special tokens, as ``eos_token``."""
    added: frozenset[str]
    """The tokens that are split off a text before it is cut into others: control tokens, and marks as ``<think>``."""
    control: frozenset[str]
    """Those of them that are control tokens."""


@dataclass(frozen=True)
class ChatFormat:
    """A template with its arguments, taken apart. `find_format` makes it."""

    template: str
    """As it is saved with a checkpoint: arguments and date fixed."""
    vocabulary: Vocabulary
    opening: str
    """What stands between the generation prompt and an answer without thinking."""
    closing: str
    """What ends an answer's turn: the last of its tokens is ``stop``, or empty where only ``stop`` ends it."""
    stop: str
    """The token at which a served model must stop."""
    thinking: tuple[str, str] | None = None
    """What stands before an answer's thinking, and between that and the answer; None where thinking is dropped."""

    def prompt(self, text: str) -> str:
        """Return the prompt that a server renders from one user message.

        Raises:
            ConfigError: the template refuses the text, or exceeds its limits.
        """
        return render_chat(self.template, [{"role": "user", "content": text}], self.vocabulary.special)

    def output(self, answer: str, thinking: str = "") -> str:
        """Return what the model writes after the prompt, without its end."""
        if thinking and self.thinking is not None:
            before, between = self.thinking
            return f"{before}{thinking}{between}{answer}"
        return self.opening + answer

    @cached_property
    def control_tokens(self) -> re.Pattern[str] | None:
        """A pattern of the tokens that no text may hold: a server would read them as turns, not as text.

        Beside control tokens these are the marks that the template writes, as ``</think>``.
        """
        marks = {token for token in self.vocabulary.added if token in self.template and not token.isalnum()}
        words = sorted((token for token in self.vocabulary.control | marks if token.strip()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, words))) if words else None

    @cached_property
    def prompt_hash(self) -> str:
        """Return a hash over the rendered prompt of `PROBE` and what follows it: equal where training and server agree.

        16 hex digits.
        """
        text = "\0".join((self.prompt(PROBE), self.opening, self.closing, self.stop))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


PLAIN_TEMPLATE = (
    "{{ bos }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n' }}{% endif %}"
)


def plain_format(vocabulary: Vocabulary, *, adds_bos: bool, keep_thinking: bool = False) -> ChatFormat:
    """Return the format of ``template = 'plain'``: input, a line break, output, the end-of-sequence token."""
    template = PLAIN_TEMPLATE.replace("{{ bos }}", "{{ bos_token }}" if adds_bos else "")
    eos = vocabulary.special["eos_token"]
    thinking = ("<think>\n", "\n</think>\n\n") if keep_thinking else None
    return ChatFormat(template, vocabulary, "", eos, eos, thinking)


def find_format(
    template: str | None,
    vocabulary: Vocabulary,
    arguments: Mapping[str, Any],
    date: str,
    *,
    keep_thinking: bool = False,
) -> ChatFormat:
    """Return how a template frames question and answer.

    Args:
        template: the model's chat template.
        vocabulary: of the model's tokenizer.
        arguments: the template's own switches, as ``enable_thinking``.
        date: what the template gets for today, ``YYYY-MM-DD``.
        keep_thinking: also find where thinking stands.

    Raises:
        ConfigError: the template cannot be trained exactly; the text says why.
    """
    if not template:
        raise ConfigError("the base model has no chat template: set template = 'plain'")
    fixed = fix_template(template, vocabulary.special, arguments, date)
    first, second = (_render(fixed, vocabulary, answer) for answer in _ANSWERS)
    before = _shared_start(first, second)
    after = _shared_start(first[::-1], second[::-1])[::-1]
    if first != f"{before}{_ANSWERS[0]}{after}" or second != f"{before}{_ANSWERS[1]}{after}":
        raise ConfigError(
            "the model's chat template changes the text of an answer: expected it whole after "
            f"{before[-60:]!r}, the template gives {first[len(before) :]!r}; set template = 'plain'"
        )
    prompt = render_chat(fixed, [{"role": "user", "content": PROBE}], vocabulary.special)
    opening = _opening(prompt, before)
    closing, stop = _closing(after, vocabulary)
    thinking = _thinking_places(fixed, vocabulary, prompt) if keep_thinking else None
    return ChatFormat(fixed, vocabulary, opening, closing, stop, thinking)


def _render(template: str, vocabulary: Vocabulary, answer: str, thinking: str | None = None) -> str:
    said: dict[str, str] = {"role": "assistant", "content": answer}
    if thinking is not None:
        said |= dict.fromkeys(_THINKING_KEYS, thinking)
    turns = [{"role": "user", "content": PROBE}, said]
    return render_chat(template, turns, vocabulary.special, generation_prompt=False)


def _shared_start(left: str, right: str) -> str:
    pairs = enumerate(zip(left, right, strict=False))
    return left[: next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))]


def _opening(prompt: str, before: str) -> str:
    """Return what the template writes after the generation prompt and before an answer."""
    if before.startswith(prompt):
        return before[len(prompt) :]
    shared = _shared_start(prompt, before)
    asked, written = prompt[len(shared) :], before[len(shared) :]
    if not asked.strip():
        # Nemotron 3 asks with "<think>\n" and writes "<think></think>"; Mistral's kin differ by a space.
        return written if written.strip() else ""
    if not written.strip() and (close := PAIRS.get(asked.strip())):
        # DeepSeek R1 asks with "<think>\n" and leaves thinking out of the turns that it writes.
        return f"\n{close}\n\n"
    raise ConfigError(
        f"the model's chat template asks with {prompt[-60:]!r} and writes an answer after {before[-60:]!r}: a model "
        "trained on the one would be asked with the other. Give template_arguments under which they agree, or set "
        "template = 'plain'"
    )


def _closing(after: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """Return what ends an answer's turn, and the token at its end: a run of tokens, or the end-of-sequence token."""
    eos = vocabulary.special.get("eos_token", "")
    space = after[: len(after) - len(after.lstrip())]
    rest, closing, stop = after[len(space) :], space, ""
    tokens = sorted(vocabulary.added | ({eos} - {""}), key=len, reverse=True)
    while stop != eos or not stop:
        token = next((token for token in tokens if token.strip() and rest.startswith(token)), None)
        if token is None:
            break
        rest, closing, stop = rest[len(token) :], closing + token, token
    if stop:
        return closing, stop
    if rest.strip() or not eos:
        raise ConfigError(
            f"the model's chat template ends an answer with {after!r}, which begins with neither the tokenizer's "
            f"end-of-sequence token ({eos!r}) nor another token of its vocabulary: the model could never learn to stop "
            "there. Add the token to the tokenizer, or set template = 'plain'"
        )
    # GLM ends a turn with the next one; at the end-of-sequence token every server stops.
    return eos, eos


def _thinking_places(template: str, vocabulary: Vocabulary, prompt: str) -> tuple[str, str]:
    """Return what stands before thinking (after the prompt), and between thinking and answer."""
    thought, answer = _THOUGHTS[0], _ANSWERS[0]
    whole = _render(template, vocabulary, answer, thought)
    place = whole.find(thought)
    end = prompt.rstrip()
    closed = next((close for opened, close in PAIRS.items() if end.endswith(close)), None)
    if closed:
        raise ConfigError(
            f"thinking = 'keep', but the model's chat template ends its prompt with {prompt[-40:]!r}, so that a served "
            "model cannot think: set template_arguments = {enable_thinking = true}, or thinking = 'drop'"
        )
    if place >= 0:
        before, between = whole[:place], whole[place + len(thought) : whole.find(answer, place)]
        if before.startswith(prompt):
            return before[len(prompt) :], between
        if prompt.startswith(before) and not prompt[len(before) :].strip():
            return "", between
    # The template has no place for thinking: it stands in the text, between the marks that the template knows.
    for opened, close in PAIRS.items():
        if end.endswith(opened):
            return "", f"\n{close}\n\n"
    opened, close = next((pair for pair in PAIRS.items() if all(mark in template for mark in pair)), ("<think>", ""))
    return f"{opened}\n", f"\n{close or PAIRS['<think>']}\n\n"


def check_template(spec: TrainingSpec, base: str, *, download: bool = False) -> ChatFormat | None:
    """Return how the chat template of a base model frames an answer; None for ``plain``, or without its tokenizer here.

    Args:
        spec: with the template's arguments and date.
        base: the model that training starts from.
        download: fetch the few files of a model id of the hub that are not in the cache.

    Raises:
        ConfigError: the template cannot be trained exactly.
    """
    model = tokenizer_of(base, download=download) if spec.template == "chat" else None
    if model is None:
        return None
    added = model.added
    vocabulary = Vocabulary(model.special, frozenset(added), frozenset(name for name in added if added[name]))
    try:
        keep = spec.thinking == "keep"
        return find_format(model.template, vocabulary, spec.template_arguments, spec.template_date, keep_thinking=keep)
    except ConfigError as error:
        raise ConfigError(f"training.base {base!r}: {error}") from None


def served_prompt(endpoint: EndpointSpec) -> str | None:
    """Return the hash of the prompt that a server of the endpoint's model renders, as `ChatFormat.prompt_hash`.

    None where the tokenizer is not on this machine, or its template cannot be trained.
    """
    arguments = endpoint.params.get("chat_template_kwargs") or {}
    try:
        form = check_template(TrainingSpec(template_arguments=arguments), endpoint.model)
    except (ConfigError, ValueError):
        return None
    return form.prompt_hash if form else None


def fix_template(template: str, special: Mapping[str, str], arguments: Mapping[str, Any], date: str) -> str:
    """Return the template with its arguments and the date set at its top; unchanged where it needs neither.

    What an earlier training set stays where no arguments are given: an arm may start from another arm's model.

    Raises:
        ConfigError: an argument has a server's name, or the template reads one where a setting at its top is not seen.
    """
    if wrong := sorted((RESERVED | special.keys()) & arguments.keys()):
        raise ConfigError(f"template_arguments holds {wrong}: a server sets these itself. Take them out")
    if template.startswith(_HEADER) and not arguments:
        return template
    plain = template.partition(_HEADER_END)[2] if template.startswith(_HEADER) else template
    if "date_string" in plain:
        # Llama's templates take it in place of their own date; llama.cpp passes today's.
        arguments = {"date_string": dt.date.fromisoformat(date).strftime("%d %b %Y")} | dict(arguments)
    settings = "".join(f"{{% set {name} = {_literal(value)} %}}" for name, value in sorted(arguments.items()))
    if "strftime_now" in plain:
        settings += _date_macro(dt.date.fromisoformat(date))
    if not settings:
        return plain
    fixed = f"{_HEADER}{settings}{_HEADER_END}{plain}"
    chat = [{"role": "user", "content": PROBE}]
    intended = render_chat(plain, chat, special, arguments=arguments, date=date)
    if render_chat(fixed, chat, special) != intended:
        raise ConfigError(
            f"the model's chat template reads {sorted(arguments)} where a setting at its top is not seen, so they "
            "cannot be saved with the trained model: take them out of template_arguments, or set template = 'plain'"
        )
    return fixed


def _literal(value: Any) -> str:
    """Return a JSON value as Jinja writes it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_literal(item)}" for name, item in value.items()) + "}"
    return "none" if value is None else json.dumps(value)


_DIRECTIVES = ("%d", "%m", "%Y", "%y", "%b", "%B", "%a", "%A", "%j", "%H", "%M", "%S")


def _date_macro(date: dt.date) -> str:
    """Return a macro in the place of the function that gives today's date."""
    replaced = "".join(f' | replace("{name}", "{date.strftime(name)}")' for name in _DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}"
