"""`lema complete` against an endpoint that misbehaves: no traceback, no key, its class's own tries, an end.

A default run tries some behaviours of each family; LEMA_ALL_TESTS=1 tries all of them, as benchmarks/hostile.py does.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_endpoint import BEHAVIOURS, families

ROOT = Path(__file__).resolve().parents[3]


def _broken(names: list[str]) -> dict[str, object]:
    # A process of its own: each trial is a fork, and pytest has threads.
    command = [sys.executable, str(ROOT / "benchmarks" / "hostile.py"), "--verbose", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"| all | {len(names)} |" in done.stdout
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {trial["name"]: (trial["broken"], trial["posts"], trial["screen"]) for trial in found}


def test_there_are_behaviours_of_every_family():
    assert len(BEHAVIOURS) >= 150
    assert all(len(behaviours) > 1 or family == "plain" for family, behaviours in families())


def test_some_of_each_family_hold():
    chosen = [one.name for _, behaviours in families() for one in behaviours[:: max(1, len(behaviours) // 3)]]
    assert _broken(chosen) == {}


@pytest.mark.slow
@pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="three minutes; LEMA_ALL_TESTS=1 runs it")
def test_all_hold():
    assert _broken(list(BEHAVIOURS)) == {}
