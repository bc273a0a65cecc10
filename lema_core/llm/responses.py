"""What one attempt came to: an answer, or an error of a known class.

The class decides what happens next (`retries`): wait and try again, give up on this request, or on the endpoint.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lema_core.errors import AuthenticationError, EndpointError, LemaError
from lema_core.llm.headers import retry_after
from lema_core.llm.requests import FailureReason
from lema_core.system.messages import one_line

DETAIL = 400
"""Characters of an endpoint's own words that are kept."""
MOST_TOKENS = 10**8
"""No context window holds more; a usage that says so is not believed, and would use up any budget."""
LONGEST_NAME = 200
"""Characters of a model's name or a finish reason that are kept."""
REDIRECTS = frozenset({301, 302, 303, 307, 308})


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
        self.detail = one_line(detail, 2 * DETAIL)
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
        self.answered = False
        """The status line of a reply had arrived."""
        self.excused = False
        """The endpoint is away for everybody: the try does not count against the request."""


def read_answer(content: bytes, prompt_chars: int, where: str = "the endpoint") -> Answer:
    """Return the answer in a response's body. ``where`` names the endpoint and model for the user.

    Raises:
        AttemptError: ``malformed`` or ``content_filter``, with what was paid; or the class of an error inside.
    """
    try:
        return answer_of(json.loads(content), prompt_chars, where)
    # ValueError, RecursionError (deep nesting), MemoryError: whatever is in a body, it is the endpoint's.
    except (ValueError, RecursionError, MemoryError):
        raise AttemptError("malformed", f"the answer is no JSON: {_start(content)}", maybe_paid=True) from None


def answer_of(body: Any, prompt_chars: int, where: str = "the endpoint") -> Answer:
    """Return the answer in a chat completion object; see `read_answer`."""
    try:
        choice = _first_choice(body)
        raise_error_inside(body, choice, prompt_chars, where)
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason") or "stop"
    except (KeyError, IndexError, TypeError, AttributeError):
        what = _start(json.dumps(body).encode())
        raise AttemptError("malformed", f"the answer has no choices[0].message: {what}", maybe_paid=True) from None
    text = _text_of(content)
    if text is None and isinstance(refusal, str):
        text = refusal
    if text is None and finish == "length":
        # Thinking used up the cap before the answer began: cut off, like any other.
        text = ""
    answer = _paid(body, text or "", finish, prompt_chars)
    if finish == "content_filter":
        raise AttemptError("content_filter", "the endpoint's content filter stopped the answer", paid=answer)
    if text is None:
        raise AttemptError("malformed", f"the answer's content is {type(content).__name__}, not text", paid=answer)
    return answer


def _first_choice(body: Any) -> Any:
    """Return choices[0]; an empty object where an error stands instead of choices."""
    if isinstance(body, dict) and isinstance(body.get("choices"), list) and body["choices"]:
        return body["choices"][0]
    if _complaints_in(body):
        return {}
    return body["choices"][0]


