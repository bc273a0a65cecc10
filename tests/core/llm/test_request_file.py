import json
import os

import pytest

from lema_core.errors import DataError
from lema_core.llm.request_files import RequestFile, digest, require_unchanged


def line(name: str, text: str, **params: object) -> str:
    return json.dumps({"id": name, "messages": [{"role": "user", "content": text}], "params": params}) + "\n"


def test_an_id_may_be_repeated_for_the_same_request_only(tmp_path) -> None:
    file = tmp_path / "r.jsonl"
    same = line("a", "q", temperature=1) + line("b", "ünï") + "\n" + line("a", "q", temperature=1.0) + line("b", "ünï")
    file.write_text(same, "utf-8")
    assert len(RequestFile(file)) == 4
    for other in (line("b", "another"), line("b", "ünï", top_p=0.5)):
        file.write_text(same + other, "utf-8")
        with pytest.raises(
            DataError, match=r"line 6: the id 'b' stands for another request on line 2.*Nothing was sent"
        ):
            RequestFile(file)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(line("a", "q"), "utf-8-sig")
    assert [one.id for one in RequestFile(file)] == ["a"]


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_bytes(line("a", "q").encode() + b'{"id": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: this is no JSON"):
        RequestFile(file)


def test_brackets_in_a_text_are_no_depth(tmp_path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(line("a", "[{" * 500), "utf-8")
    assert len(RequestFile(file)) == 1


def test_what_can_be_read_only_once_is_refused_at_once(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (digest, RequestFile):
        with pytest.raises(DataError, match="no regular file"):
            read(tmp_path / "pipe")


@pytest.mark.parametrize("more", [line("c", "new"), '{"id": "c'])
def test_a_file_that_grows_while_it_is_answered_sends_only_what_was_checked(tmp_path, more) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(line("a", "q") + line("b", "q"), "utf-8")
    before, checked = digest(file), RequestFile(file)
    require_unchanged(file, before)
    with file.open("a") as more_of_it:
        more_of_it.write(more)
    assert [one.id for one in checked] == ["a", "b"]
    with pytest.raises(DataError, match="changed while it was answered"):
        require_unchanged(file, before)


def test_a_line_that_is_replaced_while_it_is_answered_is_told_as_that(tmp_path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(line("a", "q"), "utf-8")
    checked = RequestFile(file)
    file.write_text("half a li", "utf-8")
    with pytest.raises(DataError, match=r"changed while it was answered.*line 1: this is no JSON"):
        list(checked)
