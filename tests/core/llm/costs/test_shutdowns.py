"""Models that are switched off: no shipped run file names one, and a plan warns in time."""

import datetime as dt
import re
from pathlib import Path

import pytest

from lema_core.llm import EndpointSpec
from lema_core.llm.costs.prices import price_of
from lema_core.llm.costs.shutdowns import SHUTDOWNS, find_shutdown, shutdown_warning
from lema_core.run.files import read_run_file

ROOT = Path(__file__).resolve().parents[4]
RUNS = sorted((ROOT / "deployments" / "runs").glob("*.toml"))


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_a_shipped_run_file_names_models_that_are_sold_with_a_price(file) -> None:
    today = dt.datetime.now(dt.UTC).date()
    run = read_run_file(file)
    for spec in run.endpoints.values():
        row = find_shutdown(spec.model)
        assert row is None or row.on > today, f"{spec.model}: {row}"
        assert spec.base_url is None or price_of(spec) is not None


def test_readme_and_docs_name_models_that_are_sold() -> None:
    today = dt.datetime.now(dt.UTC).date()
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = re.findall(r"(?:^model = \"|--model )([\w./-]+)", file.read_text(), re.MULTILINE)
        gone = [model for model in named if (row := find_shutdown(model)) and row.on <= today]
        assert not gone, file


@pytest.mark.parametrize(
    ("model", "day", "says"),
    [
        ("gpt-4.1", "2026-11-01", ""),
        ("gpt-4.1", "2026-11-30", "is switched off on 2027-01-14"),
        ("gpt-4.1-2025-04-14", "2027-01-14", "was switched off on 2027-01-14"),
        ("openai/gpt-4.1", "2027-03-01", "gpt-6-luna"),
        ("claude-opus-4-20250514", "2026-11-30", "was switched off"),
        ("gpt-4.1-mini", "2027-03-01", ""),
        ("gpt-6-luna", "2027-03-01", ""),
    ],
)
def test_a_plan_warns_near_the_end_and_after_it(model, day, says) -> None:
    spec = EndpointSpec(model=model, base_url="https://api.openai.com/v1", name="teacher")
    warning = shutdown_warning(spec, dt.date.fromisoformat(day))
    assert says in warning
    assert bool(warning) == bool(says)


def test_a_model_of_ones_own_is_not_switched_off() -> None:
    assert not shutdown_warning(EndpointSpec(model="gpt-4", command="serve"), dt.date(2027, 1, 1))


def test_every_row_has_a_source() -> None:
    assert all(row.source.startswith("https://") for row in SHUTDOWNS)
