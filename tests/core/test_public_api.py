"""The public face: `from lema_core import ...`, its page and its example."""

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SMOKE, make_run

import lema_core

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
HEAVY = ("openai", "sympy", "torch", "transformers", "trl", "prefect", "scipy", "pandas")


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    for name in lema_core.__all__:
        value = getattr(lema_core, name)
        assert value.__doc__, name
        assert re.search(rf"\b{name}\b", PAGE), name
    assert sorted(lema_core.__all__) == lema_core.__all__
    assert set(lema_core.__all__) <= set(dir(lema_core))


def test_what_type_checkers_see_is_what_is_loaded() -> None:
    tree = ast.parse(Path(lema_core.__file__ or "").read_text(encoding="utf-8"))
    seen = {
        alias.name: node.module
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == lema_core._HOME_OF
    assert seen.keys() == set(lema_core.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lema_core.nothing  # noqa: B018


@pytest.mark.parametrize("name", [names[0] for names in lema_core._HOMES.values()] + ["false_equations"])
def test_each_home_can_be_the_first_that_is_imported(name: str) -> None:
    subprocess.run([sys.executable, "-c", f"from lema_core import {name}"], check=True)


def test_importing_the_names_loads_no_heavy_library() -> None:
    code = "import sys, lema_core; [getattr(lema_core, name) for name in lema_core.__all__]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(HEAVY) & set(loaded)


def test_the_snippets_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(SMOKE, ".lema", "demo", questions=20)
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(snippets), encoding="utf-8")
    # A program of its own: the snippets start event loops.
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "page.py"], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "questions" in done.stdout
    assert "did you mean 'limit'?" in done.stdout


def test_the_example_learns_from_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "docs" / "examples" / "lema_loop.py"))["main"]
    import asyncio

    examples = asyncio.run(main())
    assert {example.kind for example in examples} >= {"correction"}
