"""What runs before a server is chosen does not import Prefect: it reads its settings when it is imported."""

import subprocess
import sys


def test_the_preflight_leaves_prefect_alone() -> None:
    code = "import sys, flows.cli.run, flows.cli.plan, flows.preflight, lema_core.run.own_tasks; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "prefect" not in done.stdout.split()
