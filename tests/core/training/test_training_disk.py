"""What the libraries that write checkpoints raise on a full disk, and what the user is told."""

import errno
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from lema_core.artifacts.files import atomic_local
from lema_core.errors import ConfigError, TrainingError
from lema_core.training.launch import run_group
from lema_core.training.program import report_full_disk

WEIGHTS = {"weights": torch.zeros(100_000)}


def write_with_torch(path: Path) -> None:
    torch.save(WEIGHTS, path)


def write_with_torch_into_a_file(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(WEIGHTS, file)


def write_in_torchs_old_format(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)


def write_with_safetensors(path: Path) -> None:
    save_file(WEIGHTS, path)


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"x": torch.rand(100_000).numpy()}), path)


def write_text(path: Path) -> None:
    path.write_text("x" * 400_000)


def write_whole_or_not_at_all(path: Path) -> None:
    with atomic_local(path) as local:
        local.write_text("x" * 400_000)


WRITERS = (
    write_with_torch,
    write_with_torch_into_a_file,
    write_in_torchs_old_format,
    write_with_safetensors,
    write_parquet,
    write_text,
    write_whole_or_not_at_all,
)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let this process write 64 KiB into a file: a full disk that needs no rights to make."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("write", WRITERS)
def test_every_library_that_finds_the_disk_full_is_understood(write: Callable[[Path], None], tmp_path: Path) -> None:
    with (
        pytest.raises(TrainingError, match=r"disk of .* is full.*MB free.*Free some space"),
        report_full_disk(tmp_path),
    ):
        write(tmp_path / "file")


@pytest.mark.usefixtures("small_files")
async def test_a_log_that_cannot_be_written_ends_the_run_in_the_same_way(tmp_path: Path) -> None:
    endless = [sys.executable, "-c", "while True: print('x' * 1000)"]
    before = psutil.Process().children(recursive=True)  # servers of other tests in this process
    with pytest.raises(TrainingError, match=r"disk of .* is full"):
        await run_group(endless, tmp_path / "log.txt", os.environ, [].append)
    assert set(psutil.Process().children(recursive=True)) <= set(before)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("known", [True, False])
def test_the_systems_number_is_understood_and_so_is_its_text(number: int, known: bool, tmp_path: Path) -> None:
    text = os.strerror(number)
    error = OSError(number, text) if known else RuntimeError(f"I/O error: {text} (os error {number})")
    with pytest.raises(TrainingError, match=text), report_full_disk(tmp_path / "not made yet"):
        raise error


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), RuntimeError("shape"), ConfigError("is full")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as seen, report_full_disk(tmp_path):
        raise error
    assert seen.value is error


def test_a_torn_checkpoint_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "whole")
    (tmp_path / "torn").write_bytes((tmp_path / "whole").read_bytes()[:1000])
    with pytest.raises(RuntimeError, match="PytorchStreamReader"), report_full_disk(tmp_path):
        torch.load(tmp_path / "torn")
