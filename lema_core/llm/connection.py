"""One endpoint in use: its client and transports, opened at the first request, and the connections it may have.

File descriptors are shared out before the first connection: a process that runs out of them cannot open its ledger, and
what it paid is lost.
"""

import asyncio
import logging
import resource
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import psutil

from lema_core.errors import ConfigError
from lema_core.llm.costs.prices import prompt_chars
from lema_core.llm.endpoints import WEIGHTS, EndpointSpec
from lema_core.llm.http_transport import HttpTransport
from lema_core.llm.ledger.credit import Amount
from lema_core.llm.limits.admission_queue import AdmissionQueue
from lema_core.llm.limits.health import EndpointHealth
from lema_core.llm.limits.limiter import Limiter
from lema_core.llm.limits.replica import Replica
from lema_core.llm.progress import describe_remaining
from lema_core.llm.requests import CompletionRequest, KeyMaker, Resolver
from lema_core.llm.transport import EndpointContext, PendingRequest, Transport

if TYPE_CHECKING:
    from lema_core.llm.client import Client

RESERVED_DESCRIPTORS = 64
"""Left free beside connections: the ledger and its journal, two files per shard, Prefect's client, imports."""
SPARE_CONNECTIONS = 8
"""Connections of one pool beyond its requests in flight: kept alive, or being closed."""

_log = logging.getLogger(__name__)


class EndpointConnection:
    """One endpoint spec of one engine. ``queues`` are shared by all of them: one per set of URLs, key and model."""

    def __init__(
        self, context: EndpointContext, queues: dict[str, AdmissionQueue], descriptors: "DescriptorQuota"
    ) -> None:
        spec = context.spec
        if spec.identity == WEIGHTS:
            raise ConfigError(
                f"endpoint {spec.name!r}: {WEIGHTS} stands for a hash, and as it is it would give all weights one key: "
                "give the endpoint's answers_as as its identity"
            )
        self.spec = spec
        self.keys = KeyMaker(spec.identity)
        self.resolve = Resolver(spec.params)
        self.unsubmitted: list[PendingRequest] = []
        """Requests for the next batch."""
        self.is_gathering = False
        """A task is about to take them."""
        self._context = context
        self._queues = queues
        self._descriptors = descriptors
        self._clients: dict[str, Client] = {}
        self._first_contact: asyncio.Task[HttpTransport] | None = None

    @property
    def health(self) -> EndpointHealth:
        """Return what is known of the endpoint: whether any request to it can succeed."""
        return self._context.health

    async def gather_batch(self) -> None:
        """Wait for shards that start at the same time to add to ``unsubmitted``, which is the caller's afterwards."""
        try:
            await asyncio.sleep(min(self._context.settings.batch_gather_s, self.spec.batch_poll_s))
        finally:
            self.is_gathering, self.unsubmitted = False, []

    async def transport(self) -> Transport:
        """Return the transport of the spec, after the first contact with the endpoint."""
        contact = self._first_contact
        # One contact for all requests that wait for it; after a failed one the next request tries again.
        if contact is None or (contact.done() and (contact.cancelled() or contact.exception() is not None)):
            contact = self._first_contact = asyncio.create_task(self._open())
        http = await asyncio.shield(contact)
        if self.spec.transport == "http":
            return http
        from lema_core.llm.batch.transport import BatchTransport

        (client,) = self._clients.values()
        return BatchTransport(self._context, client)

    async def _open(self) -> HttpTransport:
        # Imported here: `aiohttp` takes longer to import than a repeated run that needs no endpoint takes as a whole.
        from lema_core.llm.client import contact_servers, open_client

        await self.close()
        context, spec = self._context, self.spec
        self._clients = {url: open_client(spec.at(url), context.settings) for url in spec.urls}
        away = await contact_servers(spec, self._clients)
        await context.load_spelling()
        limits: list[tuple[int, float | None, float | None]] = []
        processes: list[int] = []
        for url in self._clients:
            pool = pool_of(spec.at(url))
            processes.append(await context.ledger.call(partial(context.ledger.claims.join_pool, pool)))
            connections = self._descriptors.grant(pool, spec.concurrency)
            limits.append((connections, spec.requests_per_minute, spec.tokens_per_minute))
        queue = self._queues.get(pool_of(spec))
        if queue is not None:
            for replica, tighter in zip(queue.replicas, limits, strict=True):
                replica.limiter.restrict(*tighter)
        else:
            queue = self._new_queue(limits, processes)
            for replica in queue.replicas:
                if replica.url in away:
                    replica.take_out(away[replica.url])
        return HttpTransport(context, self._clients, queue)

    def _new_queue(
        self, limits: Sequence[tuple[int, float | None, float | None]], processes: Sequence[int]
    ) -> AdmissionQueue:
        """Return the queue of our servers, with their limits and how many processes share each."""
        settings, replicas = self._context.settings, list[Replica]()
        for (url, client), limit, share in zip(self._clients.items(), limits, processes, strict=True):
            limiter = Limiter(*limit, backoff_s=settings.backoff_s)
            limiter.join(share, asyncio.get_running_loop().time(), settings.heartbeat_s)
            replicas.append(
                Replica(url, limiter, self.spec.concurrency, self.spec.attempt_timeout_s, client.is_answering, settings)
            )
        queue = self._queues[pool_of(self.spec)] = AdmissionQueue(replicas)
        return queue

    async def describe_remaining(self, chunks: Iterator[list[CompletionRequest]]) -> str:
        """Describe how many requests are not paid yet and what they would cost, by the answers so far."""
        context, missing, worth = self._context, set[str](), Amount()
        for chunk in chunks:
            fresh = {
                key: request for request in map(self.resolve, chunk) if (key := self.keys.key(request)) not in missing
            }
            stored = await context.ledger.lookup(list(fresh))
            # Batches under way are paid or will be: their requests do not remain.
            in_batches = await context.ledger.pending_in_batches(fresh.keys() - stored.keys())
            for key in fresh.keys() - stored.keys() - in_batches:
                missing.add(key)
                worth += context.cost(*context.estimator.expected(prompt_chars(fresh[key]), fresh[key].sampling.cap))
        return describe_remaining(len(missing), worth.tokens, worth.dollars if context.price else None)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()


