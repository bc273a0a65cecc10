"""The HTTP transport, one POST per attempt: reserve budget, wait for a permit, send, judge the reply, commit."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lema_core.errors import LemaError
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.limits.admission_queue import AdmissionQueue, Grant
from lema_core.llm.limits.replica import Replica
from lema_core.llm.limits.retry import BACKPRESSURE, CONNECTION_FAILURES, RetryState
from lema_core.llm.requests import Failure, FailureReason, Outcome
from lema_core.llm.responses import AttemptError, ChatResponse
from lema_core.llm.servers import is_down
from lema_core.llm.transport import EndpointContext, PendingRequest, cap_of, larger_cap, truncation_of

if TYPE_CHECKING:
    from lema_core.llm.client import Client


@dataclass(slots=True)
class _RequestState:
    """One request over all its attempts."""

    pending: PendingRequest
    body: dict[str, Any]
    retries: RetryState
    grant: Grant | None = None
    """It was answered and still counts as in flight, because the answer is not committed."""
    failed_at: set[Replica] = field(default_factory=set)
    """The servers where an attempt failed."""
    judged: AttemptError | None = None
    """The error that the request was given up with, once the endpoint's health has taken it in."""
    uncommitted: dict[FailureReason, tuple[int, str]] = field(default_factory=dict)
    """Failed attempts that are not committed yet, by class: their number and the last one's detail."""


