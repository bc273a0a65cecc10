"""What every test needs: no deadline by the clock (machines are shared), the real data folder where it is there."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

# Set before anything imports prefect: tests never touch a user's profile, and nothing leaves the machine.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

settings.register_profile("lema", deadline=None)
settings.load_profile("lema")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data, or skip: the project's tests pass without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data is not beside the project")
    return folder
