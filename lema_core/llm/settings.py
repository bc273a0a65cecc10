"""Timing and sizes of the request engine and the batch transport: they change how long a run takes, not its answers."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Timing and memory of one request engine. Users keep the defaults; tests shorten the waits."""

    lookup_requests: int = 256
    """Requests per look-up in the ledger."""
    lookup_chars: int = 4 * 2**20
    """Characters of prompts after which a look-up is closed earlier."""
    read_ahead: int = 1024
    """Requests between a stream's first unfinished one and the last one read; at least four times the concurrency."""
    read_ahead_chars: int = 64 * 2**20
    """Characters of prompts after which a stream reads only as many requests as the concurrency needs."""
    batch_read_ahead: int = 200_000
    """The same as ``read_ahead`` for the batch transport, which submits all of them before the first answer."""
    batch_gather_s: float = 1.0
    """How long a batch waits for requests of other shards that start at the same time."""
    claim_poll_s: float = 0.25
    """How often the engine looks for completions that another process claimed."""
    heartbeat_s: float = 5.0
    """How often the engine proves to other processes that it is alive."""
    cancel_wait_s: float = 1.0
    """How long closing waits for requests that are cancelled although they were sent."""
    preflight_waits_s: tuple[float, ...] = (0.2, 0.4, 0.8, 1.6)
    """Waits between first contacts: a server that is just starting gets three seconds before the run fails."""
    preflight_s: float = 10.0
    """Deadline of one first contact."""
    connect_s: float = 9.0
    """Deadline of a TCP connection and its TLS handshake. Nothing is sent before, so nothing can be billed."""
    backoff_s: float = 0.25
    """The limiter's first pause after a push-back; it doubles with each further one."""
    retry_wait_s: float = 0.2
    """Base of the random exponential wait before a request is sent again."""
    unreachable_s: float = 120.0
    """An outage of this length ends the run. Silence is noticed when an attempt ends, so it takes two of them."""
    checkpoint_s: float = 30.0
    """How often SQLite's write-ahead log is moved into the ledger's file. SQLite itself does so only when the log has
    4 MB, which may take hours: until then a copy of the file alone would be an old ledger, or an empty one."""
    ledger_locked_s: float = 3.0
    """A statement that takes longer is shown to the user: a commit takes milliseconds, so another program may have
    locked the database."""
    restart_waits_s: tuple[float, ...] = (1.0, 5.0, 20.0)
    """The server of an endpoint's command that dies in use is started again after these waits; then the run ends."""
    first_reply_s: float = 2.0
    """How long the other requests wait for the first reply to new fields: what is refused comes back sooner."""
    probe_wait_s: float = 0.5
    """The wait before one of several servers that is out of service is asked whether it is back; it doubles."""
    longest_probe_wait_s: float = 15.0
    """Where that ends."""
    first_answer_patience_s: float = 120.0
    """Push-backs in place of a first answer end the run after this time, earlier than after good service."""


DEFAULTS = EngineSettings()


class BatchSettings(BaseModel):
    """Patience and sizes of the batch transport. The defaults suit OpenAI's Batch API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tries: int = Field(8, ge=1)
    """Tries of one call, at least."""
    unreachable_s: float = Field(120.0, ge=0)
    """One call is tried for this long, at least."""
    listing_s: float = Field(60.0, ge=0)
    """A batch that may exist is looked for in the endpoint's list for this long: lists lag behind."""
    listings: int = Field(8, ge=1)
    """How often the list is read in that time."""
    pages: int = Field(500, ge=1)
    """Pages of 100 batches in one reading of the list."""
    reading_s: float = Field(60.0, ge=0)
    """Results that lack a request are read again for this long: files lag behind as well."""
    readings: int = Field(8, ge=1)
    """How often the results are read in that time."""
    window_s: float = Field(24 * 3600.0, gt=0)
    """The completion window that the API promises."""
    margin_s: float = Field(6 * 3600.0, ge=0)
    """A batch that has not ended this long after its window ends the run."""
    full_s: float = Field(24 * 3600.0, ge=0)
    """A queue that refuses one single request for this long, while no batch of ours is in it, ends the run."""
    pause_s: float = Field(1800.0, ge=0)
    """The longest pause between two tries at a full queue."""
    live: int = Field(1000, ge=1)
    """Batches under way at a time; OpenAI takes 2,000 an hour."""
    file_bytes: int = Field(190 * 10**6, ge=1)
    """Of a batch's file; OpenAI takes 200 MB."""
    row_bytes: int = Field(16 * 10**6, ge=1)
    """Of one row of a result file. A file may have as many as the batch has requests, and one more."""
    result_bytes: int = Field(4 * 10**9, ge=1)
    """Of a whole result file, which is read from disk."""

    def waits(self, total_s: float, count: int) -> list[float]:
        """Return the seconds before each of ``count`` tries: none at first, then doubling, in all ``total_s``."""
        parts = [2.0**index for index in range(count - 1)]
        return [0.0, *(total_s * part / sum(parts) for part in parts)]