def _text_of(content: Any) -> str | None:
    """Return an answer's content; of a list of parts the text, without thinking and pictures."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    parts = [part if isinstance(part, str) else _text_part(part) for part in content]
    texts = [part for part in parts if part is not None]
    return "".join(texts) if texts else None


def _text_part(part: Any) -> str | None:
    if not isinstance(part, dict) or part.get("type", "text") not in ("text", "output_text"):
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None


def _paid(body: Mapping[str, Any], text: str, finish: Any, prompt_chars: int) -> Answer:
    clean = _whole(text)
    prompt, completion = _usage(body.get("usage"), prompt_chars, clean)
    model = body.get("model")
    return Answer(
        clean,
        one_line(finish if isinstance(finish, str) else type(finish).__name__, LONGEST_NAME),
        prompt,
        completion,
        one_line(model, LONGEST_NAME) if isinstance(model, str) else "",
    )


def _usage(usage: Any, prompt_chars: int, text: str) -> tuple[int, int]:
    """Return the tokens billed; four characters a token where the endpoint gives none, or 0 for what is not empty."""
    given = usage if isinstance(usage, dict) else {}
    prompt, completion = _count(given.get("prompt_tokens")), _count(given.get("completion_tokens"))
    if not prompt and (prompt is None or prompt_chars):
        prompt = 1 + prompt_chars // 4
    if not completion and (completion is None or text):
        completion = 1 + len(text) // 4
    return prompt, completion


def _count(value: Any) -> int | None:
    """Return a number of tokens: an int, a whole float or a string of digits; True is none, nor is a negative one."""
    whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12
    if isinstance(value, bool) or not (isinstance(value, int) or whole or digits):
        return None
    count = int(value)
    return count if 0 <= count < MOST_TOKENS else None


def _whole(text: str) -> str:
    # A cut-off emoji arrives as half a surrogate pair, which no file format takes.
    return text.encode("utf-8", "replace").decode()


@dataclass(slots=True)
class _Complaint:
    """What an error body says, whatever its shape."""

    messages: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    """In small letters; numbers as their digits."""

    def __bool__(self) -> bool:
        return bool(self.messages or self.codes)

    @property
    def message(self) -> str:
        return one_line("; ".join(dict.fromkeys(self.messages[:3])) or ", ".join(self.codes[:3]), DETAIL)

    def names(self, *parts: str) -> bool:
        """Say whether a code holds one of the words."""
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


def _read_complaint(value: Any) -> _Complaint:
    """Return what an error's JSON says: OpenAI's, Anthropic's, Gemini's list, Azure's, FastAPI's, or any mixture."""
    complaint, nodes = _Complaint(), 0

    def walk(node: Any, depth: int) -> None:
        nonlocal nodes
        nodes += 1
        if depth > _DEEPEST or nodes > _MOST_NODES:
            return
        if isinstance(node, str):
            complaint.messages.append(node[: 2 * DETAIL])
        elif isinstance(node, list):
            for inner in node[:8]:
                walk(inner, depth + 1)
        elif isinstance(node, dict):
            complaint.codes.extend(_codes_in(node))
            for name in (*_MESSAGES, *_DETAILS):
                if name in node:
                    walk(node[name], depth + 1)

    walk(value, 0)
    complaint.messages = [text for text in complaint.messages if text.strip()]
    return complaint


def _codes_in(node: Mapping[str, Any]) -> Iterator[str]:
    for name in _CODES:
        code = node.get(name)
        if isinstance(code, str | int) and not isinstance(code, bool) and code != "":
            yield (code if isinstance(code, str) else f"{code:d}" if abs(code) < 10**6 else "").strip().lower()[:100]


def _complaints_in(body: Any) -> list[Any]:
    """Return the errors that a body holds at its top: under ``error`` and its like, in a list, or being one itself."""
    if isinstance(body, list):
        return [found for inner in body[:8] if isinstance(inner, dict) for found in _complaints_in(inner)]
    if not isinstance(body, dict):
        return []
    if body.get("error"):
        return [body["error"]]
    if body.get("choices"):
        return []
    if body.get("object") == "error" or body.get("type") == "error" or isinstance(body.get("message"), str):
        return [body]
    return [body[name] for name in _ERROR_PLACES if body.get(name)]


def raise_error_inside(body: Any, choice: Any, prompt_chars: int, where: str) -> None:
    """Raise the error that a body with a good status holds: some endpoints find out after they sent the status.

    Raises:
        AttemptError: of the class that the error's own code stands for; `server_error` where it names none.
    """
    found = _complaints_in(body)
    inner = choice.get("error") if isinstance(choice, dict) else None
    failed = isinstance(choice, dict) and str(choice.get("finish_reason") or "").lower() == "error"
    if not (found or inner or failed):
        return
    complaint = _read_complaint([*([inner] if inner else []), *found])
    status = _status_named(complaint)
    said = complaint.message or ('finish reason "error"' if failed else "without a message")
    error = _classified(status, complaint, f"HTTP 200 with an error inside: {said}", where, None)
    usage = body.get("usage") if isinstance(body, dict) else None
    if isinstance(usage, dict) and _count(usage.get("completion_tokens")):
        text = _text_of(choice.get("message", {}).get("content")) if isinstance(choice.get("message"), dict) else None
        error.paid = _paid(body, text or "", "error", prompt_chars)
    else:
        # It may have failed half-way, and what was written until then is billed by some.
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


def _status_named(complaint: _Complaint) -> int:
    """Return the HTTP status that an error's codes stand for; 500 where they name none."""
    if complaint.names(*_STATUS_OF_CODE[0][1]):
        return 402
    for code in complaint.codes:
        if code.isascii() and code.isdigit() and len(code) == 3 and 400 <= int(code) < 600:
            return int(code)
    for status, words in _STATUS_OF_CODE[1:]:
        if complaint.names(*words):
            return status
    return 500


