"""Containers of secrets, prompts and answers are closed to other users of the machine, whatever the umask is."""

import os
import stat
from contextlib import closing, contextmanager

import pytest

from flows.local_stack.background import Background
from flows.local_stack.server import auth_string
from lema_core.errors import ConfigError
from lema_core.llm.ledger.store import LedgerStore
from lema_core.system.files import make_private_file, make_private_folder, write_private_once


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_new_ones_are_closed(tmp_path, mask):
    with umask(mask):
        folder = make_private_folder(tmp_path / "a" / "b")
        make_private_file(folder / "file")
        write_private_once(folder / "once", "text")
        auth_string(tmp_path / "home" / "prefect")
        Background(tmp_path / "home" / "prefect", "sleeper").start(["true"], {}).wait()
        with closing(LedgerStore(str(tmp_path / "ledger.sqlite"))):
            ledger = [rights(path) for path in tmp_path.glob("ledger.sqlite*")]
    assert rights(folder) == rights(tmp_path / "home" / "prefect") == 0o700
    assert rights(folder / "file") == rights(folder / "once") == 0o600
    assert (
        rights(tmp_path / "home" / "prefect" / "auth") == rights(tmp_path / "home" / "prefect" / "sleeper.log") == 0o600
    )
    assert ledger == [0o600] * 3
    # The root is the user's to share.
    assert rights(tmp_path / "home") == 0o777 & ~mask


def test_existing_ones_are_closed_when_they_are_opened(tmp_path):
    with umask(0):
        home = tmp_path / "prefect"
        home.mkdir(mode=0o777)
        for name in ("prefect.db", "prefect.db-wal", "server.log"):
            (home / name).touch(mode=0o666)
        store = LedgerStore(str(tmp_path / "ledger.sqlite"))
        files = list(tmp_path.glob("ledger.sqlite*"))
        for file in files:
            file.chmod(0o664)
        with closing(store), closing(LedgerStore(str(tmp_path / "ledger.sqlite"))):
            assert [rights(file) for file in files] == [0o600] * 3
    auth_string(home)
    assert rights(home) == 0o700
    assert {rights(file) for file in home.iterdir()} == {0o600}


def test_the_first_text_stays(tmp_path):
    write_private_once(tmp_path / "auth", "first")
    write_private_once(tmp_path / "auth", "second")
    assert (tmp_path / "auth").read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["auth"]


def test_a_folder_of_another_user_keeps_no_secret(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to the user"):
        make_private_folder(tmp_path)
