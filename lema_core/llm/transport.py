"""What the HTTP and the batch transport have in common: their interface, and what all requests to an endpoint share."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from lema_core.llm.adaptation import Spelling, find_remedies, place_of
from lema_core.llm.costs.budget import BudgetGuard
from lema_core.llm.costs.prices import TokenEstimator, cost_of, price_of, prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import CompletionEntry, FailureEntry
from lema_core.llm.limits.health import EndpointHealth
from lema_core.llm.parameters import CAP, LONG_CAP
from lema_core.llm.progress import Counters
from lema_core.llm.requests import (
    Completion,
    CompletionRequest,
    FailureReason,
    Outcome,
    canonical_request,
    key_json,
)
from lema_core.llm.responses import AttemptError, ChatResponse
from lema_core.llm.settings import EngineSettings

Truncation = Literal["length", "length_thinking"]


class PendingRequest:
    """One request without an outcome yet, shared by every stream of the process that asks for it."""

    __slots__ = (
        "_future",
        "chars",
        "created_at",
        "error",
        "identity",
        "is_sent",
        "key",
        "outcome",
        "request",
        "task",
        "waiters",
    )

    def __init__(self, key: str, request: CompletionRequest, identity: str, created_at: float) -> None:
        self.key = key
        self.request = request
        self.chars = prompt_chars(request)
        self.identity = identity
        """The identity of its endpoint."""
        self.created_at = created_at
        self.waiters = 1
        self.is_sent = False
        """An attempt is on its way to the endpoint. It will be billed, so the request is not cancelled now."""
        self.task: asyncio.Task[None] | None = None
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        # Created only when a stream has to wait: most requests of a repeated run are answered from the ledger.
        self._future: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Return whether the outcome, or the error, is known."""
        return self.outcome is not None or self.error is not None

    def resolve(self, outcome: Outcome | None = None, error: BaseException | None = None) -> None:
        """Set the outcome or the error; calls after the first one change nothing."""
        # The poller, a failing endpoint and the transport may all want to; the first is right.
        if self.done:
            return
        self.outcome, self.error = outcome, error
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def result(self) -> Outcome:
        """Wait for the outcome, or raise the error."""
        while not self.done:
            if self._future is None or self._future.done():
                self._future = asyncio.get_running_loop().create_future()
            # Several streams may wait for one future; cancelling one of them must not cancel it for the others.
            await asyncio.shield(self._future)
        if self.error is not None:
            raise self.error
        if self.outcome is None:
            raise RuntimeError("a pending request is done without an outcome")
        return self.outcome


class Transport(Protocol):
    """A way to get completions from one endpoint."""

    async def complete(self, requests: Sequence[PendingRequest]) -> None:
        """Resolve every request with an outcome that is committed to the ledger.

        Raises:
            EndpointError: no request to this endpoint can succeed.
            BudgetExceededError: not one more request fits, and nothing under way can make room.
            LedgerError: an outcome cannot be committed.
        """


