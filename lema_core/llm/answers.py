"""What one attempt came to: an answer, or an error of a known class.

The class decides what happens next (`retries`): wait and try again, give up on this request, or on the endpoint.
"""

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeGuard

from lema_core.errors import AuthenticationError, EndpointError, LemaError
from lema_core.llm.requests import FailureReason

DETAIL = 400
"""Characters of an endpoint's own words that are kept."""
MOST_TOKENS = 2**40
"""No answer has so many; a usage that says so is not believed, and no database could add it up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A paid answer."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    model: str


class AttemptError(Exception):
    """One attempt failed. ``fatal`` is set when no other request to the endpoint could succeed either."""

    def __init__(
        self,
        reason: FailureReason,
        detail: str,
        *,
        retry_after: float | None = None,
        fatal: LemaError | None = None,
        paid: Answer | None = None,
        maybe_paid: bool = False,
        refused: bool = False,
        doubtful: bool = False,
    ) -> None:
        self.reason: FailureReason = reason
        self.detail = legible(detail)
        super().__init__(f"{reason}: {self.detail}")
        self.retry_after = retry_after
        self.fatal = fatal
        self.paid = paid
        """What was billed for an answer that cannot be used."""
        self.maybe_paid = maybe_paid
        """The request went out and no answer came: the endpoint may have billed it."""
        self.refused = refused
        """No connection could be made: nothing was sent, whatever the request."""
        self.proxied = False
        """A proxy says that it lost the server, or its patience: the answer to this request may just be long."""
        self.doubtful = doubtful
        """``fatal`` holds only where no request was answered: a firewall may take offence at a single prompt."""
        self.excused = False
        """The endpoint is away for everybody: the try does not count against the request."""


def read_answer(content: bytes, prompt_chars: int) -> Answer:
    """Return the answer in a response's body.

    Raises:
        AttemptError: ``malformed`` or ``content_filter``, with what was paid.
    """
    try:
        return answer_of(json.loads(content), prompt_chars)
    except (ValueError, RecursionError):
        raise AttemptError("malformed", f"the answer is no JSON: {_start(content)}", maybe_paid=True) from None


def answer_of(body: Any, prompt_chars: int) -> Answer:
    """Return the answer in a chat completion object; see `read_answer`."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason") or "stop"
    except (KeyError, IndexError, TypeError, AttributeError):
        what = _start(json.dumps(body).encode())
        raise AttemptError("malformed", f"the answer has no choices[0].message: {what}", maybe_paid=True) from None
    text = content if isinstance(content, str) else refusal if isinstance(refusal, str) else None
    if text is None and finish == "length":
        # Thinking used up the cap before the answer began: cut off, like any other.
        text = ""
    clean = _whole(text or "")
    prompt, completion = _usage(body.get("usage"), prompt_chars, clean)
    answer = Answer(clean, legible(str(finish)), prompt, completion, legible(str(body.get("model") or "")))
    if finish == "content_filter":
        raise AttemptError("content_filter", "the endpoint's content filter stopped the answer", paid=answer)
    if text is None:
        raise AttemptError("malformed", f"the answer's content is {type(content).__name__}, not text", paid=answer)
    return answer


def _usage(usage: Any, prompt_chars: int, text: str) -> tuple[int, int]:
    """Return the tokens billed; four characters a token where the endpoint does not tell."""
    told = usage if isinstance(usage, dict) else {}
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
    return (
        prompt if _is_count(prompt) else 1 + prompt_chars // 4,
        completion if _is_count(completion) else 1 + len(text) // 4,
    )


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < MOST_TOKENS


def legible(text: str) -> str:
    """Return an endpoint's words as every database and file takes them: whole characters, no NUL."""
    return _whole(text).replace("\0", "\ufffd")


def _whole(text: str) -> str:
    # A cut-off emoji arrives as half a surrogate pair, which no file format takes.
    return text.encode("utf-8", "replace").decode()


def status_error(status: int, headers: Mapping[str, str], content: bytes, where: str) -> AttemptError:
    """Return the error that an HTTP status stands for. ``where`` names the endpoint and model for the user."""
    message, code = _complaint(content)
    detail = f"HTTP {status}: {message}"
    if any(word in code for word in ("content_filter", "content_policy")) or (status == 403 and _moderated(message)):
        return AttemptError("content_filter", detail)
    if fatal := _fatal(status, code, detail, where):
        reason: FailureReason = "content_filter" if status == 403 else "bad_request"
        return AttemptError(reason, detail, fatal=fatal, doubtful=status in {403, 404})
    kind = _CLASSES.get(status, _by_hundred(status))
    error = AttemptError(kind, detail, retry_after=retry_after(headers))
    error.proxied = kind == "connection"
    return error


_CLASSES: dict[int, FailureReason] = {
    408: "server_error",
    409: "server_error",
    425: "server_error",
    429: "rate_limit",
    503: "overload",
    529: "overload",
    # A proxy tells of a connection that it lost, or never got, to the server behind it.
    502: "connection",
    504: "connection",
    520: "connection",
    521: "connection",
    522: "connection",
    523: "connection",
    524: "connection",
}


def _by_hundred(status: int) -> FailureReason:
    return "server_error" if status >= 500 else "bad_request"


def _moderated(message: str) -> bool:
    return any(word in message.lower() for word in ("moderation", "flagged", "content policy", "content filter"))


def _fatal(status: int, code: str, detail: str, where: str) -> LemaError | None:
    """Return the error for an answer that every other request would get too."""
    if status in {401, 403}:
        return AuthenticationError(
            f"{where} refuses the key ({detail}). Set the variable named by api_key_env to a valid key"
        )
    if status == 404:
        hint = "Check the model's name, and that base_url ends where /chat/completions begins (usually /v1)"
        return EndpointError(f"{where} was not found ({detail}). {hint}")
    if status == 402 or code in {"insufficient_quota", "billing_hard_limit_reached"}:
        return EndpointError(f"{where}: no credit left ({detail}). Everything paid is kept; top up and run again")
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds the endpoint asks to wait: Retry-After in seconds or as a date, or retry-after-ms."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - dt.datetime.now(dt.UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _complaint(content: bytes) -> tuple[str, str]:
    """Return (message, code) of an error body, whatever its shape."""
    try:
        error = json.loads(content)["error"]
        return str(error["message"])[:DETAIL], str(error.get("code") or error.get("type") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _start(content), ""


def _start(content: bytes) -> str:
    text = content[:DETAIL].decode("utf-8", "replace")
    return repr(text) if text else "(empty)"
