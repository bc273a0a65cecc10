"""The quality gate on a real Prefect server: it waits, it is answered through the API, it remembers."""

import json
import os
import subprocess
from contextlib import contextmanager
from shutil import rmtree

import pytest
from support import ask, environment, lema_command, of_stage, until

from lema_core.artifacts import ArtifactRef, Store
from lema_core.rating.pilot import RatingSheet, read_decision
from lema_core.records import Correction, JudgedPath

pytestmark = pytest.mark.slow
PILOT = 6
LONG = pytest.mark.skipif("LEMA_ALL_TESTS" not in os.environ, reason="half a minute; LEMA_ALL_TESTS=1 runs it")


def made(root, stage):
    return of_stage(Store(str(root / "store")), stage)


@pytest.fixture
def gated(run_file):
    """Give the run file with a gate; several teachers to choose from."""
    url = run_file.read_text().split('base_url = "')[1].split('"')[0]
    extra = "".join(
        f'[endpoints.{name}]\nmodel = "{model}"\nbase_url = "{url}"\nconcurrency = 16\n'
        for name, model in (("teacher", "simulated-teacher"), ("weak", "fixed"))
    )
    run_file.write_text(run_file.read_text() + f"[quality_gate]\nrows = {PILOT}\n" + extra)
    return run_file


@contextmanager
def waiting(api, run_file, tmp_path, name):
    """Start a run and give (process, flow run id) once it is paused."""
    command = lema_command("run", run_file, "--root", "out", "--set", f"name={name}")
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(api, tmp_path), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    paused = {"flow_runs": {"name": {"like_": name}, "state": {"type": {"any_": ["PAUSED"]}}}}
    try:
        found = until("the pause", lambda: ask(api, "flow_runs/filter", paused), alive=process)
        yield process, found[0]["id"]
    finally:
        process.kill()
        process.communicate()


def answer(api, flow_run, approve, note=""):
    """Answer as the UI does, once the form is there: Prefect pauses a run first and saves its form after."""

    def said() -> str | None:
        told = ask(api, f"flow_runs/{flow_run}/resume", {"run_input": {"approve": approve, "note": note}})
        return None if told["details"].get("reason") == "Run input schema not found." else told["status"]

    return until("the form", said)


def test_it_waits_and_an_approval_lets_it_go_on_and_is_remembered(gated, lema, simulated, tmp_path, prefect_api):
    with waiting(prefect_api, gated, tmp_path, "gate_approved") as (process, flow_run):
        # 120 paths, and of the corrections the pilot alone.
        assert simulated.stats.counts["ok"] == 120 + PILOT
        assert answer(prefect_api, flow_run, "maybe") == "REJECT"
        assert answer(prefect_api, flow_run, "yes", "looks good") == "ACCEPT"
        said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert f"/v2/runs/flow-run/{flow_run}" in said
    assert f"--pairs {PILOT} --rater" in said
    (drawn,) = made(tmp_path / "out", "quality_gate")
    store = Store(str(tmp_path / "out" / "store"))
    assert len(list(store.rows(drawn, JudgedPath))) == PILOT
    whole, pilot = sorted(made(tmp_path / "out", "corrections"), key=lambda r: -store.manifest(r).rows_in)
    corrected = {row.id for row in store.rows(pilot, Correction)}
    assert corrected
    assert corrected <= {row.id for row in store.rows(whole, Correction)}
    folder = tmp_path / "out" / "quality_gate" / pilot.fingerprint
    decision = read_decision(str(folder))
    assert (decision.approved, decision.by, decision.note) == (True, "person", "looks good")
    assert f"--out {folder}" in said

    # Without the gate the corrections are the same artifact; nothing was paid twice.
    hits = simulated.stats.counts["hits"]
    plain = tmp_path / "plain.toml"
    plain.write_text(gated.read_text().replace(f"[quality_gate]\nrows = {PILOT}\n", ""))
    lema("run", plain, "--root", "out")
    assert simulated.stats.counts["hits"] == hits
    assert simulated.stats.report()["paid_twice"] == 0
    # What is left after a crash: the approval holds, the run does not wait.
    rmtree(store.folder(whole))
    lema("run", gated, "--root", "out", "--set", "name=gate_again")
    assert store.exists(whole)


def test_a_refusal_ends_the_run_and_nothing_more_is_paid(gated, simulated, tmp_path, prefect_api):
    with waiting(prefect_api, gated, tmp_path, "gate_refused") as (process, flow_run):
        assert answer(prefect_api, flow_run, "no", "too vague") == "ACCEPT"
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "refused by the person: too vague" in errors
    assert "Traceback" not in errors
    assert simulated.stats.counts["ok"] == 120 + PILOT
    assert json.loads((tmp_path / "out" / "runs" / "gate_refused.json").read_text())["state"] == "failed"
    # A refusal is no verdict for ever: the next run asks again.
    with waiting(prefect_api, gated, tmp_path, "gate_refused_again") as (process, flow_run):
        assert answer(prefect_api, flow_run, "yes") == "ACCEPT"
        process.communicate(timeout=240)
    assert process.returncode == 0