def status_error(status: int, headers: Mapping[str, str], content: bytes, where: str) -> AttemptError:
    """Return the error that an HTTP status stands for. ``where`` names the endpoint and model for the user."""
    try:
        complaint = _read_complaint(json.loads(content))
    except (ValueError, RecursionError, MemoryError):
        complaint = _Complaint()
    detail = f"HTTP {status}: {complaint.message or _start(content)}"
    if status in REDIRECTS:
        return AttemptError("bad_request", detail, fatal=_redirected(status, headers.get("location", ""), where))
    return _classified(status, complaint, detail, where, retry_after(headers))


def error_named(error: Any, said: str, where: str) -> AttemptError:
    """Return what an error means that comes without a status, as in the rows of a batch; ``said`` is it in words."""
    complaint = _read_complaint(error)
    return _classified(_status_named(complaint), complaint, said, where, None)


def _classified(status: int, complaint: _Complaint, detail: str, where: str, wait_s: float | None) -> AttemptError:
    filtered = complaint.names("content_filter", "content_policy", "responsibleaipolicy")
    if filtered or (status == 403 and _moderated(complaint.message)):
        return AttemptError("content_filter", detail)
    if fatal := _fatal(status, complaint, detail, where):
        reason: FailureReason = "content_filter" if status == 403 else "bad_request"
        doubtful = status in {403, 404} and not complaint.names(*_QUOTA)
        return AttemptError(reason, detail, fatal=fatal, doubtful=doubtful)
    kind = _CLASSES.get(status, _by_hundred(status))
    error = AttemptError(kind, detail, retry_after=wait_s)
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


def _by_hundred(status: int) -> FailureReason:
    if status < 200:
        return "malformed"
    return "server_error" if status >= 500 else "bad_request"


def _moderated(message: str) -> bool:
    return any(word in message.lower() for word in ("moderation", "flagged", "content policy", "content filter"))


def _redirected(status: int, location: str, where: str) -> EndpointError:
    # Neither a user nor a query, which may hold what we sent.
    target = one_line(location.partition("?")[0].rpartition("@")[2], LONGEST_NAME)
    return EndpointError(
        f"{where} sends its requests elsewhere (HTTP {status}{f', to {target!r}' if target else ''}). Redirects are "
        "not followed, because the prompts would go to a server that the run does not name: base_url is wrong, or "
        "needs https://"
    )


def _fatal(status: int, complaint: _Complaint, detail: str, where: str) -> LemaError | None:
    """Return the error for an answer that every other request would get too."""
    # Before the status: a used-up quota comes with 429, 403 or 400, and with any code beside it.
    if status == 402 or complaint.names(*_QUOTA):
        return EndpointError(f"{where}: no credit left ({detail}). Everything paid is kept; top up and run again")
    if status in {401, 403} or (status == 400 and complaint.names("invalid_api_key", "api_key_invalid")):
        return AuthenticationError(
            f"{where} refuses the key ({detail}). Set the variable named by api_key_env to a valid key"
        )
    if status == 404:
        hint = "Check the model's name, and that base_url ends where /chat/completions begins (usually /v1)"
        return EndpointError(f"{where} was not found ({detail}). {hint}")
    return None


def _start(content: bytes) -> str:
    text = content[:DETAIL].decode("utf-8", "replace")
    return repr(text) if text else "(empty)"
