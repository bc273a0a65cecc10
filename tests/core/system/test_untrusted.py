"""Programs that models wrote: what the sandbox holds, with bubblewrap and without; and what it does not hold."""

import socket
import threading
from pathlib import Path

import pytest

from lema_core.errors import ConfigError
from lema_core.system import confine, untrusted
from lema_core.system.untrusted import ProgramLimits, run_untrusted

HERE = Path(__file__)
LIMITS = ProgramLimits(seconds=5, memory_mib=256, file_mib=4)


@pytest.fixture(params=["bubblewrap", "without"], autouse=True)
def sandbox(request, monkeypatch, tmp_path):
    """Run each test in both sandboxes, as far as this machine has them."""
    untrusted.has_bubblewrap.cache_clear()
    if request.param == "without":
        monkeypatch.setenv("PATH", str(tmp_path))  # no bwrap there
    elif not untrusted.has_bubblewrap():
        pytest.skip("bubblewrap is not installed, or not allowed here")
    elif confine.landlock_version() == 0:
        pytest.skip("no Landlock")
    yield request.param
    untrusted.has_bubblewrap.cache_clear()


def run(code: str, limits: ProgramLimits = LIMITS, **files: str) -> untrusted.ProgramResult:
    return run_untrusted(["python", "-I", "main.py"], {"main.py": code, **files}, limits)


def test_a_program_gets_its_files_and_its_input_and_returns_what_it_wrote():
    code = "import sys, pathlib\nprint(pathlib.Path('data/a.txt').read_text(), sys.stdin.read())\nsys.exit(4)"
    result = run_untrusted(["python", "m.py"], {"m.py": code, "data/a.txt": b"\xc3\xa4"}, LIMITS, stdin="ö")
    assert (result.outcome, result.status, result.stdout) == ("finished", 4, "ä ö\n")
    assert not result.ok


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import os\nwhile True: os.fork()", "not permitted"),
        ("import subprocess; subprocess.run(['ls'])", "not permitted"),
        ("import os; os.kill(os.getppid(), 9)", "not permitted"),
        ("import os; os.kill(-1, 9)", "not permitted"),
        ("hold = bytearray(1 << 30)", "MemoryError"),
        ("open('a', 'wb').write(bytes(1 << 23))", "Error"),
        ("import os; os.symlink('/etc', 'x'); open('x/evil', 'w')", "Error"),
        ("import os; os.chroot('/')", "not permitted"),
        ("import os; os.setuid(0) or os.mknod('x', 0o60000, 0)", "Error"),
        ("while True: print('x' * 10_000)", "File too large"),
        ("import ctypes; ctypes.CDLL(None, use_errno=True).unshare(0x10000000) and exit(1)", ""),
    ],
)
def test_what_a_program_tries_fails_in_it(code, seen):
    result = run(code)
    assert result.outcome == "finished"
    assert result.status == 1
    assert seen in result.stderr


def test_a_program_without_an_end_is_killed():
    result = run("while True: pass", ProgramLimits(seconds=0.5))
    assert (result.outcome, result.status) == ("timeout", None)
    assert run("import time; time.sleep(1000)", ProgramLimits(seconds=0.5)).outcome == "timeout"
    assert run("import ctypes; ctypes.string_at(0)").outcome == "signal"


def test_a_program_writes_in_its_own_folder_only(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    for code in (
        f"open({str(victim)!r}, 'w')", f"import os; os.remove({str(victim)!r})", f"open({str(victim) + '2'!r}, 'w')",
        f"import os; os.truncate({str(victim)!r}, 0)", f"import os; os.rename({str(victim)!r}, 'mine')",
        f"open({str(HERE)!r}, 'a')",
    ):  # fmt: skip
        assert run(code).status == 1, code
    assert victim.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == [victim]
    assert run("open('own', 'w').write('x'); print(open('own').read())").stdout == "x\n"


def test_a_program_reaches_no_socket():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        reached = []
        threading.Thread(target=lambda: reached.append(server.accept()), daemon=True).start()
        result = run(f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)")
        assert result.status == 1
        assert not reached
    assert run("import socket; socket.socket(socket.AF_UNIX)").status == 1


def test_the_environment_is_empty_and_threads_work(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    result = run("import os; print(os.environ)")
    assert "secret" not in result.stdout
    code = "import threading\nt = threading.Thread(target=print, args=('ran',))\nt.start(); t.join()"
    assert run(code).stdout == "ran\n"


def test_what_can_be_read_is_what_the_statement_says(sandbox):
    said = untrusted.isolation()
    result = run(f"print(open({str(HERE)!r}).read()[:3])")
    if sandbox == "bubblewrap":
        assert "in bubblewrap" in said
        assert result.status == 1
    else:
        # The honest part of the statement: without bubblewrap other files are open to reading.
        assert "NOT isolated: they can read every file" in said
        assert "no network" in said


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "", "a\0b"])
def test_a_path_that_leaves_the_folder_is_refused(name):
    with pytest.raises(ConfigError, match="no path within"):
        run_untrusted(["python"], {name: ""})


@pytest.mark.parametrize("program", [[], ["a\0b"]])
def test_a_command_that_cannot_be_one_is_refused(program):
    with pytest.raises(ConfigError, match="expected a command"):
        run_untrusted(program, {})


def test_a_program_that_does_not_exist_is_an_outcome():
    result = run_untrusted(["no-such-program"], {}, LIMITS)
    assert result.status == 127
    assert not result.ok


def test_long_output_is_cut_at_its_end():
    result = run("print('a' * 100_000 + 'end')", ProgramLimits(seconds=5, output_chars=10))
    assert result.stdout == "aaaaaaend\n"


def test_limits_are_numbers_that_can_hold():
    for wrong in ({"seconds": 0}, {"memory_mib": 1}, {"file_mib": 0}, {"output_chars": -1}):
        with pytest.raises(ConfigError):
            ProgramLimits(**wrong)
