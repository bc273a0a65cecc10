"""The Prefect UI in a real browser: what somebody sees who never opens a terminal."""

import pytest
from support import ask, ended, start_run, state_of, until

from flows.operations.server import ui_url
from lema_core.llm.simulated import Faults

pytestmark = pytest.mark.slow
NAME = "flow_test: arithmetic, simulated-student taught by reference-corrector"


@pytest.fixture
def page(browser):
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(60_000)
    yield opened
    opened.close()


def test_a_form_starts_a_run_that_is_seen_and_one_that_is_cancelled(
    checkout, serving, simulated, prefect_api, page, tmp_path
):
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
    page.get_by_text("flow_test", exact=False).first.wait_for()
    page.screenshot(path=tmp_path / "dashboard.png")
    page.goto(ui_url(prefect_api, f"runs/flow-run/{run['id']}"))
    page.get_by_text(NAME).first.wait_for()
    page.get_by_text("corrections 0-30").first.wait_for()
    page.screenshot(path=tmp_path / "run.png")
    page.goto(ui_url(prefect_api, "artifacts"))
    page.get_by_text("corrections", exact=False).first.wait_for()
    page.screenshot(path=tmp_path / "artifacts.png")

    simulated.faults = Faults(latency_s=0.5)
    paid = simulated.stats.counts["ok"]
    again = start_run(
        prefect_api, "lema-run/whole-run", run_file="deployments/runs/test.toml", settings=["questions.seed=4"]
    )
    until("the first answers", lambda: simulated.stats.counts["ok"] > paid + 5)
    page.goto(ui_url(prefect_api, f"runs/flow-run/{again['id']}"))
    page.get_by_text("Running").first.wait_for()
    page.screenshot(path=tmp_path / "running.png")
    ask(prefect_api, f"flow_runs/{again['id']}/set_state", {"state": {"type": "CANCELLING"}})
    assert ended(prefect_api, again)["type"] == "CANCELLED"
    page.reload()
    page.get_by_text("Cancelled").first.wait_for()
    page.screenshot(path=tmp_path / "cancelled.png")
    assert state_of(prefect_api, again)["type"] == "CANCELLED"