def pool_of(spec: EndpointSpec) -> str:
    """Return the name of what one queue is for: the URLs, the key and the model."""
    # The variable's name, not the key: the pool of each URL is a row in the ledger.
    return f"{' '.join(spec.urls) or None} {spec.api_key_env or '-'} {spec.model}"


class DescriptorQuota:
    """Divides the limit of open files (RLIMIT_NOFILE) among the pools of one process."""

    def __init__(self) -> None:
        self._granted: dict[str, int] = {}
        self._others: int | None = None
        self.not_granted = 0
        """Connections that were asked for and not granted."""

    def grant(self, pool: str, wanted: int) -> int:
        """Return how many requests of a pool may be in flight, at least one; raise the soft limit where possible.

        A pool that asks again gets what it has, or more if it wants more.
        """
        if self._others is None:
            # Counted before the first connection, which would be counted twice afterwards.
            self._others = psutil.Process().num_fds()
        others = sum(count + SPARE_CONNECTIONS for name, count in self._granted.items() if name != pool)
        used = self._others + RESERVED_DESCRIPTORS + others
        limit = _raise_limit(used + wanted + SPARE_CONNECTIONS)
        granted = max(1, min(wanted, limit - used - SPARE_CONNECTIONS))
        if granted < wanted:
            self.not_granted += wanted - granted
            _log.warning(
                "%d requests may be in flight instead of %d: this process may open %d files, and the ledger needs "
                "some. Raise the limit with `ulimit -n`, or lower concurrency",
                granted, wanted, limit,
            )  # fmt: skip
        self._granted[pool] = max(granted, self._granted.get(pool, 0))
        return granted


def _raise_limit(needed: int) -> int:
    """Return the limit of open files, raised to what is needed as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed if soft == resource.RLIM_INFINITY else soft
    most = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (OSError, ValueError):
        return soft
    return most
