"""What every test needs: no deadline by the clock (machines are shared), the real data folder where it is there."""

import os
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


def pytest_configure(config: pytest.Config) -> None:
    # xdist would start the files with the fewest tests last, and those are the longest ones.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start commands, servers or trainings: none of them is left alone at the end."""
    long = {item.path for item in items if item.path.parent.name == "flows" or item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data, or skip: the project's tests pass without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data is not beside the project")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """Start a real server of ours in a temporary folder, or skip where PostgreSQL is not installed."""
    from flows.local_stack.postgres import Postgres, _as_user, _binaries
    from lema_core.errors import ConfigError

    try:
        _binaries(), _as_user()
    except ConfigError as error:
        pytest.skip(str(error))
    # Not under pytest's folder: that one is closed to other users.
    with tempfile.TemporaryDirectory(prefix="lema-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = Postgres(Path(folder) / "postgres")
        server.start()
        yield server
        server.stop()


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
