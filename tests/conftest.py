"""What every test needs: no deadline by the clock (machines are shared), the real data folder where it is there."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support import chromium

ROOT = Path(__file__).resolve().parents[1]

# Set before anything imports prefect: tests never touch a user's profile, and nothing leaves the machine.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

# The same examples in every run: a red run is the change's doing. LEMA_EXPLORE=1 looks for new ones.
settings.register_profile("lema", deadline=None, derandomize="LEMA_EXPLORE" not in os.environ)
settings.load_profile("lema")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data, or skip: the project's tests pass without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data is not beside the project")
    return folder


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(found[-1]) if found else shutil.which("initdb")
    return Path(path).parent if path else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A real server in a temporary folder, as a user that is not root."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    # Not under pytest's folder: that one is closed to other users.
    with tempfile.TemporaryDirectory(prefix="lema-postgres-") as name:
        folder = Path(name)
        as_user: dict[str, str | int] = {}
        if os.geteuid() == 0:
            try:
                user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = {"user": "postgres"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        data = folder / "data"
        quiet = {"stdout": subprocess.DEVNULL, "cwd": folder, **as_user}
        subprocess.run([binaries / "initdb", "-D", data, "-A", "trust", "-U", "lema", "--no-sync"], check=True, **quiet)
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        control = [binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], check=True, **quiet)
        yield f"postgresql://lema@127.0.0.1:{port}"
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, **quiet)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Give the system's Chromium, driven without a window."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield started
        started.close()
