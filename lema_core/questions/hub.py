"""Questions from a data set on the Hugging Face Hub, read as Parquet by fsspec.

The ``datasets`` library belongs to training; the Hub's own Parquet copy of a data set needs only ``huggingface_hub``.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

from lema_core.artifacts.parquet import open_table, raise_faults_as, rows_of, translate_faults
from lema_core.errors import ConfigError, EndpointError
from lema_core.questions.files import Placed
from lema_core.questions.specs import QuestionsSpec
from lema_core.questions.tasks.task import HubDataset, Task

PARQUET_BRANCH = "refs/convert/parquet"


def commit(spec: QuestionsSpec, task: Task) -> str:
    """Return the commit of the data set's Parquet copy: the identity of what would be read.

    Raises:
        ConfigError: the task has no data set on the Hub.
        EndpointError: the Hub does not answer or does not know the data set.
    """
    source = _dataset(spec, task)
    if spec.hub_revision is not None:
        return f"hub:{source.id}@{spec.hub_revision}"
    from huggingface_hub import HfApi

    with raise_faults_as(partial(_unreachable, source)):
        info = HfApi().dataset_info(source.id, revision=PARQUET_BRANCH)
    return f"hub:{source.id}@{info.sha}"


def read_rows(spec: QuestionsSpec, task: Task, commit: str | None = None) -> Placed:
    """Yield (place, row) of the wanted split; a place reads ``openai/gsm8k/main/train:17``.

    ``commit`` is what `commit` returned when the identity was made: the branch may have moved since.

    Raises:
        ConfigError: the task has no data set on the Hub, or the data set has no such split.
        EndpointError: the Hub does not answer or does not know the data set.
    """
    source = _dataset(spec, task)
    split = source.train if spec.split == "train" else source.test
    if split is None:
        raise ConfigError(f"{source.id} has no {spec.split} split. Set `split` to the other one.")
    folder = f"{spec.config or source.config}/{split}"
    number = 0
    fault = partial(_unreachable, source)
    revision = spec.hub_revision or (commit.rpartition("@")[2] if commit else PARQUET_BRANCH)
    system, paths = _files(source, revision, folder)
    for path in paths:
        with ExitStack() as stack:
            with raise_faults_as(fault):
                file = stack.enter_context(system.open(path))
            table = stack.enter_context(open_table(file, fault))
            for row in translate_faults(rows_of(table.batches(size=1_000)), fault):
                number += 1
                yield f"{source.id}/{folder}:{number}", row


def _files(source: HubDataset, revision: str, folder: str) -> tuple[Any, list[str]]:
    """Return the Hub's file system and the paths of a folder's Parquet files."""
    from huggingface_hub import HfFileSystem

    with raise_faults_as(partial(_unreachable, source)):
        system = HfFileSystem()
        root = f"datasets/{source.id}@{revision.replace('/', '%2F')}"
        paths = sorted(map(str, system.glob(f"{root}/{folder}/*.parquet")))
    if not paths:
        raise ConfigError(
            f"{source.id} has no Parquet files under {folder}. Check `config` and `split` on the Hub's page."
        )
    return system, paths


def _dataset(spec: QuestionsSpec, task: Task) -> HubDataset:
    if spec.hub is not None:
        if task.hub is None:
            return HubDataset(spec.hub, train="train", test="test")
        return HubDataset(spec.hub, task.hub.config, task.hub.train, task.hub.test)
    if task.hub is None:
        raise ConfigError(
            f"The task {task.name} has no data set of its own. Set `path` to a file, or `hub` to a data set's id."
        )
    return task.hub


def _unreachable(source: HubDataset, cause: str) -> EndpointError:
    # The library's errors have many classes of several HTTP stacks; each means that this data set cannot be had now.
    return EndpointError(
        f"The data set {source.id} could not be had from the Hugging Face Hub ({cause}). "
        "Check the id and the network, or set `path` to a local copy."
    )
