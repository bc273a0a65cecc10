"""What tests of the whole thing share: a run file, the command line, and what a root holds."""

import os
import sys
from pathlib import Path

RUN = """
name = "flow_test"
[questions]
task = "arithmetic"
limit = 40
seed = 3
[test_questions]
task = "arithmetic"
split = "test"
limit = 10
seed = 3
[[students]]
endpoint = "student"
samples = 3
max_tokens = 200
[corrections]
endpoint = "reference"
[mixture]
arms = ["cot", "lema"]
[runtime]
shard_requests = 30
[endpoints.student]
model = "simulated-student"
base_url = "{url}"
concurrency = 16
[endpoints.reference]
model = "reference-corrector"
base_url = "{url}"
concurrency = 16
"""


def lema_command(*words: object) -> list[str]:
    """Return the command line of ``lema`` with this interpreter."""
    return [sys.executable, "-c", "from flows.cli import app; app()", *map(str, words)]


def environment(api: str, home: Path) -> dict[str, str]:
    """Return an environment with our server, and a Prefect home that is nobody's."""
    return os.environ | {"PREFECT_API_URL": api, "PREFECT_HOME": str(home / "prefect"), "COLUMNS": "200"}


def parts(root: Path) -> dict[str, bytes]:
    """Return every Parquet part under a root by its place."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.parquet"))}
