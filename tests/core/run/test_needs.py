"""A package that a run needs and that is missing stops it before anything is paid."""

import sys
from pathlib import Path

import pytest

from flows.preflight import preflight
from lema_core.errors import MissingDependencyError
from lema_core.run.files import read_run_file
from lema_core.run.needs import check_installed, missing_extras
from lema_core.run.plan import planned_stages
from lema_core.system.packages import MODULES, install_command

SMOKE = Path(__file__).resolve().parents[3] / "deployments" / "runs" / "smoke.toml"
CLAUDE = ("endpoints.student={model='m', api='anthropic', base_url='http://127.0.0.1:9/v1'}",)


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this environment have every optional package that it lacks."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: sys.modules.get(name, "there"))


async def test_training_without_torch_is_found_by_the_preflight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingDependencyError) as caught:
        await preflight(read_run_file(SMOKE), str(tmp_path))
    assert "[training] (torch)" in str(caught.value)
    assert "(xllamacpp)" in str(caught.value)
    assert install_command("local", "train") in str(caught.value)


@pytest.mark.parametrize(
    ("module", "settings", "extra"),
    [("anthropic", CLAUDE, "anthropic"), ("distributed", ("runtime.workers=2",), "scale")],
)
def test_other_extras(monkeypatch, tmp_path: Path, module: str, settings: tuple[str, ...], extra: str) -> None:
    run = read_run_file(SMOKE, settings)
    stages = list(planned_stages(run, str(tmp_path)))
    check_installed(run, stages)
    monkeypatch.setitem(sys.modules, module, None)
    assert list(missing_extras(run, stages)) == [extra]
    with pytest.raises(MissingDependencyError, match=module):
        check_installed(run, stages)


def test_a_run_without_training_needs_no_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for names in MODULES.values():
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)
    run = read_run_file(SMOKE).model_copy(update={"training": None, "evaluation": None})
    check_installed(run, planned_stages(run, str(tmp_path)))
