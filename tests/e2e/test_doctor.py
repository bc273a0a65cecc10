import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

RUN = """
name = "examined"
[questions]
task = "gsm8k"
path = "questions.jsonl"
[endpoints.teacher]
model = "m"
{teacher}
[[students]]
endpoint = "teacher"
[corrections]
endpoint = "teacher"
"""


class Server(BaseHTTPRequestHandler):
    """Answers as an endpoint and as Prefect do; the path says how."""

    def do_GET(self):
        good = self.headers.get("Authorization") in (None, "Bearer none", "Bearer right-key")
        status = {"/dead/models": 503, "/none/models": 404}.get(self.path, 200 if good else 401)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"data": []}).encode())

    def log_message(self, *_):
        """Keep the tests' output clean."""


@pytest.fixture(scope="module")
def server():
    http = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


@pytest.fixture
def doctor(tmp_path, server):
    """Run ``lema doctor`` on a run file with this [endpoints.teacher]; return the exit code and what it said."""

    def run(teacher=None, **env):
        words = []
        if teacher is not None:
            (tmp_path / "run.toml").write_text(RUN.format(teacher=teacher))
            (tmp_path / "questions.jsonl").write_text("{}\n")
            words = ["run.toml"]
        given = os.environ | {"PREFECT_API_URL": f"{server}/api", "COLUMNS": "250"} | env
        done = subprocess.run(
            [sys.executable, "-c", "from flows.cli import app; app()", "doctor", *words],
            cwd=tmp_path, env=given, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_without_a_run_file_it_shows_the_machine(doctor):
    code, said = doctor()
    assert code == 0
    for part in (
        "Python",
        "base",
        "prefect 3.8",
        "train",
        "local",
        "postgres",
        "scale",
        "cores",
        "GPU",
        "/api answers",
        "ready",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [("/v1", 0, "answers"), ("/none", 0, "answers"), ("/dead", 1, "answers 503")],
)
def test_an_endpoint_by_url_is_asked(doctor, server, path, code, said):
    found, text = doctor(f'base_url = "{server}{path}"')
    assert (found, said in text) == (code, True), text


def test_an_endpoint_that_is_down_is_missing_with_its_remedy(doctor):
    code, said = doctor('base_url = "http://127.0.0.1:9/v1"')
    assert code == 1
    assert "does not answer" in said
    assert "1 missing: endpoint teacher" in said


def test_a_key_that_is_not_set_is_named_and_a_wrong_one_is_told_but_not_shown(doctor, server):
    teacher = f'base_url = "{server}/v1"\napi_key_env = "LEMA_TEST_KEY"'
    code, said = doctor(teacher, LEMA_TEST_KEY="")
    assert (code, "export LEMA_TEST_KEY=" in said) == (1, True)
    code, said = doctor(teacher, LEMA_TEST_KEY="wrong-key")
    assert (code, "refuses the key" in said, "wrong-key" in said) == (1, True, False)
    assert "correct the key in LEMA_TEST_KEY" in said
    code, said = doctor(teacher, LEMA_TEST_KEY="right-key")
    assert code == 0
    assert "right-key" not in said


def test_a_command_whose_program_is_not_there_is_missing(doctor):
    code, said = doctor('command = "no-such-server --port {port}"')
    assert code == 1
    assert "no program 'no-such-server'" in said
    assert doctor('command = "{python} -m http.server {port}"')[0] == 0


def test_a_prefect_server_that_was_named_and_is_down_is_missing(doctor):
    code, said = doctor(PREFECT_API_URL="http://127.0.0.1:9/api")
    assert code == 1
    assert "unset PREFECT_API_URL" in said


def test_a_file_of_questions_that_is_not_there_is_missing(doctor, tmp_path):
    doctor('command = "{python}"')
    run = tmp_path / "run.toml"
    run.write_text(run.read_text().replace("questions.jsonl", "elsewhere.jsonl"))
    words = [sys.executable, "-c", "from flows.cli import app; app()", "doctor", "run.toml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "elsewhere.jsonl" in done.stdout


def test_a_run_file_with_a_mistake_is_one_message(doctor):
    code, said = doctor('base_urll = "http://127.0.0.1:9/v1"')
    assert code == 1
    assert "did you mean" in said
    assert "Traceback" not in said


def test_a_key_in_a_secret_block_is_told_and_not_asked_for(doctor, server):
    code, told = doctor(f'base_url = "{server}/v1"\napi_key_secret = "teachers-key"')
    assert code == 0
    assert "the Secret block teachers-key" in told
