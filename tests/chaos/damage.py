"""What is done to files: a torn or garbled ledger, a disk that is full."""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WAL_HEADER, FRAME_HEADER = 32, 24
BACKFILLED = 96
"""Where SQLite's index of the log (``-shm``) counts the frames that the main file holds already."""
ROOM = 1 << 30
"""Bytes of a small disk that was made large."""
CHUNK = 1 << 16


_ANSWERS = "SELECT COUNT(*) FROM completions"
_CUT_OFF = "SELECT COUNT(DISTINCT key) FROM failures WHERE reason = 'length'"


def completions(ledger: Path) -> int:
    """Return how many completions a ledger holds that nobody has open, and leave its files as they are."""
    return _count(ledger, _ANSWERS)


def payments(ledger: Path) -> int:
    """Return the same, and the answers beside them that were cut off and asked for again; 0 without a ledger."""
    return _count(ledger, f"SELECT ({_ANSWERS}) + ({_CUT_OFF})") if ledger.exists() else 0


def _count(ledger: Path, question: str) -> int:
    with tempfile.TemporaryDirectory(prefix="lema-chaos-") as folder:
        for file in ledger.parent.glob(f"{ledger.name}*"):
            shutil.copy(file, folder)
        with contextlib.closing(sqlite3.connect(Path(folder) / ledger.name)) as copy:
            return int(copy.execute(question).fetchone()[0])


def tear_tail(ledger: Path) -> int:
    """Tear the end of the write-ahead log as a power cut may: frames lost, the one before half noise.

    A power cut could not take frames that were moved into the main file, for the log was synced before.

    Returns how many completions went with it.
    """
    before = completions(ledger)
    wal = Path(f"{ledger}-wal")
    data = wal.read_bytes()
    frame = FRAME_HEADER + int.from_bytes(data[8:12], "big")
    frames = _frames(data, frame)
    index = Path(f"{ledger}-shm").read_bytes()
    safe = int.from_bytes(index[BACKFILLED : BACKFILLED + 4], sys.byteorder)
    lost = min(max(1, frames // 5), frames - safe)
    if lost <= 0:
        return 0
    torn = WAL_HEADER + (frames - lost) * frame + frame // 2
    wal.write_bytes(data[:torn] + random.Random(0).randbytes(frame // 4))  # noqa: S311 - noise, the same every time
    return before - completions(ledger)


def _frames(data: bytes, frame: int) -> int:
    """Count the frames of the log's present round: older ones behind them have another salt."""
    salt, count = data[16:24], 0
    while len(data) >= WAL_HEADER + (count + 1) * frame:
        start = WAL_HEADER + count * frame
        if data[start + 8 : start + 16] != salt:
            break
        count += 1
    return count


@contextlib.contextmanager
def garble(ledger: Path, start: int) -> Iterator[None]:
    """Fill a ledger that nobody has open with noise from byte ``start`` on; at the end it is as it was."""
    with contextlib.closing(sqlite3.connect(ledger)) as database:
        # Or the log would heal the pages that it still holds.
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = ledger.read_bytes()
    noise = random.Random(start).randbytes(min(CHUNK, len(whole) - start))  # noqa: S311 - noise, the same every time
    ledger.write_bytes(whole[:start] + noise + whole[start + len(noise) :])
    try:
        yield
    finally:
        for file in ledger.parent.glob(f"{ledger.name}*"):
            file.unlink()
        ledger.write_bytes(whole)


@dataclass(slots=True)
class SmallDisk:
    """A place that fills up: a file system of its own where we may mount one, else a limit on every file's size."""

    place: Path
    file_limit: int | None

    def grow(self) -> None:
        """Make room."""
        if self.file_limit is None:
            _mount("-o", f"remount,size={ROOM}", str(self.place))
        self.file_limit = None


@contextlib.contextmanager
def small_disk(place: Path, *, disk: int, file: int) -> Iterator[SmallDisk]:
    """Give ``place`` a disk of ``disk`` bytes, or, without the right to mount, let no file grow beyond ``file``."""
    place.mkdir(parents=True)
    root = sys.platform == "linux" and os.geteuid() == 0
    mounted = root and _mount("-t", "tmpfs", "-o", f"size={disk}", "lema-chaos", str(place))
    try:
        yield SmallDisk(place, None if mounted else file)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=False)


def _mount(*words: str) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0
