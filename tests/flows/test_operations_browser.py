"""The Prefect UI in a real browser: what somebody sees who never opens a terminal."""

from contextlib import suppress

import psutil
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from support import ask, ended, home_of, state_of, until

from flows.local_stack.server import login_url, ui_url
from lema_core.llm.simulated import Faults

pytestmark = pytest.mark.slow
NAME = "flow_test: arithmetic, simulated-student taught by reference-corrector"

SWEEP = """
[training]
base = "tiny"
max_steps = 2
[evaluation]
base = "student"
[evaluation.serve]
model = "fine-tuned"
command = "{python} -m lema_core.llm.embedded --model {model} --port {port} --context 1024"
"""


@pytest.fixture
def page(browser, prefect_api):
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    opened.set_default_timeout(60_000)
    opened.goto(login_url(prefect_api, "dashboard", home_of(prefect_api)))
    # The UI forgets a login whose check is cut off by going to another page.
    opened.get_by_text("Logout").wait_for()
    yield opened
    opened.close()


def opened_at(page, api, path, text):
    page.goto(ui_url(api, path))
    page.get_by_text(text).first.wait_for()


def submitted(page, api, deployment) -> dict:
    """Submit the form and return the flow run that it starts; other tests may have run the deployment before."""
    ours = {"deployments": {"id": {"any_": [deployment["id"]]}}}
    before = {run["id"] for run in ask(api, "flow_runs/filter", ours)}
    for _ in range(3):
        page.get_by_role("button", name="Submit").click()
        # The UI leaves the form once the run is made; a click that it lost is repeated, as by anybody.
        with suppress(PlaywrightTimeout):
            page.wait_for_url(lambda url: not url.endswith("/run"), timeout=30_000)
            break
    return until("the run", lambda: [r for r in ask(api, "flow_runs/filter", ours) if r["id"] not in before])[0]


def from_menu(page, item):
    page.locator("button[aria-haspopup=menu]").first.click()
    page.get_by_role("menuitem", name=item).click()


def test_what_somebody_does_who_never_opens_a_terminal(checkout, serving, prefect_api, page, tmp_path, simulated):
    """One test, because each `serving` costs half of it."""
    approved(checkout, prefect_api, page, tmp_path)
    simulated.faults = Faults(latency_s=2)
    swept_and_cancelled(checkout, prefect_api, page, tmp_path)


def approved(checkout, api, page, shots):
    """Start a run by its form, give the quality gate's approval, and look at what came of it."""
    file = checkout / "deployments" / "runs" / "test.toml"
    file.write_text(file.read_text() + "[quality_gate]\nrows = 6\n")
    deployment = ask(api, "deployments/name/lema-run/whole-run", method="GET")
    opened_at(page, api, f"deployments/deployment/{deployment['id']}/run", "Path of a run file")
    page.get_by_label("run_file").fill("deployments/runs/test.toml")
    page.screenshot(path=shots / "form.png")
    run = submitted(page, api, deployment)
    until("the gate", lambda: state_of(api, run)["type"] == "PAUSED")

    opened_at(page, api, f"runs/flow-run/{run['id']}", NAME)
    from_menu(page, "Resume")
    form = page.get_by_role("dialog")
    form.get_by_text("6 of 6 mistakes have an accepted correction").wait_for()
    form.get_by_role("button", name="Select Approve").click()
    page.get_by_role("option", name="yes").click()
    form.get_by_role("textbox").fill("looks good")
    page.screenshot(path=shots / "gate.png")
    form.get_by_role("button", name="Resume").click()
    assert ended(api, run)["type"] == "COMPLETED"
    (decision,) = (checkout / ".lema" / "quality_gate").glob("*/decision.json")
    assert "looks good" in decision.read_text()

    opened_at(page, api, "dashboard", "Flow Runs")
    page.screenshot(path=shots / "dashboard.png")
    opened_at(page, api, f"runs/flow-run/{run['id']}", "Completed")
    page.get_by_text("Finished in state Completed").first.wait_for()
    page.screenshot(path=shots / "run.png")
    opened_at(page, api, "artifacts", "reasoning-paths")
    page.screenshot(path=shots / "artifacts.png")


def swept_and_cancelled(checkout, api, page, shots):
    """Fill in the form of a sweep, and cancel what it started."""
    (checkout / "deployments" / "runs" / "sweep.toml").write_text(
        (checkout / "run.toml").read_text().replace('"flow_test"', '"swept"') + SWEEP
    )
    deployment = ask(api, "deployments/name/lema-ablation/ablation", method="GET")
    opened_at(page, api, f"deployments/deployment/{deployment['id']}/run", "Path of a run file")
    page.get_by_label("run_file").fill("deployments/runs/sweep.toml")
    page.get_by_role("button", name="Select arms").click()
    for arm in ("lema", "cot"):
        page.get_by_role("option", name=arm, exact=True).click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Add item").nth(1).click()
    page.get_by_role("spinbutton").first.fill("7")
    page.get_by_label("root").fill("swept")
    page.screenshot(path=shots / "sweep.png")
    run = submitted(page, api, deployment)
    filled = {"run_file": "deployments/runs/sweep.toml", "arms": ["lema", "cot"], "seeds": [7], "root": "swept"}
    assert filled.items() <= run["parameters"].items()
    until("its work", (checkout / "swept" / "store" / "questions").exists)

    opened_at(page, api, f"runs/flow-run/{run['id']}", "Running")
    from_menu(page, "Cancel")
    page.get_by_role("button", name="Cancel Flow Run").click()
    assert ended(api, run)["type"] == "CANCELLED"
    page.get_by_text("Cancelled").first.wait_for()
    page.screenshot(path=shots / "cancelled.png")
    # The flow reports its own end, and then its process ends.
    until("its process's end", lambda: not processes_of(run))


def processes_of(run: dict) -> list[psutil.Process]:
    found = psutil.process_iter(["environ"])
    return [one for one in found if (one.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == run["id"]]
