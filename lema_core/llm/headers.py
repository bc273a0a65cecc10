"""Numbers in an endpoint's headers: each parser gives a finite, plausible number, or None for anything else."""

import datetime as dt
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

LONGEST_S = 10.0**9
"""Thirty years. A longer wait that is asked for is taken for this one."""
MOST_IN_LIMIT = 10**12
_NUMBER = re.compile(r"\s*([0-9]+)(\.[0-9]*)?([eE]\+?[0-9]{1,3})?\s*")
_LONGEST_HEADER = 64
"""Characters; no number or date needs more, and Python takes no 5,000 digits."""


def retry_after(headers: Mapping[str, str], now: dt.datetime | None = None) -> float | None:
    """Return the seconds the endpoint asks to wait: retry-after-ms, or Retry-After in seconds or as a date.

    0 where it asks for none or names a time that is past; None where it says nothing that can be read.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(LONGEST_S, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is None and value is not None:
        seconds = _until(value, now or dt.datetime.now(dt.UTC))
    return None if seconds is None else min(LONGEST_S, max(0.0, seconds))


def rate_limit(headers: Mapping[str, str], name: str) -> int | None:
    """Return a limit a minute that the headers name (``requests`` or ``tokens``); None for none, 0 and nonsense."""
    value = _number(headers.get(f"x-ratelimit-limit-{name}"))
    if value is None or not value.is_integer() or not 0 < value < MOST_IN_LIMIT:
        return None
    return int(value)


def _number(value: str | None) -> float | None:
    """Return a decimal number without a sign, in ASCII digits (``²`` is a digit to `str.isdigit`)."""
    found = _NUMBER.fullmatch(value[: 10 * _LONGEST_HEADER]) if value else None
    if found is None:
        return None
    whole = found[1].lstrip("0")
    if len(whole) > 15:
        return LONGEST_S * 1000
    return min(LONGEST_S * 1000, float(f"{whole or '0'}{found[2] or ''}{found[3] or ''}"))


def _until(value: str, now: dt.datetime) -> float | None:
    if len(value) > _LONGEST_HEADER:
        return None
    try:
        date = parsedate_to_datetime(value)
        # -0000 gives a date without a zone, which means UTC.
        date = date if date.tzinfo else date.replace(tzinfo=dt.UTC)
        return (date - now).total_seconds()
    # Of a malformed date: ValueError, TypeError, IndexError, OverflowError, and what a later Python raises.
    except Exception:  # noqa: BLE001 see above
        return None
