"""The client of an endpoint with ``api = "anthropic"``: the `anthropic` SDK over the same bounded transport.

What `client` says of the `openai` SDK holds here: the SDK makes the request, its retries are off, its response models
are not built, and none of its exceptions leaves.
"""

import importlib.util
import json
from collections.abc import Mapping
from typing import Any

import httpx2

from lema_core.errors import MissingDependencyError
from lema_core.llm.bounded_http import Reply
from lema_core.llm.client import Client
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.messages import PromptCache, completion_of, messages_body
from lema_core.llm.responses import AttemptError, ChatResponse, parse_completion, parse_response
from lema_core.llm.settings import DEFAULTS, EngineSettings
from lema_core.system.packages import install_command

VERSION = "2023-06-01"
"""Of the API, as a header. The API has had no other one since."""


class AnthropicClient(Client):
    """One Anthropic endpoint with one key, in one event loop.

    Raises:
        MissingDependencyError: the SDK is not installed.
    """

    path = "/messages"

    def __init__(self, spec: EndpointSpec, settings: EngineSettings = DEFAULTS) -> None:
        # Before a session is opened.
        if importlib.util.find_spec("anthropic") is None:
            raise MissingDependencyError(
                'api = "anthropic" needs the anthropic package: run '
                f"`{install_command('anthropic')}`, or leave `api` out to use Claude's OpenAI layer"
            )
        self._cache = PromptCache()
        super().__init__(spec, settings)

    @staticmethod
    def root_of(base_url: str) -> str:
        """Return the URL that paths go below. The SDK's own form of a base URL is without ``/v1``."""
        place, mark, query = base_url.partition("?")
        place = place.rstrip("/")
        return (place if place.endswith("/v1") else f"{place}/v1") + mark + query

    @staticmethod
    def own_headers(key: str) -> dict[str, str]:
        """Return the headers that say who asks, and for which API."""
        return {"x-api-key": key, "anthropic-version": VERSION}

    def open_sdk(self, base: httpx2.URL, http: httpx2.AsyncClient) -> Any:
        """Return the SDK's client."""
        import anthropic

        return anthropic.AsyncAnthropic(base_url=base, api_key=self._key, http_client=http, max_retries=0, timeout=None)

    def wire(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a chat completion's body as it is sent."""
        return messages_body(body, self._cache)

    def parse(self, content: bytes, prompt_chars: int) -> ChatResponse:
        """Return the answer in a response's body; see `parse_response`."""
        try:
            body = json.loads(content)
        except (ValueError, RecursionError, MemoryError):
            return parse_response(content, prompt_chars, self.where)
        return parse_completion(completion_of(body), prompt_chars, self.where)

    def error_of(self, reply: Reply) -> AttemptError:
        """Return what a reply with an error status means."""
        # A used-up balance comes as an invalid request, like a bad prompt.
        if reply.status == 400 and b"credit balance" in reply.content.lower():
            return super().error_of(Reply(402, reply.headers, reply.content))
        return super().error_of(reply)
