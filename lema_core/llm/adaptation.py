"""How requests are spelled for one endpoint: the table's rules, and what the endpoint's refusals have taught.

The first refusal that names a remedy is followed once, said, and remembered in the ledger with the endpoint's
identity and place. Three bounds keep a hostile endpoint from steering us: a field is adapted once; the cap is renamed,
never left out, because a budget rests on it; what only the user can decide (thinking, effort) is never touched.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.parameters import CAP, LONG_CAP
from lema_core.llm.responses import AttemptError
from lema_core.llm.rules import MESSAGES, NONE, Action, Change, Rule, apply_rules, changes, rules_for
from lema_core.system.loopback import LOOPBACK

CAPS = (CAP, LONG_CAP, "max_output_tokens", "max_new_tokens")
"""The names of a cap that a refusal may lead to."""
USERS_OWN = frozenset(
    {"model", "messages", "reasoning_effort", "reasoning", "thinking", "verbosity", "chat_template_kwargs", "tools"}
)
"""Never left out after a refusal: a run file sets them on purpose, so the endpoint's words end the stage."""
FAMILY = "*"
"""The field of a remembered row that names a whole family."""

_REFUSES = re.compile(
    r"unsupported|not\s+(?:be\s+)?(?:supported|permitted|allowed|recogni[sz]ed|accepted)|no longer supported|"
    r"does\s?n[o']t support|do not support|unrecogni[sz]ed|unknown (?:parameter|field|argument|name|key)|"
    r"extra_forbidden|deprecated|cannot both|unexpected keyword|only the default|may only be set|"
    r"must be (?:unset|omitted|removed)",
    re.IGNORECASE,
)
_INSTEAD = re.compile(r"\buse\s+['\"`]?([a-z_]{3,40})['\"`]?(?:\s+instead|\b)", re.IGNORECASE)
_BOTH = re.compile(r"cannot both|not both|only one of", re.IGNORECASE)
_DEFAULT_ONLY = re.compile(r"only the default \(1\)", re.IGNORECASE)
_ENGLISH = frozenset({"stop", "seed", "user", "n", "store", "metadata", "prediction"})
_ALWAYS = frozenset({"model", "messages"})
_SAMPLERS = ("temperature", "top_p", "top_k")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What a refusal asks for: a field under another name, or left out (``to`` is empty)."""

    field: str
    to: str = ""


def find_remedies(said: str, params: Collection[str], sent: Mapping[str, Any]) -> list[Remedy]:
    """Return the remedies that a refusal names for fields that were sent.

    Args:
        said: the endpoint's words, bounded by the caller.
        params: the fields that the error names beside its words.
        sent: the body that was refused.
    """
    if not _REFUSES.search(said):
        return []
    named = [field for field in sent if field in params or _is_named(field, said)]
    named = [field for field in named if field not in USERS_OWN]
    if _BOTH.search(said):
        # One of the two stays: the one that comes first, as `temperature` before `top_p`.
        named = named[1:2]
    found = []
    for field in named:
        if field not in CAPS:
            found.append(Remedy(field))
            continue
        target = _INSTEAD.search(said)
        to = target[1].lower() if target else LONG_CAP if field == CAP else CAP
        if to in CAPS and to not in sent:
            found.append(Remedy(field, to))
    return found


def _is_named(field: str, said: str) -> bool:
    """Return whether words are about a field: ``stop`` and ``seed`` are words of English too."""
    name = re.escape(field)
    verb = r"\s+(?:is|are|does|do|was|has|parameter|field|argument)\b"
    patterns: tuple[str, ...]
    if field in _ENGLISH:
        patterns = (rf"(?:^|: |; ){name}(?:{verb}|:)",)
    else:
        patterns = (rf"(?:^|[\s(,;]){name}(?:{verb}|\s+(?:and|or)\b|:|,)", rf"\b(?:and|or)\s+{name}\b")
    label = rf"\b(?:parameter|argument|field|param|option|name|supplied)s?:?\s+['\"`]?{name}\b"
    listed = rf"\b(?:supported|model):\s+['\"`]?{name}\b"
    quoted = rf"['\"`]{name}['\"`]"
    return any(re.search(pattern, said, re.IGNORECASE) for pattern in (quoted, label, listed, *patterns))


def family_of_refusal(said: str, remedies: Iterable[Remedy]) -> str:
    """Return the family whose words a refusal speaks: its other fields need not be refused one by one."""
    for remedy in remedies:
        if remedy == Remedy(CAP, LONG_CAP) or (remedy.field == "temperature" and _DEFAULT_ONLY.search(said)):
            return "openai-reasoning"
        if remedy.field in _SAMPLERS and "deprecated" in said.lower():
            return "claude"
    return ""


def place_of(base_url: str | None) -> str:
    """Return what names an endpoint's place; on this machine without the port, which changes with every start."""
    parts = urlsplit(base_url or "")
    host = parts.hostname or ""
    return "this machine" if not host or host in LOOPBACK else f"{host}:{parts.port or ''}{parts.path}"


class Spelling:
    """How the bodies for one endpoint are spelled, shared by all its requests in this process.

    The first request with fields that were never taken goes alone, for at most ``first_reply_s``: what it is refused
    for, the others do not send.
    """

    def __init__(self, spec: EndpointSpec, first_reply_s: float = 2.0) -> None:
        self._spec = spec
        self._where = f"endpoint {spec.name!r} ({spec.model})"
        # The rows for the OpenAI layer of a provider's host do not hold for its own API.
        self._host = spec.api if spec.api != "openai" else urlsplit(spec.first_url or "").hostname or ""
        self._first_reply_s = first_reply_s
        own = rules_for(MESSAGES, spec.model, "") if spec.api == "anthropic" and spec.rules != NONE else {}
        self._given: Mapping[str, Rule] = {**rules_for(spec.family, spec.model, self._host), **own}
        self._rules: Mapping[str, Rule] = self._given
        self._learned: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._taken: set[str] = set()
        """Fields of requests that were answered: a later complaint about one is about that request."""
        self._scout: str | None = None
        self._scouted = asyncio.Event()
        self.is_loaded = False

    def remember(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Take in what earlier processes learned, as (field, its new name or nothing, the endpoint's words)."""
        self.is_loaded = True
        if self._spec.rules == NONE:
            return
        for field, to, words in rows:
            self._adopt(field, to, words)
        if self._learned:
            done = ", ".join(f"{field} as {to}" if to else f"no {field}" for field, to in self._learned.items())
            _log.warning("%s is sent %s, as its earlier refusals asked for; `lema plan` says more", self._where, done)

    def wire(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a body as it is sent."""
        renames = self._spec.rename
        if not renames and not self._rules and not self._learned:
            return dict(body)
        sent = {renames.get(name, name): value for name, value in body.items()}
        # What the run file spells itself is not the table's to change.
        fixed = set(renames.values())
        if self._rules:
            sent = apply_rules(sent, self._rules, fixed)
        for field, to in self._learned.items():
            if field in sent and field not in fixed:
                value = sent.pop(field)
                if to:
                    sent[to] = value
        return sent

    def before_refusals(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a body as it was sent before any refusal taught us more."""
        renames = self._spec.rename
        named = {renames.get(name, name): value for name, value in body.items()}
        return apply_rules(named, self._given, set(renames.values()))

    def describe(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], list[Change]]:
        """Return a body as it is sent, and what was changed in it and why.

        Raises:
            ConfigError: a value is refused, and only the user can choose another.
        """
        renames = self._spec.rename
        sent = {renames.get(name, name): value for name, value in body.items()}
        found = [
            Change(name, value, "rename", renames[name], "rename says so", "run file")
            for name, value in body.items()
            if name in renames and renames[name] != name
        ]
        fixed = set(renames.values())
        found += changes(sent, self._rules, fixed)
        after = apply_rules(sent, self._rules, fixed)
        for field, to in self._learned.items():
            if field in after and field not in fixed:
                action: Action = "rename" if to else "omit"
                found.append(Change(field, after[field], action, to, self._words[field], "an earlier refusal"))
        return self.wire(body), found

    def learn(self, error: AttemptError, sent: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Take in a refusal; return the rows to remember, as `remember` takes them. Empty: it names no new remedy."""
        if error.reason != "bad_request" or error.fatal is not None or self._spec.rules == NONE:
            return []
        remedies = [
            remedy
            for remedy in find_remedies(error.detail, error.params, sent)
            if remedy.field not in self._learned
            and remedy.field not in self._taken
            and not (remedy.to and any(field in CAPS for field in self._learned))
        ]
        if not remedies:
            return []
        family = family_of_refusal(error.detail, remedies)
        rows = [(FAMILY, family, error.detail)] if family and not self._rules else []
        rows += [(remedy.field, remedy.to, error.detail) for remedy in remedies]
        for row in rows:
            self._adopt(*row)
        what = "; ".join(
            f"{remedy.field} is sent as {remedy.to}" if remedy.to else f"{remedy.field} is left out"
            for remedy in remedies
        )
        also = f" The known rules of the family {family} hold too." if family and rows[0][0] == FAMILY else ""
        _log.warning(
            '%s refused a request: "%s". From now on %s.%s This is remembered in the ledger; `lema plan` shows what is '
            'sent, `params`, `rename` and `rules = "none"` of the endpoint change it',
            self._where, error.detail, what, also,
        )  # fmt: skip
        return rows

    def _adopt(self, field: str, to: str, words: str) -> None:
        if field == FAMILY:
            if not self._rules:
                self._rules = rules_for(to, self._spec.model, self._host, adopted=True)
        elif field not in self._learned:
            self._learned[field], self._words[field] = to, words

    async def wait_turn(self, key: str, body: Mapping[str, Any]) -> None:
        """Wait while the first request with new fields is out."""
        if self.wire(body).keys() - _ALWAYS <= self._taken:
            return
        if self._scout in {None, key}:
            self._scout = key
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._first_reply_s):
                await self._scouted.wait()

    def end_turn(self, key: str, taken: Iterable[str] = ()) -> bool:
        """Let the other requests go, if they wait for this one; ``taken``: its fields, if it was answered."""
        self._taken.update(taken)
        if self._scout != key:
            return False
        self._scout = None
        self._scouted.set()
        self._scouted = asyncio.Event()
        return True
