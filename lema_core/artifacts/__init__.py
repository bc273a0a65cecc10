"""Artifacts: folders of Parquet parts with a manifest, named by the hash of everything that decides their content.

    <root>/<stage>/<fingerprint>/part-000000000-000000512.parquet ...
                                 __lema__/manifest.json, rejected-000000000-000000512.parquet ...

The folder is a table for other programs too: ``pandas.read_parquet(folder)`` and ``datasets.load_dataset(folder)`` read
its parts, and neither looks into a folder whose name begins with two underscores.

The manifest is written last, by an atomic rename: an artifact without one does not exist. A part is written the same
way, so a part that is there is whole, and a stage that was killed goes on from the parts it has; its name is the range
of input rows it is made from. Rows in = rows out + rows rejected, or the artifact is not published. The store does not
know what the rows mean and starts no work.
"""

from lema_core.artifacts.fingerprint import Identity, canonical_json
from lema_core.artifacts.manifest import Manifest, PartSummary
from lema_core.artifacts.parquet import rows_from_batch, schema_of, table_of
from lema_core.artifacts.part import PartWriter, part_files
from lema_core.artifacts.store import ArtifactRef, Shard, Store, shards_of

__all__ = [
    "ArtifactRef",
    "Identity",
    "Manifest",
    "PartSummary",
    "PartWriter",
    "Shard",
    "Store",
    "canonical_json",
    "part_files",
    "rows_from_batch",
    "schema_of",
    "shards_of",
    "table_of",
]
