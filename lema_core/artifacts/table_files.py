"""The files of a table artifact: what a shard's two files are called, and which of them belong to the table."""

from lema_core.artifacts.files import FileSystem
from lema_core.artifacts.manifest import MANIFEST, Manifest


def part_name(start: int, stop: int) -> str:
    """Return the name of the file with the rows that input rows ``start`` to ``stop`` gave.

    The range is in the name: runs that cut the same rows into other shards must not overwrite each other's parts.
    """
    return f"part-{start:09d}-{stop:09d}.parquet"


def rejected_name(start: int, stop: int) -> str:
    """Return the name of the file with the rejected rows of the same range."""
    return f"rejected-{start:09d}-{stop:09d}.parquet"


def part_files(fs: FileSystem, folder: str) -> list[str]:
    """Return the Parquet files of a folder's table, in the order of their rows.

    Where there is a manifest they are those that it names: beside them may lie what a run left that was cut otherwise.
    """
    if not fs.exists(f"{folder}/{MANIFEST}"):
        return fs.glob(f"{folder}/part-*.parquet")
    parts = Manifest.read(fs, folder).parts
    return [f"{folder}/{part_name(part.start, part.stop)}" for part in parts]
