"""Numbers in headers are finite and plausible, or None."""

import datetime as dt
import math

import pytest

from lema_core.llm.responses import LONGEST_S, rate_limit, retry_after

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("000", 0.0),
        ("1e3", 1000.0),
        ("1e400", LONGEST_S),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("2.", 2.0),
        ("120", 120.0),
        ("9" * 5000, LONGEST_S),
        ("9" * 16, LONGEST_S),
        ("99999999999", LONGEST_S),
        ("Mon, 30 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 30 Nov 2026 12:00:30 -0000", 30.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_S),
        *(
            (wrong, None)
            for wrong in (
                "",
                "-5",
                "+1",
                "nan",
                "inf",
                "-inf",
                "Infinity",
                "0x10",
                "1_0",
                "²",
                "٣",
                "soon",
                "1 2",
                ".5",
                "1.2.3",
                "5,000",
                "Thu, 99 Foo 2026 99:99:99 GMT",
                "Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
                "Mon, 30 Nov 2026 12:00:00 +99999999",
                "x" * 10_000,
                "\ud83d",
                "\x1b[2J",
                "30 Nov",
                "0 0 0 0 0 0",
            )
        ),
    ],
)
def test_retry_after(value, seconds):
    found = retry_after({"retry-after": value}, NOW)
    assert found == seconds
    assert found is None or (math.isfinite(found) and found >= 0)


def test_milliseconds_come_first_where_they_are_a_number():
    assert retry_after({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert retry_after({"retry-after-ms": "nan", "retry-after": "9"}) == 9.0
    assert retry_after({"retry-after-ms": "9" * 5000}) == LONGEST_S
    assert retry_after({}) is None


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("60", 60),
        ("060", 60),
        ("60.0", 60),
        *((wrong, None) for wrong in ("", "0", "-1", "²", "1.5", "nan", "9" * 5000, "9" * 15, "x")),
    ],
)
def test_limits(value, limit):
    assert rate_limit({"x-ratelimit-limit-requests": value}, "requests") == limit
    assert rate_limit({}, "requests") is None
