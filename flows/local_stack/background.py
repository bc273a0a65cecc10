"""A process of ours that outlives the command that started it, found again by its identity."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lema_core.system.files import make_private_file, make_private_folder
from lema_core.system.processes import ProcessIdentity, identity_of, is_alive, is_alive_by_clock

STOP_SECONDS = 40
"""A worker passes the stop on to its runs, which settle what is in flight."""


@dataclass(frozen=True, slots=True)
class Background:
    """One process of a name, with its log and its state in ``home``."""

    home: Path
    name: str

    @property
    def log(self) -> Path:
        """Return where its output goes."""
        return self.home / f"{self.name}.log"

    def start(self, command: Sequence[str], environment: Mapping[str, str], **facts: int) -> subprocess.Popen[bytes]:
        """Start it in a session of its own with this environment, and store its identity and some facts (a port)."""
        make_private_folder(self.home)
        make_private_file(self.log)
        with self.log.open("ab") as out:
            process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        try:
            state = {**identity_of(process.pid).model_dump(), **facts}
        except ProcessLookupError:
            # It died at once, so there is nothing to find again; the caller sees how it ended.
            self._file.unlink(missing_ok=True)
        else:
            self._file.write_text(json.dumps(state), encoding="utf-8")
        return process

    def facts(self) -> dict[str, Any] | None:
        """Return the stored identity and facts; None where the process is dead."""
        state = self._state()
        return state if state and _lives(state) else None

    def stop(self) -> bool:
        """Stop it and what it started; return whether it lived."""
        state = self.facts()
        self._file.unlink(missing_ok=True)
        if state is None:
            return False
        try:
            process = psutil.Process(state["pid"])
            group = [process, *process.children(recursive=True)]
            process.terminate()
        except psutil.NoSuchProcess:
            return True
        _, alive = psutil.wait_procs(group, timeout=STOP_SECONDS)
        for survivor in alive:
            survivor.kill()
        return True

    @property
    def _file(self) -> Path:
        return self.home / f"{self.name}.json"

    def _state(self) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state


def _lives(state: Mapping[str, Any]) -> bool:
    if "machine" in state:
        return is_alive(ProcessIdentity.model_validate(state)) is True
    # Written by an older version, whose process may still run.
    return is_alive_by_clock(int(state["pid"]), float(state["started"]))
