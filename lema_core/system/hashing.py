"""What a file's bytes are known by."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
