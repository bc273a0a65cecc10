"""The authentication string of a folder's Prefect server, and tokens that log a browser in once."""

import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.local_stack import server
from flows.local_stack.server import LOGIN_S, Logins, auth_string, login_token
from lema_core.errors import ConfigError, LemaError

AUTH = "lema:a-string-for-tests"


def test_a_token_logs_in_once_and_into_one_server():
    logins = Logins(AUTH, 7)
    token = login_token(AUTH, 7)
    assert AUTH not in token
    assert [logins.take(token), logins.take(token)] == [True, False]
    assert logins.take(login_token(AUTH, 7))
    assert not Logins(AUTH, 8).take(login_token(AUTH, 7)), "of the server before a restart"
    assert not Logins("lema:another-string", 7).take(login_token(AUTH, 7))


def test_a_token_ends_after_a_day(monkeypatch):
    now = server.time.time()
    token, logins = login_token(AUTH, 7), Logins(AUTH, 7)
    monkeypatch.setattr(server.time, "time", lambda: now + LOGIN_S + 1)
    assert not logins.take(token)


def test_no_changed_token_is_taken():
    token = login_token(AUTH, 7)
    signature, nonce, until = token.split(".")
    changed = {
        "", ".", "..", "é", token[:-1], f"{token}0", f"{signature}.{nonce}", f".{nonce}.{until}",
        f"{signature}.{nonce}.{int(until, 16) + 1:x}", f"{signature}..{until}", f"{signature}.{nonce}.zz",
        token.upper(),
    }  # fmt: skip
    logins = Logins(AUTH, 7)
    assert not [one for one in changed if logins.take(one)]
    assert logins.take(token)


def test_a_folder_has_one_random_string(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    first = auth_string(tmp_path / "one")
    assert auth_string(tmp_path / "one") == first != auth_string(tmp_path / "two")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "team:a-shared-string")
    assert auth_string(tmp_path / "three") == "team:a-shared-string"
    assert auth_string(tmp_path / "one") == first, "workers have it already"


@pytest.mark.parametrize("text", ["", "  \n", "short", "two words of it", "b\x00nary-string", "ünicode-string"])
def test_a_file_without_a_string_is_an_error_that_does_not_show_it(tmp_path, text):
    auth_string(tmp_path)
    (tmp_path / "auth").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="8 visible ASCII characters") as told:
        auth_string(tmp_path)
    assert not text.strip() or text not in str(told.value)


class OldServer(BaseHTTPRequestHandler):
    """Prefect's server as an older LeMa started it: it answers everybody."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"3.8.8"')

    def log_message(self, *_):
        pass


def test_a_server_that_asks_for_no_string_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    http = HTTPServer(("127.0.0.1", 0), OldServer)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        assert server._answers(os.getpid(), http.server_port)
        monkeypatch.setattr(server, "running_port", lambda _: http.server_port)
        with pytest.raises(LemaError, match=r"older LeMa.*lema down"):
            server.ensure_server()
        assert "PREFECT_API_URL" not in os.environ
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def test_nothing_is_imposed_on_a_server_that_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.org/api")
    before = dict(os.environ)
    assert server.ensure_server() == "https://prefect.example.org/api"
    assert dict(os.environ) == before
    assert server.login_url("https://prefect.example.org/api", "runs") == "https://prefect.example.org/v2/runs"
    assert not list(tmp_path.iterdir())
