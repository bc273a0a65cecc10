import random
import resource

import pytest

from lema_core.errors import ArtifactError
from lema_core.llm import Completion
from lema_core.llm.answer_files import GROUP, AnswerWriter


def test_no_room_for_the_answers_is_one_clear_error_and_leaves_nothing(tmp_path) -> None:
    writer, noise = AnswerWriter(tmp_path / "out"), random.Random(0)  # noqa: S311 - text that does not compress

    def add_many() -> None:
        for row in range(2 * GROUP):
            writer.add(f"r{row}", Completion(f"k{row}", noise.randbytes(50).hex(), "stop", 1, 1, "m"))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ArtifactError, match="The ledger keeps what was paid"):
            add_many()
        writer.discard()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []
