"""The result of one attempt: a response, or an error of a known class.

The class decides what happens next (`limits.retry`): wait and try again, give up this request, or give up the endpoint.
"""

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from lema_core.errors import AuthenticationError, EndpointError, LemaError
from lema_core.llm.requests import FailureReason
from lema_core.llm.usage import parse_count, parse_usage
from lema_core.system.redaction import one_line
from lema_core.thinking import answer_of, joined_thinking, separate, thinking_of

DETAIL = 400
"""Characters of an endpoint's own words that are kept."""
LONGEST_NAME = 200
"""Characters of a model's name or a finish reason that are kept."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})
LONGEST_S = 10.0**9
"""Thirty years, the longest wait that is read; the limiter cuts it further."""
MOST_IN_LIMIT = 10**12
_NUMBER = re.compile(r"\s*([0-9]+)(\.[0-9]*)?([eE]\+?[0-9]{1,3})?\s*")
_LONGEST_HEADER = 64
"""Characters. No number or date needs more, and Python refuses 5,000 digits."""


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """An answer that was billed."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str
    thinking: str = ""
    """What the model wrote before its answer."""
    cached_tokens: int = 0
    """Of the prompt's tokens: read from the endpoint's prompt cache."""
    reasoning_tokens: int = 0
    """Of the completion's tokens: spent on thinking."""
    cache_write_tokens: int = 0
    """Of the prompt's tokens: written into the prompt cache."""


class AttemptError(Exception):
    """One attempt failed. ``fatal`` is set when no other request to the endpoint could succeed either."""

    def __init__(
        self,
        reason: FailureReason,
        detail: str,
        *,
        retry_after: float | None = None,
        fatal: LemaError | None = None,
        paid: ChatResponse | None = None,
        maybe_paid: bool = False,
        not_sent: bool = False,
        fatal_unless_served: bool = False,
    ) -> None:
        self.reason: FailureReason = reason
        self.detail = one_line(detail, 2 * DETAIL)
        super().__init__(f"{reason}: {self.detail}")
        self.retry_after = retry_after
        self.fatal = fatal
        self.paid = paid
        """What was billed for an answer that cannot be used."""
        self.maybe_paid = maybe_paid
        """The request was sent and no answer came: the endpoint may have billed it."""
        self.not_sent = not_sent
        """No connection was made, so nothing was sent."""
        self.proxied = False
        """A proxy says that it lost the server, or stopped waiting: the answer to this request may just be long."""
        self.fatal_unless_served = fatal_unless_served
        """``fatal`` holds only if no request was answered: a firewall may block a single prompt."""
        self.is_whole = False
        """The answer came as the model meant it, and is no text: it would be the same the next time."""
        self.answered = False
        """The status line of a reply had arrived."""
        self.params: tuple[str, ...] = ()
        """The request's fields that the error names beside its words."""
        self.adapted = False
        """The request is sent again in another spelling, as the refusal asks for."""
        self.exempt = False
        """The endpoint is away for all requests: the attempt does not count against this one."""


def _opens_nothing() -> bool:
    return False


def parse_response(
    content: bytes,
    prompt_chars: int,
    where: str = "the endpoint",
    opens_thinking: Callable[[], bool] = _opens_nothing,
) -> ChatResponse:
    """Return the answer in a response's body.

    Args:
        content: the body.
        prompt_chars: the prompt's length, for a response without usage.
        where: the endpoint and model, for the user.
        opens_thinking: whether the prompt opens a block of thinking; called for an answer that was cut off.

    Raises:
        AttemptError: ``malformed`` or ``content_filter``, with what was paid; or the class of an enclosed error.
    """
    try:
        return parse_completion(json.loads(content), prompt_chars, where, opens_thinking)
    # RecursionError comes from deep nesting. Whatever a body contains, the endpoint is to blame.
    except (ValueError, RecursionError, MemoryError):
        raise AttemptError("malformed", f"the answer is no JSON: {_preview(content)}", maybe_paid=True) from None


def parse_completion(
    body: Any,
    prompt_chars: int,
    where: str = "the endpoint",
    opens_thinking: Callable[[], bool] = _opens_nothing,
) -> ChatResponse:
    """Return the answer in a chat completion object; see `parse_response`."""
    try:
        has_choice = isinstance(body, dict) and isinstance(body.get("choices"), list) and body["choices"]
        # An error may stand instead of choices: `raise_enclosed_error` finds it.
        choice = {} if not has_choice and _find_errors(body) else body["choices"][0]
        raise_enclosed_error(body, choice, prompt_chars, where)
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason") or "stop"
    except (KeyError, IndexError, TypeError, AttributeError):
        what = _preview(json.dumps(body).encode())
        raise AttemptError("malformed", f"the answer has no choices[0].message: {what}", maybe_paid=True) from None
    text, thinking = answer_of(content), thinking_of(message)
    if text is None and isinstance(refusal, str):
        text = refusal
    if text is None and (thinking or finish == "length"):
        # Thinking used up the cap, or the server's reasoning parser took the whole answer: it is paid, and it would be
        # the same the next time.
        text = ""
    # Where the server has parted the thinking, what is left was begun as an answer.
    is_open = bool(text) and finish == "length" and not thinking and opens_thinking()
    said = separate(text or "", is_open=is_open)
    response = _build_response(body, said.answer, finish, prompt_chars, joined_thinking(thinking, said.thinking))
    if finish == "content_filter":
        raise AttemptError("content_filter", "the endpoint's content filter stopped the answer", paid=response)
    if text is None:
        error = AttemptError("malformed", f"the answer's content is {type(content).__name__}, not text", paid=response)
        # Nothing at all may have been lost on the way; something else is what the model meant.
        others = ("tool_calls", "function_call", "audio")
        error.is_whole = content is not None or any(message.get(name) for name in others)
        raise error
    return response


def _build_response(
    body: Mapping[str, Any], text: str, finish: Any, prompt_chars: int, thinking: str = ""
) -> ChatResponse:
    # A truncated emoji arrives as half a surrogate pair, which no file format accepts.
    clean, thought = (said.encode("utf-8", "replace").decode() for said in (text, thinking))
    usage = parse_usage(body.get("usage"), prompt_chars, len(clean) + len(thought))
    model = body.get("model")
    return ChatResponse(
        clean,
        one_line(finish if isinstance(finish, str) else type(finish).__name__, LONGEST_NAME),
        usage.prompt,
        usage.completion,
        one_line(model, LONGEST_NAME) if isinstance(model, str) else "",
        thought,
        cached_tokens=usage.cached,
        reasoning_tokens=usage.reasoning,
        cache_write_tokens=usage.cache_writes,
    )


@dataclass(slots=True)
class _ErrorBody:
    """What the JSON of an error says, whatever its shape."""

    messages: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    """In lower case; numbers as their digits."""
    params: list[str] = field(default_factory=list)
    """The request's fields that it is about, where it has a place for them."""

    def __bool__(self) -> bool:
        return bool(self.messages or self.codes)

    @property
    def message(self) -> str:
        said = "; ".join(dict.fromkeys(self.messages[:3])) or ", ".join(self.codes[:3])
        unnamed = [param for param in dict.fromkeys(self.params[:3]) if param not in said]
        return one_line(f"{said} ({', '.join(unnamed)})" if unnamed else said, DETAIL)

    def names(self, *parts: str) -> bool:
        """Return whether a code contains one of the words."""
        return any(part in code for code in self.codes for part in parts)


_ERROR_PLACES = ("error", "errors", "detail", "fault")
_DETAILS = (*_ERROR_PLACES, "details", "innererror", "inner_error", "metadata", "cause")
_MESSAGES = (
    "message",
    "msg",
    "error_description",
    "faultstring",
    "title",
    "raw",
    "Message",
    "error_message",
    "errorMessage",
)
_CODES = ("code", "type", "status", "reason", "error_code", "errorCode", "statusCode", "status_code", "error_type")
_DEEPEST, _MOST_NODES = 6, 64


def _parse_error_body(value: Any) -> _ErrorBody:
    """Read an error's JSON as OpenAI, Anthropic, Gemini, Azure or FastAPI write it, or any mixture."""
    # Bounded in depth and nodes: the body is the endpoint's, and may be anything.
    error_body, nodes = _ErrorBody(), 0

    def walk(node: Any, depth: int) -> None:
        nonlocal nodes
        nodes += 1
        if depth > _DEEPEST or nodes > _MOST_NODES:
            return
        if isinstance(node, str):
            error_body.messages.append(node[: 2 * DETAIL])
        elif isinstance(node, list):
            for inner in node[:8]:
                walk(inner, depth + 1)
        elif isinstance(node, dict):
            for name in _CODES:
                code = node.get(name)
                if isinstance(code, str | int) and not isinstance(code, bool) and code != "":
                    # A status has three digits; a longer number is an id, and 5,000 digits would be an error of Python.
                    text = code if isinstance(code, str) else f"{code:d}" if abs(code) < 10**6 else ""
                    error_body.codes.append(text.strip().lower()[:100])
            # OpenAI names the field in `param`, FastAPI and Mistral as the place `["body", "seed"]`.
            place = node.get("loc") if isinstance(node.get("loc"), list) else [node.get("param")]
            if place and len(place) <= 2 and isinstance(place[-1], str) and 0 < len(place[-1]) <= 64:
                error_body.params.append(place[-1])
            for name in (*_MESSAGES, *_DETAILS):
                if name in node:
                    walk(node[name], depth + 1)

    walk(value, 0)
    error_body.messages = [text for text in error_body.messages if text.strip()]
    return error_body


def _find_errors(body: Any) -> list[Any]:
    """Return the errors at the top of a body: under ``error`` and its like, in a list, or the body itself."""
    if isinstance(body, list):
        return [found for inner in body[:8] if isinstance(inner, dict) for found in _find_errors(inner)]
    if not isinstance(body, dict):
        return []
    if body.get("error"):
        return [body["error"]]
    # A body with an answer may have a `message` or `detail` of its own beside it.
    if body.get("choices"):
        return []
    if body.get("object") == "error" or body.get("type") == "error" or isinstance(body.get("message"), str):
        return [body]
    return [body[name] for name in _ERROR_PLACES if body.get(name)]


def raise_enclosed_error(body: Any, choice: Any, prompt_chars: int, where: str) -> None:
    """Raise the error in a body with a good status: some endpoints fail after they sent the status.

    Raises:
        AttemptError: of the class that the error's own code means; `server_error` if it has none.
    """
    found = _find_errors(body)
    inner = choice.get("error") if isinstance(choice, dict) else None
    failed = isinstance(choice, dict) and str(choice.get("finish_reason") or "").lower() == "error"
    if not (found or inner or failed):
        return
    error_body = _parse_error_body([*([inner] if inner else []), *found])
    status = _status_from_codes(error_body)
    said = error_body.message or ('finish reason "error"' if failed else "without a message")
    error = _classify(status, error_body, f"HTTP 200 with an error inside: {said}", where, None)
    usage = body.get("usage") if isinstance(body, dict) else None
    if isinstance(usage, dict) and parse_count(usage.get("completion_tokens")):
        text = answer_of(choice.get("message", {}).get("content")) if isinstance(choice.get("message"), dict) else None
        error.paid = _build_response(body, text or "", "error", prompt_chars)
    else:
        # It may have failed half-way, and some endpoints bill what was written until then.
        error.maybe_paid = status >= 500
    raise error


_QUOTA = ("insufficient_quota", "billing_hard_limit", "insufficient_credit", "insufficient_balance")
_STATUS_OF_CODE: tuple[tuple[int, tuple[str, ...]], ...] = (
    (402, (*_QUOTA, "billing", "payment_required")),
    (
        429,
        (
            "rate_limit",
            "ratelimit",
            "rate limit",
            "resource_exhausted",
            "too_many_requests",
            "toomanyrequests",
            "throttl",
        ),
    ),
    (401, ("authentication", "unauthenticated", "unauthorized", "invalid_api_key", "api_key_invalid")),
    (403, ("permission", "forbidden", "access_denied", "accessdenied")),
    (404, ("not_found", "notfound")),
    (503, ("overloaded", "unavailable", "capacity", "server_busy")),
    (504, ("deadline_exceeded", "timeout", "timed_out")),
    (
        400,
        (
            "invalid_request",
            "invalid_argument",
            "badrequest",
            "bad_request",
            "context_length",
            "unsupported",
            "validation",
        ),
    ),
)


def _status_from_codes(error_body: _ErrorBody) -> int:
    """Return the HTTP status that an error's codes mean; 500 if they mean none."""
    # A used-up quota first: it comes with the number of a rate limit, which would be tried again for ever.
    if error_body.names(*_STATUS_OF_CODE[0][1]):
        return 402
    for code in error_body.codes:
        if code.isascii() and code.isdigit() and len(code) == 3 and 400 <= int(code) < 600:
            return int(code)
    for status, words in _STATUS_OF_CODE[1:]:
        if error_body.names(*words):
            return status
    return 500


def error_from_status(status: int, headers: Mapping[str, str], content: bytes, where: str) -> AttemptError:
    """Return the error that an HTTP status means. ``where`` names the endpoint and model for the user."""
    try:
        error_body = _parse_error_body(json.loads(content))
    except (ValueError, RecursionError, MemoryError):
        error_body = _ErrorBody()
    detail = f"HTTP {status}: {error_body.message or _preview(content)}"
    if status in REDIRECTS:
        # Without user and query, which may repeat what we sent.
        location = headers.get("location", "").partition("?")[0].rpartition("@")[2]
        target = f", to {one_line(location, LONGEST_NAME)!r}" if location else ""
        fatal = EndpointError(
            f"{where} sends its requests elsewhere (HTTP {status}{target}). Redirects are not followed, because the "
            "prompts would go to a server that the run does not name: base_url is wrong, or needs https://"
        )
        return AttemptError("bad_request", detail, fatal=fatal)
    return _classify(status, error_body, detail, where, retry_after(headers))


def error_from_code(error: Any, detail: str, where: str) -> AttemptError:
    """Return what an error without a status means, as in the rows of a batch; ``detail`` is it in words."""
    error_body = _parse_error_body(error)
    return _classify(_status_from_codes(error_body), error_body, detail, where, None)


def _classify(status: int, error_body: _ErrorBody, detail: str, where: str, wait_s: float | None) -> AttemptError:
    # The prompt's fault comes before the status: with 403 it would look like a refused key and end the run.
    filtered = error_body.names("content_filter", "content_policy", "responsibleaipolicy")
    message = error_body.message.lower()
    moderated = any(word in message for word in ("moderation", "flagged", "content policy", "content filter"))
    if filtered or (status == 403 and moderated):
        return AttemptError("content_filter", detail)
    if fatal := _fatal_error(status, error_body, detail, where):
        # A firewall in front of the endpoint may block a single prompt with 403.
        reason: FailureReason = "content_filter" if status == 403 else "bad_request"
        fatal_unless_served = status in {403, 404} and not error_body.names(*_QUOTA)
        return AttemptError(reason, detail, fatal=fatal, fatal_unless_served=fatal_unless_served)
    kind = _CLASSES.get(status) or ("malformed" if status < 200 else "server_error" if status >= 500 else "bad_request")
    error = AttemptError(kind, detail, retry_after=wait_s)
    error.params = tuple(error_body.params[:8])
    error.proxied = kind == "connection"
    return error


_CLASSES: dict[int, FailureReason] = {
    408: "server_error",
    409: "server_error",
    425: "server_error",
    429: "rate_limit",
    503: "overload",
    529: "overload",
    # A proxy reports a connection that it lost, or never got, to the server behind it.
    502: "connection",
    504: "connection",
    520: "connection",
    521: "connection",
    522: "connection",
    523: "connection",
    524: "connection",
}


def _fatal_error(status: int, error_body: _ErrorBody, detail: str, where: str) -> LemaError | None:
    """Return the error for a reply that every other request would get too; None if others may fare better."""
    # Before the status: a used-up quota comes with 429, 403 or 400.
    if status == 402 or error_body.names(*_QUOTA):
        return EndpointError(f"{where}: no credit left ({detail}). Everything paid is kept; top up and run again")
    if status in {401, 403} or (status == 400 and error_body.names("invalid_api_key", "api_key_invalid")):
        return AuthenticationError(
            f"{where} refuses the key ({detail}). Set the variable named by api_key_env to a valid key"
        )
    if status == 404:
        hint = "Check the model's name, and that base_url ends where /chat/completions begins (usually /v1)"
        return EndpointError(f"{where} was not found ({detail}). {hint}")
    return None


def _preview(content: bytes) -> str:
    text = content[:DETAIL].decode("utf-8", "replace")
    return repr(text) if text else "(empty)"


def retry_after(headers: Mapping[str, str], now: dt.datetime | None = None) -> float | None:
    """Return the seconds the endpoint asks to wait: retry-after-ms, or Retry-After in seconds or as a date.

    0 for a time that is past; None if the headers say nothing that can be read.
    """
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(LONGEST_S, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _parse_number(value)
    if seconds is None and value is not None:
        seconds = _seconds_until(value, now or dt.datetime.now(dt.UTC))
    return None if seconds is None else min(LONGEST_S, max(0.0, seconds))


def rate_limit(headers: Mapping[str, str], name: str) -> int | None:
    """Return the limit per minute in the headers (``requests`` or ``tokens``); None for none, 0 and nonsense."""
    value = _parse_number(headers.get(f"x-ratelimit-limit-{name}"))
    if value is None or not value.is_integer() or not 0 < value < MOST_IN_LIMIT:
        return None
    return int(value)


def _parse_number(value: str | None) -> float | None:
    """Return a decimal number without a sign, in ASCII digits (``²`` is a digit to `str.isdigit`)."""
    found = _NUMBER.fullmatch(value[: 10 * _LONGEST_HEADER]) if value else None
    if found is None:
        return None
    # Cut before float(): a digit string of any length is a valid number of seconds.
    whole = found[1].lstrip("0")
    if len(whole) > 15:
        return LONGEST_S * 1000
    return min(LONGEST_S * 1000, float(f"{whole or '0'}{found[2] or ''}{found[3] or ''}"))


def _seconds_until(value: str, now: dt.datetime) -> float | None:
    if len(value) > _LONGEST_HEADER:
        return None
    try:
        date = parsedate_to_datetime(value)
        # The zone -0000 gives a date without a zone, which means UTC.
        date = date if date.tzinfo else date.replace(tzinfo=dt.UTC)
        return (date - now).total_seconds()
    # Of a malformed date: ValueError, TypeError, IndexError, OverflowError, and what a later Python raises.
    except Exception:  # noqa: BLE001 see above
        return None
