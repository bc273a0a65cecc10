import os
import random
import resource

import pyarrow.parquet as pq
import pytest

from lema_core.artifacts import files
from lema_core.errors import ArtifactError
from lema_core.llm import Completion, Failure
from lema_core.llm.request_files import GROUP, ResultWriter, load_finished
from lema_core.system.processes import this_machine


def test_no_room_for_the_answers_is_one_clear_error_and_leaves_nothing(tmp_path) -> None:
    noise = random.Random(0)  # noqa: S311 - text that does not compress

    def add_many() -> None:
        with ResultWriter(tmp_path / "out", {}) as writer:
            for row in range(2 * GROUP):
                writer.add(f"r{row}", Completion(f"k{row}", noise.randbytes(50).hex(), "stop", 1, 1, "m"))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ArtifactError, match="The ledger keeps what was paid"):
            add_many()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_kill_left_goes_but_nothing_of_a_writer_on_another_machine(tmp_path, monkeypatch) -> None:
    def writer_of(machine: str) -> ResultWriter:
        with monkeypatch.context() as there:
            there.setattr(files, "this_machine", lambda: machine)
            there.setattr(os, "getpid", lambda: 2**22 + 1)
            return ResultWriter(tmp_path, {"by": machine}).__enter__()

    here = writer_of(this_machine())
    elsewhere = writer_of("another machine")
    with ResultWriter(tmp_path, {}) as writer:
        writer.add("r0", Completion("k0", "text", "stop", 1, 1, "m"))
        assert len(list(tmp_path.iterdir())) == 4
    assert load_finished(tmp_path, {})
    elsewhere.__exit__(None, None, None)
    assert load_finished(tmp_path, {"by": "another machine"})
    with pytest.raises(ArtifactError):
        here.__exit__(None, None, None)


@pytest.mark.parametrize("between", [1, 2])
def test_two_commands_that_publish_at_the_same_moment_never_vouch_for_a_mixture(tmp_path, monkeypatch, between) -> None:
    rows = [Completion(f"k{row}", "text", "stop", 1, 1, "m") for row in range(3)]
    whole, lacking = ResultWriter(tmp_path, {}).__enter__(), ResultWriter(tmp_path, {}).__enter__()
    for row, outcome in enumerate(rows):
        whole.add(f"r{row}", outcome)
        lacking.add(f"r{row}", outcome if row else Failure("k0", "server_error", "boom", 5))
    place, placed = files._place, 0

    def placing(*args: object) -> None:
        nonlocal placed
        placed += 1
        place(*args)
        if placed == between:
            lacking.__exit__(None, None, None)

    monkeypatch.setattr(files, "_place", placing)
    whole.__exit__(None, None, None)
    held = [pq.read_table(tmp_path / f"{name}.parquet").num_rows for name in ("completions", "rejected")]
    assert placed == 6
    assert not load_finished(tmp_path, {}) or held == [3, 0]
