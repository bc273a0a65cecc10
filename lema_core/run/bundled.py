"""Files that travel with the code: run files, tasks, templates, and what Prefect registers.

A checkout has them in ``deployments/``, an installed package in ``lema_core/bundled/`` (``hatch_build.py``).
"""

from pathlib import Path

from lema_core.system.processes import SOURCE

_INSTALLED = Path(__file__).resolve().parents[1] / "bundled"
_RUNS = Path("deployments") / "runs"


def bundled(*parts: str) -> Path:
    """Return the path of a bundled file, such as ``bundled("runs", "demo.toml")``."""
    home = _INSTALLED if _INSTALLED.is_dir() else Path(SOURCE) / "deployments"
    return home.joinpath(*parts)


def bundled_runs() -> dict[str, Path]:
    """Return the bundled run files by name."""
    return {path.stem: path for path in sorted(bundled("runs").glob("*.toml"))}


def find_run_file(path: Path) -> Path:
    """Return the run file that a user names: a path, or the name of a bundled one.

    A file of the user's own comes first. ``demo``, ``demo.toml`` and ``deployments/runs/demo.toml`` name the bundled
    file where no such file exists, so that the documented commands work outside a checkout.
    """
    if path.is_file() or path.parent not in {Path(), _RUNS} or path.suffix not in {"", ".toml"}:
        return path
    return bundled_runs().get(path.stem, path)
