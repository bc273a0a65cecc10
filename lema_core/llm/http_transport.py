"""Buys completions from one endpoint, one HTTP request each: budget, gate, attempt, retries, ledger."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lema_core.errors import LemaError
from lema_core.llm.costs.budget import Account
from lema_core.llm.costs.prices import cost_of, price_of
from lema_core.llm.costs.token_estimates import Sizes, prompt_chars
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.ledger.ledger import Ledger
from lema_core.llm.ledger.store import Missed, Paid
from lema_core.llm.limits.admission_queue import Gate
from lema_core.llm.limits.limiter import Ticket
from lema_core.llm.limits.retry import BROKEN, PACED, Patience
from lema_core.llm.limits.usability import Usability
from lema_core.llm.model_server import is_restarting
from lema_core.llm.pending import Flight
from lema_core.llm.progress import Counters
from lema_core.llm.requests import (
    LONG_CAP,
    Completion,
    CompletionRequest,
    Failure,
    FailureReason,
    Outcome,
    canonical_json,
    canonical_request,
)
from lema_core.llm.responses import Answer, AttemptError

if TYPE_CHECKING:
    from lema_core.llm.client import Client


class Desk:
    """What every purchase from one endpoint shares, whichever transport carries it."""

    def __init__(
        self, spec: EndpointSpec, ledger: Ledger, account: Account, counters: Counters, usability: Usability
    ) -> None:
        self.spec = spec
        self.usability = usability
        self.ledger = ledger
        self.account = account
        self.counters = counters
        self.price = price_of(spec)
        self.sizes = Sizes()

    def body(self, request: CompletionRequest) -> dict[str, Any]:
        """Return the API's request body."""
        messages = [dict(message) for message in request.messages]
        return {"model": self.spec.model, "messages": messages} | request.sampling.body(request.sample_index)

    def most(self, request: CompletionRequest, cap: int | None) -> Amount:
        """Return the most that a request may cost."""
        prompt, output = self.sizes.most(prompt_chars(request), cap)
        return self.amount(prompt, output)

    def amount(self, prompt_tokens: float, completion_tokens: float) -> Amount:
        """Return what tokens cost; without a price, no money."""
        cost = cost_of(self.spec, self.price, prompt_tokens, completion_tokens)
        return Amount(cost or 0.0, prompt_tokens + completion_tokens)

    def cost(self, answer: Answer) -> float | None:
        """Return the price of an answer, where known."""
        return cost_of(self.spec, self.price, answer.prompt_tokens, answer.completion_tokens)

    async def keep(self, flight: Flight, answer: Answer, batch: str = "") -> Completion:
        """Commit a paid answer, of a batch where one is named; return the completion that stands for its key."""
        completion = Completion(
            flight.key,
            answer.text,
            answer.finish_reason,
            answer.prompt_tokens,
            answer.completion_tokens,
            answer.model or self.spec.model,
        )
        cost = self.cost(answer)
        self.sizes.seen(prompt_chars(flight.request), answer.prompt_tokens, answer.completion_tokens)
        entry = Paid(self.spec.identity, self.canonical(flight.request), completion, cost, batch)
        stands = await self.ledger.record(entry) or completion
        # Of the processes that read a batch, the one that booked an answer counts it.
        if not batch or stands is completion:
            now = asyncio.get_running_loop().time()
            self.counters.bought(now, answer.prompt_tokens, answer.completion_tokens, cost)
        return stands

    async def miss(
        self,
        flight: Flight,
        reason: FailureReason | Literal["length", "duplicate"],
        count: int,
        detail: str,
        *,
        paid: Answer | None = None,
        final: bool = False,
        batch: str = "",
    ) -> None:
        """Commit failed attempts, with whatever was paid for them; after a final one the request is given up."""
        tokens = (paid.prompt_tokens, paid.completion_tokens) if paid else (0, 0)
        cost = self.cost(paid) if paid else None
        if paid:
            self.counters.paid(*tokens, cost)
        text = self.canonical(flight.request)
        entry = Missed(self.spec.identity, text, flight.key, reason, detail, count, *tokens, cost, final, batch)
        await self.ledger.record(entry)

    def canonical(self, request: CompletionRequest) -> str:
        """Return what went into the key, as it is stored."""
        return canonical_json(canonical_request(self.spec.identity, request))


