"""The Prefect UI in a real browser: what somebody sees who never opens a terminal."""

import pytest
from support import ask, ended, until

from flows.operations.server import ui_url

pytestmark = pytest.mark.slow
NAME = "flow_test: arithmetic, simulated-student taught by reference-corrector"


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


def test_a_form_starts_a_run_that_is_seen(checkout, serving, prefect_api, page, tmp_path):
    deployment = ask(prefect_api, "deployments/name/lema-run/whole-run", method="GET")
    page.goto(ui_url(prefect_api, f"deployments/deployment/{deployment['id']}/run"))
    page.get_by_text("Path of a run file").wait_for()
    page.screenshot(path=tmp_path / "form.png")
    page.locator("textarea").first.fill("deployments/runs/test.toml")
    page.get_by_role("button", name="Submit").click()
    ours = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    run = until("the run", lambda: ask(prefect_api, "flow_runs/filter", ours))[0]
    assert ended(prefect_api, run)["type"] == "COMPLETED"

    page.goto(ui_url(prefect_api, "dashboard"))
    page.get_by_text("Flow Runs").first.wait_for()
    page.screenshot(path=tmp_path / "dashboard.png")
    page.goto(ui_url(prefect_api, f"runs/flow-run/{run['id']}"))
    page.get_by_text(NAME).first.wait_for()
    page.screenshot(path=tmp_path / "run.png")
    page.goto(ui_url(prefect_api, "artifacts"))
    page.get_by_text("reasoning-paths").first.wait_for()
    page.screenshot(path=tmp_path / "artifacts.png")