@LONG
def test_a_waiting_run_can_be_cancelled(gated, simulated, tmp_path, prefect_api):
    with waiting(prefect_api, gated, tmp_path, "gate_cancelled") as (process, flow_run):
        ask(prefect_api, f"flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "cancelled" in errors
    assert simulated.stats.counts["ok"] == 120 + PILOT


@LONG
def test_nobody_answers(gated, lema, simulated):
    refused = lema("run", gated, "--root", "out", "--set", "quality_gate.wait_hours=0.0005", check=False)
    assert refused.returncode == 1
    assert "nobody approved the pilot within 0.0005 hours" in refused.stderr
    assert simulated.stats.counts["ok"] == 120 + PILOT


def test_a_rule_decides_unattended(gated, lema, simulated, tmp_path):
    weak = ("--set", 'corrections.endpoint="weak"')
    rule = ("--set", "quality_gate.rule={min_accepted = 0.6, max_poor = 0.2}")
    # Not one answer of the pilot is a correction: the stage ends by itself, and the rule only where that is allowed.
    refused = lema("run", gated, "--root", "out", *weak, *rule, check=False)
    assert refused.returncode == 1
    assert f"{PILOT} of {PILOT} answers do not have the form" in refused.stderr
    refused = lema("run", gated, "--root", "out", *weak, *rule, "--set", "runtime.max_failed=1", check=False)
    assert refused.returncode == 1
    assert "refused by the rule" in refused.stderr
    assert "min_accepted is 60%" in refused.stderr
    assert simulated.stats.counts["ok"] == 120 + PILOT
    lema("run", gated, "--root", "out", *rule)
    (page,) = (tmp_path / "out" / "store" / "report").glob("*/report.md")
    assert "approved by the rule min\\_accepted = 0.6 and max\\_poor = 0.2." in page.read_text()

    # Ratings that are there count: the same pilot, called poor, does not pass; the corrections must not be there.
    store = Store(str(tmp_path / "out" / "store"))
    whole, *_ = sorted(made(tmp_path / "out", "corrections"), key=lambda r: -store.manifest(r).rows_in)
    (pilot,) = (r for r in made(tmp_path / "out", "corrections") if r != whole and store.manifest(r).rows_out)
    sheet = RatingSheet(
        tmp_path / "out" / "quality_gate" / pilot.fingerprint, "anna", list(store.rows(pilot, Correction))
    )
    sheet.rate(0, "poor")
    rmtree(store.folder(whole))
    refused = lema("run", gated, "--root", "out", *rule, check=False)
    assert "100% rated poor, max_poor is 20%" in refused.stderr


@LONG
def test_the_plan_shows_the_pilot_without_counting_it_twice(gated, lema):
    plan = lema("plan", gated, "--root", "out").stdout
    assert "quality_gate" in plan
    assert "corrections of the pilot" in plan
    lema("run", gated, "--root", "out", "--set", "quality_gate.rule={min_accepted=0}")
    assert "miss" not in lema("plan", gated, "--root", "out").stdout


def test_a_second_teacher_must_agree(gated, lema, tmp_path, finished):
    rule = ("--set", "quality_gate.rule={min_accepted=0}")
    for second, root in (("teacher", "two"), ("weak", "weak")):
        lema("run", gated, "--root", root, *rule, "--set", f'corrections.second="{second}"')

    def whole(root):
        store = Store(str(root / "store"))
        manifests = (store.manifest(ref) for ref in made(root, "corrections"))
        return store, max(manifests, key=lambda m: m.rows_in)

    # A gate changes no correction: the run without one tells what the teacher says alone.
    roots = (finished.root, tmp_path / "two", tmp_path / "weak")
    (_, alone), (store, agreed), (_, weak) = (whole(root) for root in roots)
    # The two programs name the same steps; each correction names the request that agreed.
    assert agreed.rows_out == alone.rows_out
    assert agreed.fingerprint != alone.fingerprint
    assert agreed.counts["second_completions"] == alone.rows_out
    rows = list(store.rows(ArtifactRef("corrections", agreed.fingerprint), Correction))
    assert len(rows) == agreed.rows_out > 0
    assert all(row.second_key and row.second_key != row.request_key for row in rows)
    assert weak.rows_out == 0
    assert weak.reasons["second_teacher_faulty"] == alone.rows_out
    report = next((tmp_path / "two" / "store" / "report").glob("*/report.md")).read_text()
    assert "simulated-teacher" in report


def test_a_teacher_gives_cot_data_and_no_mistakes(gated, lema, tmp_path):
    text = gated.read_text().replace(f"[quality_gate]\nrows = {PILOT}\n", "")
    teacher = '[[students]]\nendpoint = "teacher"\nsamples = 2\nmistakes = false\nmax_tokens = 200\n'
    gated.write_text(text.replace("[corrections]", teacher + "[corrections]"))
    lema("run", gated, "--root", "out")
    store = Store(str(tmp_path / "out" / "store"))
    (mistakes,) = made(tmp_path / "out", "mistakes")
    assert {row.student for row in store.rows(mistakes, JudgedPath)} == {"simulated-student"}
    assert store.manifest(mistakes).rows_in == 120
    report = next((tmp_path / "out" / "store" / "report").glob("*/report.md")).read_text()
    assert "| paths of teachers | 80 | 80 |" in report
    assert "| rationales | 40 | 40 |" in report
    assert "| solutions sampled | 120 |" in report
    assert "| always right |" in report
    paths = {
        row.id
        for ref in made(tmp_path / "out", "verdicts")
        for row in store.rows(ref, JudgedPath)
        if row.student == "simulated-teacher"
    }
    (cot,) = (r for r in made(tmp_path / "out", "mixture") if "correction" not in store.manifest(r).counts)
    # This teacher words its paths as the rationales: the arm reads them, and leaves equal examples out.
    assert paths & {row.parent_id for row in store.rejections(cot)}
