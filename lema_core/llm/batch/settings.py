"""How patient the batch transport is, and how large its batches are."""

from pydantic import BaseModel, ConfigDict, Field


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
