"""Checkpoints are complete or absent: a marker file is written last, and only a folder with it counts."""

import re
import shutil
from pathlib import Path

MARKER = "COMPLETE"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path) -> None:
    """Declare that every rank has written its part of the checkpoint."""
    part = folder / f"{MARKER}.part"
    part.write_text("")
    part.replace(folder / MARKER)


def complete_checkpoints(out: Path) -> list[Path]:
    """Return the complete checkpoints in ``out``, the newest last."""
    return sorted((p for p in _folders(out) if (p / MARKER).is_file()), key=step_of)


def step_of(folder: Path) -> int:
    """Return the optimiser step of a checkpoint's folder."""
    found = _NAME.fullmatch(folder.name)
    return int(found.group(1)) if found else -1


def remove_torn(out: Path) -> list[str]:
    """Delete checkpoints that a kill left incomplete and return their names."""
    torn = [p for p in _folders(out) if not (p / MARKER).is_file()]
    for folder in torn:
        shutil.rmtree(folder)
    return sorted(p.name for p in torn)


def drop_old(out: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` complete checkpoints, each marker first."""
    for folder in complete_checkpoints(out)[:-keep]:
        (folder / MARKER).unlink()
        shutil.rmtree(folder)


def drop_optimiser_states(out: Path) -> None:
    """Delete what only a continuation needs, once there is nothing to continue; the checkpoints' weights stay."""
    for folder in complete_checkpoints(out):
        for state in folder.glob("global_step*"):
            shutil.rmtree(state)


def _folders(out: Path) -> list[Path]:
    return [p for p in out.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]