class EndpointContext:
    """What all requests to one endpoint share, whichever transport carries them."""

    def __init__(
        self,
        spec: EndpointSpec,
        ledger: Ledger,
        budget: BudgetGuard,
        counters: Counters,
        health: EndpointHealth,
        spelling: Spelling,
        settings: EngineSettings,
    ) -> None:
        self.spec = spec
        self.ledger = ledger
        self.budget = budget
        self.counters = counters
        self.health = health
        self.spelling = spelling
        self.settings = settings
        self.price = price_of(spec)
        self.estimator = TokenEstimator()

    def body(self, request: CompletionRequest) -> dict[str, Any]:
        """Return the API's request body in our own spelling; `Spelling.wire` makes it the endpoint's."""
        messages = [dict(message) for message in request.messages]
        return {"model": self.spec.model, "messages": messages} | request.sampling.body(request.sample_index)

    async def load_spelling(self) -> None:
        """Read what earlier processes learned from the endpoint's refusals, once."""
        if not self.spelling.is_loaded:
            place, store = place_of(self.spec.first_url), self.ledger.store
            self.spelling.remember(await self.ledger.call(lambda: store.learned_rules(self.spec.identity, place)))

    async def follow_refusal(self, error: AttemptError, body: dict[str, Any], sent: dict[str, Any]) -> bool:
        """Take in a refusal; return whether the request is spelled otherwise now, so that it is sent again."""
        if rows := self.spelling.learn(error, sent):
            place, store = place_of(self.spec.first_url), self.ledger.store
            await self.ledger.call(lambda: store.learn_rules(self.spec.identity, place, rows))
        if error.reason != "bad_request" or error.fatal is not None:
            return False
        return bool(find_remedies(error.detail, error.params, sent)) and self.spelling.wire(body) != sent

    def upper_bound(self, request: CompletionRequest, cap: int | None) -> Amount:
        """Return the most that a request may cost."""
        prompt, output = self.estimator.upper_bound(prompt_chars(request), cap)
        return self.cost(prompt, output)

    def cost(self, prompt_tokens: float, completion_tokens: float) -> Amount:
        """Return what tokens cost, none of them from a cache; without a price, no money."""
        dollars = cost_of(self.spec, self.price, prompt_tokens, completion_tokens)
        return Amount(dollars or 0.0, prompt_tokens + completion_tokens)

    def dollars(self, response: ChatResponse) -> float | None:
        """Return the price of a response, None where no price is known."""
        cache = (response.cached_tokens, response.cache_write_tokens)
        return cost_of(self.spec, self.price, response.prompt_tokens, response.completion_tokens, *cache)

    def bill(self, response: ChatResponse) -> Amount:
        """Return what a response is billed with; without a price, no money."""
        return Amount(self.dollars(response) or 0.0, response.prompt_tokens + response.completion_tokens)

    async def record_completion(self, pending: PendingRequest, response: ChatResponse, batch: str = "") -> Completion:
        """Commit a paid response; return the completion that the ledger has for its key from now on.

        Args:
            pending: the request that it answers.
            response: the response.
            batch: our id of the batch that carried it, if one did.
        """
        completion = Completion(
            pending.key,
            response.text,
            response.finish_reason,
            response.prompt_tokens,
            response.completion_tokens,
            response.model or self.spec.model,
            response.thinking,
            response.cached_tokens,
            response.reasoning_tokens,
            response.cache_write_tokens,
        )
        dollars = self.dollars(response)
        # Before the commit: requests that are reserved meanwhile already profit from it.
        cap = pending.request.sampling.cap
        largest = None if cap is None else cap * (self.spec.length_retry_factor or 1)
        self.estimator.observe(pending.chars, response.prompt_tokens, response.completion_tokens, largest)
        entry = CompletionEntry(self.spec.identity, self.canonical(pending.request), completion, dollars, batch)
        committed = await self.ledger.record(entry) or completion
        # Several processes may collect the same batch; only the one that committed the answer counts it.
        if not batch or committed is completion:
            now = asyncio.get_running_loop().time()
            self.counters.count_completion(now, response.prompt_tokens, response.completion_tokens, dollars)
        return committed

    async def record_failure(
        self,
        pending: PendingRequest,
        reason: FailureReason | Truncation | Literal["duplicate"],
        count: int,
        detail: str,
        *,
        paid: ChatResponse | None = None,
        final: bool = False,
        batch: str = "",
    ) -> None:
        """Commit failed attempts with what they cost. After a final one the request gives up its claim.

        Args:
            pending: the request.
            reason: the class of the failure.
            count: how many attempts failed in this way.
            detail: what the last of them said.
            paid: the response that was billed and cannot be used.
            final: whether the request is given up.
            batch: our id of the batch that carried it, if one did.
        """
        tokens = (paid.prompt_tokens, paid.completion_tokens) if paid else (0, 0)
        dollars = self.dollars(paid) if paid else None
        details = (paid.cached_tokens, paid.reasoning_tokens) if paid else (0, 0)
        if paid:
            self.counters.count_tokens(*tokens, dollars)
        text = self.canonical(pending.request)
        entry = FailureEntry(
            self.spec.identity, text, pending.key, reason, detail, count, *tokens, dollars, final, batch, details
        )
        await self.ledger.record(entry)

    def canonical(self, request: CompletionRequest) -> str:
        """Return what went into the request's key, as the ledger stores it."""
        # Made again at the commit, not kept since the key was made: prompts would be in memory twice.
        return key_json(canonical_request(self.spec.identity, request))


def cap_of(body: dict[str, Any]) -> int | None:
    """Return the most tokens that the answer to a request body may have, None without a cap."""
    cap: int | None = body.get(CAP) or body.get(LONG_CAP)
    return cap


def truncation_of(response: ChatResponse) -> Truncation:
    """Return the reason code of a truncated response: what its cap cut, the answer or the thinking before it."""
    return "length_thinking" if response.thinking and not response.text else "length"


def larger_cap(body: dict[str, Any], truncated: ChatResponse, factor: float) -> dict[str, int]:
    """Return the cap of the second try after a truncated response, under the name that the request uses."""
    field = LONG_CAP if LONG_CAP in body else CAP
    return {field: int(factor * (body.get(field) or max(truncated.completion_tokens, 16)))}
