"""The built wheel in an environment of its own, outside any checkout, as a user installs it."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import environment, until

import lema_core

ROOT = Path(__file__).resolve().parents[2]
COMMAND_S = 240
Installed = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None and os.environ.get("CI") != "true",
    reason="hatchling is not installed: make install-dev",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """Build the wheel, install it without a checkout, and give its ``lema``."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, ROOT]
    subprocess.run(list(map(str, built)), check=True, timeout=COMMAND_S)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    # The dependencies of this environment, without its own .pth files: those may put the checkout on the path.
    site.joinpath("dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    python = folder / "env" / "bin" / "python"
    install = [pip[0], "-m", "pip", "--python", python, *pip[3:], "install", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, install)), check=True, timeout=COMMAND_S)
    return python.with_name("lema")


@pytest.fixture
def plain() -> dict[str, str]:
    """Give an environment without a path of the checkout."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return found | {"COLUMNS": "200"}


@pytest.fixture
def lema(program, plain, tmp_path) -> Installed:
    """Run the installed ``lema`` in a folder whose own ``flows`` and ``tasks`` cannot be imported."""
    for name in ("flows", "tasks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('the {name} of the user')\n")

    def run(*words: object, api: str = "") -> subprocess.CompletedProcess[str]:
        access = {name: value for name, value in environment(api, tmp_path).items() if name.startswith("PREFECT")}
        done = subprocess.run(
            [str(program), *map(str, words)], cwd=tmp_path, env=plain | (access if api else {}), capture_output=True,
            text=True, timeout=COMMAND_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def simulate(program, plain, tmp_path) -> Iterator[str]:
    """Start ``lema simulate`` as it is installed, and give its URL."""
    with (tmp_path / "simulate.log").open("w") as log:
        process = subprocess.Popen([program, "simulate", "--port", "0"], cwd=tmp_path, env=plain, stdout=log)

    def url() -> str | None:
        found = re.search(r"at (http\S+)", (tmp_path / "simulate.log").read_text())
        return found and found[1]

    yield until("the simulated endpoint", url, alive=process)
    process.terminate()
    process.wait(30)


def test_help_version_and_completion(lema: Installed) -> None:
    assert lema("--version").stdout.split() == ["lema", lema_core.__version__]
    assert lema("-h").stdout == lema("--help").stdout
    assert "RUN.toml" in lema("run", "-h").stdout


def test_a_shell_completes_the_names_of_bundled_run_files(program: Path, plain: dict[str, str], tmp_path: Path) -> None:
    asked = {"_LEMA_COMPLETE": "complete_bash", "COMP_WORDS": "lema run sm", "COMP_CWORD": "2"}
    done = subprocess.run([program], cwd=tmp_path, env=plain | asked, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["smoke"], done.stderr


def test_verify_complete_and_plan(lema: Installed, simulate: str, tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text('{"gold": "1/2", "pred": "The answer is 0.5.", "equal": true}\n')
    assert "agreement 1 of 1" in lema("verify", "cases.jsonl").stdout
    (tmp_path / "requests.jsonl").write_text('{"id": "a", "messages": [{"role": "user", "content": "Hello"}]}\n')
    lema("complete", "requests.jsonl", "--base-url", simulate, "--model", "fixed", "--out", "out")
    assert (tmp_path / "out" / "completions.parquet").is_file()
    for name in ("smoke", "deployments/runs/smoke.toml"):
        assert "reasoning_paths" in lema("plan", name).stdout


def test_init_writes_a_run_file_for_a_file_and_an_endpoint_and_it_runs(lema, simulated, prefect_api, tmp_path) -> None:
    source = tmp_path / "known.jsonl"
    source.write_text(source.read_text().replace('"text"', '"Problem"').replace('"gold"', '"answer"'))
    lema(
        "init", "mine", "--questions", "known.jsonl", "--base-url", simulated.url, "--model", "simulated-student",
        "--teacher-model", "reference-corrector",
    )  # fmt: skip
    written = tomllib.loads((tmp_path / "mine.toml").read_text())
    assert written["questions"]["mapping"] == {"question": "Problem", "gold": "answer", "rationale": "rationale"}
    printed = lema(
        "run", "mine.toml", "--set", "questions.limit=20", "--set", "students.0.samples=2", api=prefect_api
    ).stdout
    assert "report" in printed
    assert simulated.stats.counts["hits"] > 40


def test_every_bundled_file_is_in_the_wheel(program: Path) -> None:
    (site,) = program.parents[1].glob("lib/python*/site-packages")
    bundled = site / "lema_core" / "bundled"
    tracked = subprocess.run(
        ["git", "ls-files", "deployments"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert tracked
    assert not [name for name in tracked if not (bundled / name.removeprefix("deployments/")).is_file()]


@pytest.mark.slow
def test_the_smoke_run_trains_and_is_evaluated_outside_a_checkout(lema: Installed, prefect_api, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="training is not installed (lema-pipeline[train])")
    assert "report" in lema("run", "smoke", api=prefect_api).stdout
    assert list((tmp_path / ".lema" / "store" / "training").iterdir())
