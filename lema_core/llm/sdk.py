"""`openai`'s SDK over our bounded transport: the Batch API's calls."""

import httpx2
import openai

from lema_core.llm.answers import AttemptError
from lema_core.llm.bounded_http import MOST_BYTES, BoundedSession, Reply

FOREVER_S = 86_400.0
"""The caller has a deadline of its own."""

_HEADERS = frozenset({"content-type", "retry-after", "retry-after-ms"})


class _Failed(httpx2.TransportError):
    """An attempt that failed, as the SDK takes it."""

    def __init__(self, attempt: AttemptError) -> None:
        super().__init__(attempt.detail)
        self.attempt = attempt


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, session: BoundedSession, base: httpx2.URL) -> None:
        self._session = session
        self._base = base.raw_path.decode().rstrip("/")

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.decode().partition("?")[0].removeprefix(self._base)
        try:
            reply = await self._session.send(
                request.method,
                path,
                most=MOST_BYTES,
                seconds=FOREVER_S,
                data=await request.aread() or None,
                content_type=request.headers.get("content-type", "application/json"),
                params=dict(request.url.params),
            )
        except AttemptError as error:
            failed = _Failed(error)
        else:
            headers = {
                name: value for name, value in reply.headers.items() if name.lower() in {"content-type", "retry-after"}
            }
            return httpx2.Response(reply.status, headers=headers, content=reply.content, request=request)
        raise failed


def sdk_client(session: BoundedSession, base_url: str, key: str) -> openai.AsyncOpenAI:
    """Return the SDK's client of one endpoint."""
    http = httpx2.AsyncClient(transport=_Transport(session, httpx2.URL(base_url)), trust_env=False)
    return openai.AsyncOpenAI(base_url=base_url, api_key=key, http_client=http, max_retries=0, timeout=None)


def attempt_of(error: openai.APIError) -> AttemptError | Reply:
    """Return what an error of the SDK stands for: a reply with an error status, or an attempt without a reply."""
    if isinstance(error, openai.APIStatusError):
        response = error.response
        return Reply(response.status_code, response.headers, response.content)
    cause = error.__cause__
    if isinstance(cause, _Failed):
        return cause.attempt
    return AttemptError(
        "malformed", f"the reply is not what the API describes ({type(error).__name__})", maybe_paid=True
    )
