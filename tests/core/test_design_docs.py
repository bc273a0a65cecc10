"""docs/design.md stays true: every module of the library, the tasks' helpers and the flows has its place on it."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["lema_core", "flows"])
def test_the_page_names_every_module(folder):
    for path in (ROOT / folder).iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            assert f"`{path.stem}`" in PAGE or f"`{folder}/{path.name}`" in PAGE, path.name
        elif (path / "__init__.py").exists():
            assert f"{path.name}/" in PAGE, path.name


def test_the_page_names_what_tasks_share():
    for path in (ROOT / "tasks").glob("[a-z]*.py"):
        assert f"`tasks/{path.name}`" in PAGE or f"`{path.name}`" in PAGE, path.name
