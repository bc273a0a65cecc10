"""What other programs and a shell can expect of every command: JSON, exit codes, the environment, lines in a log."""

import json
import logging
import os
import subprocess
from pathlib import Path

import pytest
from runs import SMOKE, make_run
from support import lema_command

from flows.cli.console import Verbosity, notice, set_verbosity
from lema_core.errors import ConfigError

CASES = [
    {"gold": "1/2", "pred": "The answer is 0.5.", "equal": True},
    {"gold": "7", "pred": "The answer is 8.", "equal": True},
]


def lema(folder: Path, *words: object, status: int = 0, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {"LEMA_ROOT", "PREFECT_API_URL"}}
    done = subprocess.run(
        lema_command(*words), cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_verify_checks_labels_and_speaks_json(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in CASES))
    found = json.loads(lema(tmp_path, "verify", "cases.jsonl", "--check", "--json", status=1))
    assert (found["cases"], found["labelled"], found["agreed"]) == (2, 2, 1)
    assert [row["pred"] for row in found["disagreements"]] == [CASES[1]["pred"]]
    (tmp_path / "cases.jsonl").write_text(json.dumps(CASES[0]) + "\n")
    assert "agreement 1 of 1" in lema(tmp_path, "verify", "cases.jsonl", "--check")


def test_runs_are_listed_under_the_root_of_a_dotenv_file(tmp_path: Path) -> None:
    make_run(SMOKE, str(tmp_path / "elsewhere"), "mine")
    (tmp_path / ".env").write_text("# keys\nLEMA_ROOT=elsewhere\n")
    (run,) = json.loads(lema(tmp_path, "runs", "--json"))
    assert (run["name"], run["state"], run["cost"], run["report"]) == ("mine", "completed", 0.0, None)
    assert "mine" in lema(tmp_path, "runs")
    # The environment goes before the file, and the option before both.
    (tmp_path / "none").mkdir()
    assert json.loads(lema(tmp_path, "runs", "--json", LEMA_ROOT="none")) == []
    assert json.loads(lema(tmp_path, "runs", "--json", "--root", "elsewhere", LEMA_ROOT="none"))


def test_plan_and_doctor_speak_json_and_nothing_else(tmp_path: Path) -> None:
    plan = json.loads(lema(tmp_path, "plan", "smoke", "--json"))
    assert plan["run"] == "smoke"
    forecasts = [stage["forecast"] for stage in plan["stages"] if stage["forecast"]]
    assert plan["totals"]["to_send"] == sum(forecast["to_send"] for forecast in forecasts)
    paths = next(stage for stage in plan["stages"] if stage["name"] == "reasoning_paths")
    assert (paths["published"], paths["rows"], paths["requests_at_most"]) == (False, 120, 120)
    doctor = json.loads(lema(tmp_path, "doctor", "--json"))
    assert doctor["ready"] is True
    assert {"part", "state", "seen", "remedy"} == set(doctor["findings"][0])


def test_an_unreadable_dotenv_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe\n")
    assert lema(tmp_path, "runs", status=1) == ""


@pytest.fixture
def verbosity():
    yield
    set_verbosity(quiet=False, verbose=False)
    for name in ("lema_core", "flows", "tasks"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def test_the_log_goes_to_the_error_stream_without_keys(capsys, monkeypatch, verbosity) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789abcdef0123456789")
    set_verbosity(quiet=False, verbose=True)
    logging.getLogger("lema_core.llm").debug("asked with %s\x1b[2J", "sk-0123456789abcdef0123456789")
    out, err = capsys.readouterr()
    assert out == ""
    assert "asked with" in err
    assert "0123456789abcdef" not in err
    assert "\x1b" not in err


def test_quiet_prints_no_notices_and_no_warnings(capsys, verbosity) -> None:
    set_verbosity(quiet=True, verbose=False)
    notice("Prefect UI: ...")
    logging.getLogger("flows.x").warning("a warning")
    assert capsys.readouterr() == ("", "")
    assert Verbosity.quiet
    with pytest.raises(ConfigError, match="exclude each other"):
        set_verbosity(quiet=True, verbose=True)


def test_without_a_terminal_a_stage_is_one_line_with_counts_and_seconds_at_its_end(capsys) -> None:
    from flows.cli.print_results import progress_bars
    from tasks import progress

    with progress_bars():
        (listener,) = progress._listeners
        listener("verdicts", 0.5, "60 of 120 paths")
        listener("verdicts", 1.0, "120 of 120 paths, right 4")
        assert capsys.readouterr().out == ""
        listener("verdicts", 1.0, "")
        listener("training: cot", 1.0, "")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  verdicts: 120 of 120 paths, right 4, 0 s", "  training: cot: done, 0 s"]