def cap_of(body: dict[str, Any]) -> int | None:
    """Return the most tokens that an answer to a request body may have, None without a cap."""
    cap: int | None = body.get("max_tokens") or body.get("max_completion_tokens")
    return cap


def larger_cap(body: dict[str, Any], first: Answer, factor: float) -> dict[str, int]:
    """Return the cap, under the name that the request uses, to ask again with after an answer that was cut off."""
    field = LONG_CAP if LONG_CAP in body else "max_tokens"
    return {field: int(factor * (body.get(field) or max(first.completion_tokens, 16)))}


@dataclass(slots=True)
class _Trip:
    """One request's way through all its attempts."""

    flight: Flight
    body: dict[str, Any]
    patience: Patience
    inside: bool = False
    """It has been answered and still counts as in flight."""
    judged: AttemptError | None = None
    """The error that the request was given up with, as the endpoint was judged by it."""
    failed: dict[FailureReason, tuple[int, str]] = field(default_factory=dict)
    """Attempts that failed and are not committed yet: by class, how many and the last one's detail."""


class Buyer:
    """The HTTP transport."""

    def __init__(self, desk: Desk, client: "Client", gate: Gate) -> None:
        self._desk = desk
        self._spec = desk.spec
        self._client = client
        self._gate = gate
        self._clock = asyncio.get_running_loop().time
        self._usability = desk.usability

    async def buy(self, flight: Flight) -> Outcome:
        """Return the flight's outcome, committed.

        Raises:
            EndpointError: no request to this endpoint can succeed.
            BudgetExceededError: the request does not fit and nothing is in flight.
            LedgerError: the outcome cannot be committed.
        """
        trip = _Trip(flight, self._desk.body(flight.request), Patience(self._spec.request_timeout_s, self._clock))
        self._usability.asked()
        try:
            answer = await self._tries(trip, trip.body)
            answer = await self._if_cut_off(trip, answer)
            completion, _ = await asyncio.gather(self._desk.keep(flight, answer), self._own_up(trip))
        except AttemptError as error:
            if error is not trip.judged:
                self._give_up(trip, error)
            if error.fatal is not None:
                raise error.fatal from None
            count, _ = trip.failed.pop(error.reason, (0, ""))
            last = self._desk.miss(flight, error.reason, count, error.detail, final=True)
            await asyncio.gather(self._own_up(trip), last)
            return Failure(flight.key, error.reason, error.detail, trip.patience.attempts)
        else:
            return completion
        finally:
            # Only now: what is answered but not committed counts as in flight, so a kill loses no more than that.
            self._leave(trip)

    def _give_up(self, trip: _Trip, error: AttemptError) -> None:
        """Judge the endpoint by a request that is not tried again."""
        trip.judged = error
        limiter = self._gate.limiter
        if error.fatal is None or error.doubtful:
            self._usability.given_up(trip.flight.key, error, trip.patience.began, self._clock(), limiter.in_flight)
            limiter.suspended = self._usability.suspended

    async def _own_up(self, trip: _Trip) -> None:
        """Commit the attempts that failed on the way to the request's end."""
        failed, trip.failed = trip.failed, {}
        await asyncio.gather(*(self._desk.miss(trip.flight, reason, *told) for reason, told in failed.items()))

    def _leave(self, trip: _Trip) -> None:
        if trip.inside:
            trip.inside = False
            self._gate.leave()

    async def _if_cut_off(self, trip: _Trip, first: Answer) -> Answer:
        """Ask once more with a larger cap; whatever becomes of it, the first answer is paid and not lost."""
        factor = self._spec.length_retry_factor
        if first.finish_reason != "length" or factor is None:
            return first
        larger = larger_cap(trip.body, first, factor)
        self._leave(trip)
        # Until the second is sent it may be called off.
        trip.flight.sent = False
        try:
            second = await self._tries(trip, trip.body | larger)
        except (AttemptError, LemaError, asyncio.CancelledError):
            # Called off as well: this task ends with the commit of what is paid.
            return first
        finally:
            trip.flight.sent = True
        detail = f"cut off after {first.completion_tokens} tokens; asked again with {larger}"
        await self._desk.miss(trip.flight, "length", 1, detail, paid=first)
        return second

    async def _tries(self, trip: _Trip, body: dict[str, Any]) -> Answer:
        cap = cap_of(body)
        most = self._desk.most(trip.flight.request, cap)

        async def attempt() -> Answer:
            account = self._desk.account
            held = await (self._reserved(trip, most) if trip.patience.attempts else account.reserve(most))
            used, lost = Amount(), False
            try:
                answer = await self._attempt(trip, body, cap)
                used = self._desk.amount(answer.prompt_tokens, answer.completion_tokens)
            except AttemptError as error:
                if error.paid is not None:
                    used = self._desk.amount(error.paid.prompt_tokens, error.paid.completion_tokens)
                elif error.maybe_paid:
                    # The endpoint may have billed it all; a hard limit must assume so.
                    used, lost = held, True
                await self._count(trip, error)
                raise
            except asyncio.CancelledError:
                if trip.flight.sent:
                    used, lost = held, True
                raise
            finally:
                account.settle(held, used, lost=lost)
            return answer

        result: Answer = await trip.patience.retrying()(attempt)
        return result

    async def _reserved(self, trip: _Trip, most: Amount) -> Amount:
        """Set aside the most that another try may cost; wait for that until the request's deadline at most."""
        try:
            async with asyncio.timeout(trip.patience.left()):
                return await self._desk.account.reserve(most)
        except TimeoutError:
            error = trip.patience.expired()
            await self._count(trip, error)
            raise error from None

    async def _count(self, trip: _Trip, error: AttemptError) -> None:
        self._desk.counters.ends[error.reason] += 1
        if error.paid is not None:
            await self._desk.miss(trip.flight, error.reason, 1, error.detail, paid=error.paid)
        else:
            count, _ = trip.failed.get(error.reason, (0, ""))
            trip.failed[error.reason] = (count + 1, error.detail)

    async def _attempt(self, trip: _Trip, body: dict[str, Any], cap: int | None) -> Answer:
        """Send once, through the gate, and tell the limiter what came of it."""
        chars = prompt_chars(trip.flight.request)
        gate = self._gate
        ticket = await self._admitted(trip, sum(self._desk.sizes.likely(chars, cap)))
        trip.flight.sent = True
        trip.patience.begin()
        seconds = min(self._spec.attempt_timeout_s, trip.patience.left())
        try:
            answer, headers = await self._client.ask(body, chars, seconds)
        except AttemptError as error:
            trip.flight.sent = False
            hurried = (
                error.reason == "deadline" and trip.patience.attempts > 1 and seconds < self._spec.attempt_timeout_s
            )
            self._refused(trip, ticket, error, hurried=hurried)
            raise
        except BaseException:
            gate.limiter.ended(ticket, self._clock())
            gate.pump()
            raise
        trip.inside = True
        self._usability.answered(self._clock())
        gate.limiter.suspended = False
        gate.limiter.succeeded(ticket, self._clock(), answer.prompt_tokens + answer.completion_tokens)
        gate.limiter.learn(headers, self._clock())
        return answer

    async def _admitted(self, trip: _Trip, tokens: float) -> Ticket:
        """Wait for a turn: the first as long as it takes, another one until the request's deadline."""
        patience, again = trip.patience, trip.patience.attempts > 0
        try:
            async with asyncio.timeout(patience.left() if again else None):
                return await self._gate.enter(tokens, again=again)
        except TimeoutError:
            raise patience.expired() from None

    def _refused(self, trip: _Trip, ticket: Ticket, error: AttemptError, *, hurried: bool) -> None:
        """Tell the limiter what came of an attempt; ``hurried``: it had too little time left to say anything."""
        now = self._clock()
        if is_restarting(self._spec.base_url):
            # A server of ours that died: its requests wait for it, and it is not away.
            error.excused = True
        elif not hurried:
            self._usability.failed(trip.flight.key, error, ticket.started, now)
        # One request that a proxy gave up must not make all others wait.
        broken = error.reason in BROKEN and (error.excused or not error.proxied)
        if not hurried and (error.reason in PACED or broken):
            self._gate.limiter.refused(ticket, now, error.retry_after, paced=error.reason in PACED)
        else:
            self._gate.limiter.ended(ticket, now)
        if not hurried:
            self._usability.paused(error, now, self._gate.limiter.paused_until)
        self._gate.limiter.suspended = self._usability.suspended
        # Before another request takes its place: whether any is in flight decides.
        if not trip.patience.goes_on(error):
            self._give_up(trip, error)
        self._gate.pump()