class HttpTransport:
    """Chat completions from one endpoint by HTTP. See `Transport` for its errors."""

    def __init__(self, context: EndpointContext, clients: "Mapping[str, Client]", queue: AdmissionQueue) -> None:
        self._context = context
        self._spec = context.spec
        # By URL: specs that share a queue have clients of their own.
        self._clients = clients
        self._queue = queue
        self._clock = asyncio.get_running_loop().time
        self._health = context.health

    async def complete(self, requests: Sequence[PendingRequest]) -> None:
        """Resolve requests one after the other: the engine hands over one at a time, each in a task of its own."""
        context = self._context
        for pending in requests:
            body = context.body(pending.request)
            retries = RetryState(
                self._spec.request_timeout_s,
                self._clock,
                context.settings.retry_wait_s,
                greedy=body.get("temperature") == 0,
            )
            state = _RequestState(pending, body, retries)
            self._health.record_request()
            try:
                response = await self._attempt_until_done(state, state.body)
                if response.finish_reason == "length" and self._spec.length_retry_factor is not None:
                    response = await self._retry_truncated(state, response, self._spec.length_retry_factor)
                # Together: the ledger groups both into one transaction.
                outcome: Outcome
                outcome, _ = await asyncio.gather(
                    context.record_completion(pending, response), self._commit_failures(state)
                )
            except AttemptError as error:
                # A deadline that passed while waiting for another attempt was not judged with any attempt.
                if error is not state.judged:
                    self._give_up(state, error)
                if error.fatal is not None:
                    raise error.fatal from None
                count, _ = state.uncommitted.pop(error.reason, (0, ""))
                last = context.record_failure(pending, error.reason, count, error.detail, final=True)
                await asyncio.gather(self._commit_failures(state), last)
                outcome = Failure(pending.key, error.reason, error.detail, retries.attempts)
            finally:
                # Also where the budget or a deadline ended it between two attempts.
                context.spelling.end_turn(pending.key)
                # After the commit: answered but uncommitted requests count as in flight, so a kill loses no more.
                self._release_permit(state)
            pending.resolve(outcome)

    async def _attempt_until_done(self, state: _RequestState, body: dict[str, Any]) -> ChatResponse:
        """Return the first usable response; reserve the budget of each attempt and settle it by what was billed.

        Raises:
            AttemptError: that of the last attempt.
        """
        context, budget = self._context, self._context.budget
        cap = cap_of(body)
        async for attempt in state.retries.retry_loop():
            with attempt:
                reserved, grant = await self._reserve_and_admit(state, body, cap)
                used, unaccounted = Amount(), False
                try:
                    response = await self._attempt(state, body, grant)
                    used = context.bill(response)
                except AttemptError as error:
                    if error.paid is not None:
                        used = context.bill(error.paid)
                    elif error.maybe_paid:
                        # The endpoint may have billed the whole reservation. A hard limit has to assume so.
                        used, unaccounted = reserved, True
                    await self._record_failed_attempt(state, error)
                    raise
                except asyncio.CancelledError:
                    if state.pending.is_sent:
                        used, unaccounted = reserved, True
                    raise
                finally:
                    budget.settle(reserved, used, unaccounted=unaccounted)
                return response
        raise RuntimeError("the retry loop ends by returning a response or raising the last error")

    async def _reserve_and_admit(
        self, state: _RequestState, body: dict[str, Any], cap: int | None
    ) -> tuple[Amount, Grant]:
        """Return what is reserved in the budget for an attempt, and the permit for it.

        Raises:
            AttemptError: the deadline has passed; only the first attempt waits for both as long as it takes.
        """
        context, budget, retries, queue = self._context, self._context.budget, state.retries, self._queue
        request, is_retry = state.pending.request, retries.attempts > 0
        await context.spelling.wait_turn(state.pending.key, body)
        while True:
            try:
                async with asyncio.timeout(retries.remaining_s() if is_retry else None):
                    reserved = await budget.reserve(context.upper_bound(request, cap))
                    grant, enlarged = None, None
                    try:
                        expected = sum(context.estimator.expected(state.pending.chars, cap))
                        grant = await queue.acquire(expected, is_retry=is_retry, failed_at=state.failed_at)
                        # While requests wait for permits, answers come that cost more than was reserved for any: what
                        # they show must count for those that are not sent, or the budget is passed by all that wait.
                        enlarged = await budget.enlarge(reserved, context.upper_bound(request, cap))
                    finally:
                        if enlarged is None:
                            if grant is not None:
                                queue.end(grant)
                            budget.settle(reserved, Amount())
            except BaseException as error:
                context.spelling.end_turn(state.pending.key)
                if not isinstance(error, TimeoutError):
                    raise
                late = retries.deadline_error()
                await self._record_failed_attempt(state, late)
                raise late from None
            if enlarged is not None and grant is not None:
                return enlarged, grant

    async def _attempt(self, state: _RequestState, body: dict[str, Any], grant: Grant) -> ChatResponse:
        """Send once with a permit; report the result to the limiter and the endpoint's health."""
        queue, retries, chars = self._queue, state.retries, state.pending.chars
        spelling = self._context.spelling
        # From here to the reply it is not cancelled: the endpoint bills it whether we wait or not.
        state.pending.is_sent = True
        retries.begin_attempt()
        seconds = min(self._spec.attempt_timeout_s, retries.remaining_s())
        sent = spelling.wire(body)
        try:
            client = self._clients[grant.replica.url]
            response, headers = await client.complete(sent, chars, seconds, state.pending.request.sampling.headers)
        except AttemptError as error:
            state.pending.is_sent = False
            error.adapted = await self._context.follow_refusal(error, body, sent)
            if error.adapted:
                queue.end(grant)
                raise
            went_first = spelling.end_turn(state.pending.key)
            # Ended by the request's own deadline before a whole attempt was over: that says nothing of the endpoint.
            is_cut_short = (
                error.reason == "deadline" and retries.attempts > 1 and seconds < self._spec.attempt_timeout_s
            )
            self._judge_failure(state, grant, error, is_cut_short=is_cut_short)
            if went_first:
                # It may have been refused for its prompt: those that waited for it are sent together, as ever.
                queue.suspended = self._health.suspended = False
                queue.wake()
            raise
        except BaseException:
            spelling.end_turn(state.pending.key)
            queue.end(grant)
            raise
        # The permit is kept until the answer is committed, see `complete`.
        state.grant = grant
        now, limiter = self._clock(), grant.replica.limiter
        self._health.record_success(now)
        spelling.end_turn(state.pending.key, sent)
        grant.replica.record_success()
        queue.suspended = False
        limiter.record_success(grant.permit, now, response.prompt_tokens + response.completion_tokens)
        limiter.learn_limits(headers, now)
        return response

    async def _retry_truncated(self, state: _RequestState, first: ChatResponse, factor: float) -> ChatResponse:
        """Ask once more with a larger cap. The first response is paid: whatever happens, it is not lost."""
        larger = larger_cap(state.body, first, factor)
        self._release_permit(state)
        # Until the second try is sent, the request may be cancelled again.
        state.pending.is_sent = False
        try:
            second = await self._attempt_until_done(state, state.body | larger)
        except (AttemptError, LemaError, asyncio.CancelledError):
            # Also when cancelled: this task ends with the commit of what is paid.
            return first
        finally:
            state.pending.is_sent = True
        reason = truncation_of(first)
        where = " inside its thinking" if reason == "length_thinking" else ""
        detail = f"cut off{where} after {first.completion_tokens} tokens; asked again with {larger}"
        await self._context.record_failure(state.pending, reason, 1, detail, paid=first)
        return second

    def _judge_failure(self, state: _RequestState, grant: Grant, error: AttemptError, *, is_cut_short: bool) -> None:
        """Report a failed attempt to the server's limiter, and to the server's or the endpoint's health."""
        now, queue, health = self._clock(), self._queue, self._health
        replica, permit, key = grant.replica, grant.permit, state.pending.key
        others, retry_after = queue.others_in_service(replica), error.retry_after
        state.failed_at.add(replica)
        if others:
            # The limiter honours it for this server; another one may answer now.
            error.retry_after = None
        if is_down(replica.url):
            # Our own server died and is being started again: its requests wait, and the endpoint is not away.
            error.exempt = True
        elif not is_cut_short:
            answered = any(other.has_answered for other in others)
            is_servers_own = others and replica.take_blame(
                key, error, permit.started_at, now, others_answered=answered, tried=len(state.failed_at)
            )
            if not is_servers_own:
                health.record_failure(key, error, permit.started_at, now)
        # One request that a proxy gave up must not slow down all others.
        is_broken = error.reason in CONNECTION_FAILURES and (error.exempt or not error.proxied)
        is_push_back = error.reason in BACKPRESSURE
        if not is_cut_short and (is_push_back or is_broken):
            replica.limiter.record_congestion(permit, now, retry_after, is_push_back=is_push_back)
        else:
            replica.limiter.record_end(permit, now)
        if not is_cut_short:
            health.record_pause(error, now, queue.paused_until)
        queue.suspended = health.suspended
        # Before another request takes the place of this one: the verdict depends on how many are in flight.
        if not state.retries.should_retry(error):
            self._give_up(state, error)
        queue.wake()

    def _give_up(self, state: _RequestState, error: AttemptError) -> None:
        """Report a request that is not tried again to the endpoint's health."""
        state.judged = error
        if error.fatal is None or error.fatal_unless_served:
            self._health.record_final_failure(
                state.pending.key, error, state.retries.started_at, self._clock(), self._queue.in_flight
            )
            self._queue.suspended = self._health.suspended

    async def _record_failed_attempt(self, state: _RequestState, error: AttemptError) -> None:
        """Count a failed attempt; commit it at once if it was billed, else with the request's outcome."""
        self._context.counters.failed_attempts[error.reason] += 1
        if error.paid is not None:
            await self._context.record_failure(state.pending, error.reason, 1, error.detail, paid=error.paid)
        else:
            count, _ = state.uncommitted.get(error.reason, (0, ""))
            state.uncommitted[error.reason] = (count + 1, error.detail)

    async def _commit_failures(self, state: _RequestState) -> None:
        """Commit the failed attempts that are left."""
        failures, state.uncommitted = state.uncommitted, {}
        await asyncio.gather(
            *(
                self._context.record_failure(state.pending, reason, count, detail)
                for reason, (count, detail) in failures.items()
            )
        )

    def _release_permit(self, state: _RequestState) -> None:
        """Give the permit back, once."""
        grant, state.grant = state.grant, None
        if grant is not None:
            self._queue.release(grant)
