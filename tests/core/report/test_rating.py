import dataclasses
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from lema_core.artifacts.parquet import table_of
from lema_core.errors import ConfigError, DataError, LemaError
from lema_core.rating.page import rating_app
from lema_core.rating.pilot import RatingSheet, draw_pilot, read_corrections, summarize_ratings
from lema_core.records import Correction


@pytest.fixture
def pairs(make_correction):
    return [make_correction(id=f"correction-{i}") for i in range(4)]


@pytest.fixture
def sheet(tmp_path, pairs):
    return RatingSheet(tmp_path / "pilot", "anna", pairs)


def test_the_draw_does_not_depend_on_the_order_of_rows(make_correction):
    rows = [make_correction(id=f"correction-{i}") for i in range(200)]
    drawn = draw_pilot(rows, 50, seed=3)
    assert drawn == draw_pilot(rows[::-1], 50, seed=3)
    assert len({row.id for row in drawn}) == 50
    assert drawn != draw_pilot(rows, 50, seed=4)


def test_corrections_are_read_from_an_artifacts_parts(tmp_path, pairs):
    for number, part in enumerate((pairs[:2], pairs[2:])):
        pq.write_table(table_of(part, Correction), tmp_path / f"part-{number}.parquet")
    (tmp_path / "rejected-0.parquet").write_bytes(b"not read")
    assert list(read_corrections(tmp_path)) == pairs
    assert list(read_corrections(tmp_path / "part-1.parquet")) == pairs[2:]


def test_places_without_corrections_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="there are no corrections at"):
        list(read_corrections(tmp_path))
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ["x"]}), other)
    with pytest.raises(DataError, match="does not hold corrections"):
        list(read_corrections(other))
    other.write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_corrections(other))


def test_every_rating_is_on_disk_at_once_and_found_again(sheet, pairs):
    sheet.rate(2, "poor")
    sheet.rate(0, "good")
    sheet.rate(0, "excellent")
    again = RatingSheet(sheet.folder, "anna", pairs)
    assert [again.rating(i) for i in range(4)] == ["excellent", None, "poor", None]
    rows = pq.read_table(sheet.folder / "ratings-anna.parquet").to_pylist()
    assert [(row["correction_id"], row["rater"], row["rating"]) for row in rows] == [
        ("correction-0", "anna", "excellent"),
        ("correction-2", "anna", "poor"),
    ]


def test_the_next_pair_is_the_first_unrated_one_from_here(sheet):
    sheet.rate(1, "good")
    assert (sheet.next_unrated(), sheet.next_unrated(0), sheet.next_unrated(3)) == (0, 2, 0)
    for number in (0, 2, 3):
        sheet.rate(number, "good")
    assert sheet.next_unrated() is None


def test_a_folder_begun_with_other_pairs_is_refused(sheet, pairs):
    with pytest.raises(ConfigError, match="begun with other pairs"):
        RatingSheet(sheet.folder, "ben", pairs[:3])


@pytest.mark.parametrize("rater", ["", "../anna", "a b", "x" * 41])
def test_a_rater_names_a_file(tmp_path, pairs, rater):
    with pytest.raises(ConfigError, match="names a file"):
        RatingSheet(tmp_path, rater, pairs)


def test_nothing_to_rate_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nothing to rate"):
        RatingSheet(tmp_path, "anna", [])


def test_two_raters_are_compared_on_what_both_rated(sheet, pairs):
    other = RatingSheet(sheet.folder, "ben", pairs)
    for number, (first, second) in enumerate(
        [("excellent", "excellent"), ("good", "poor"), ("poor", "poor"), ("good", None)]
    ):
        sheet.rate(number, first)
        if second:
            other.rate(number, second)
    found = summarize_ratings(sheet.folder)
    assert found.by_rater["anna"] == {"excellent": 1, "good": 2, "poor": 1}
    assert found.agreement["anna", "ben"].n == 3
    assert found.agreement["anna", "ben"].share_equal == pytest.approx(2 / 3)
    assert found.poor_share == pytest.approx(2 / 3)
    assert found.is_finished(raters=1)
    assert not found.is_finished(raters=2)


def test_silence_is_no_approval(sheet):
    assert summarize_ratings(sheet.folder).poor_share == 1
    with pytest.raises(DataError, match="holds no pilot"):
        summarize_ratings(sheet.folder / "elsewhere")


@pytest.fixture
def client(sheet):
    return TestClient(rating_app(sheet), base_url="http://127.0.0.1:8000")


def test_the_page_begins_at_the_first_unrated_pair_and_ends_with_the_ratings(client, sheet):
    assert client.get("/").url.path == "/pair/1"
    assert client.post("/pair/1", json={"rating": "good"}).json() == {"next": "/pair/2"}
    assert client.get("/").url.path == "/pair/2"
    assert "1 of 4 pairs are rated" in " ".join(client.get("/done").text.split())
    for number in (2, 3):
        client.post(f"/pair/{number}", json={"rating": "poor"})
    assert client.post("/pair/4", json={"rating": "poor"}).json() == {"next": "/done"}
    assert "All 4 pairs are rated" in " ".join(client.get("/").text.split())
    assert summarize_ratings(sheet.folder).by_rater["anna"] == {"excellent": 0, "good": 1, "poor": 3}


def test_a_rater_does_not_see_the_others_before_the_end(client, sheet, pairs):
    RatingSheet(sheet.folder, "ben", pairs).rate(0, "poor")
    assert "ben" not in client.get("/pair/1").text
    assert "ben" not in client.get("/done").text


@pytest.mark.parametrize(("path", "rating"), [("/pair/5", "good"), ("/pair/1", "superb"), ("/pair/0", "good")])
def test_other_pairs_and_other_words_are_refused(client, sheet, path, rating):
    assert client.post(path, json={"rating": rating}).status_code in (404, 422)
    assert sheet.rated == 0


def test_pages_of_other_sites_cannot_rate(client, sheet):
    # A form or a script of another site can send plain text without asking first, and can rebind its own host name.
    plain = client.post("/pair/1", content='{"rating": "good"}', headers={"Content-Type": "text/plain"})
    rebound = client.post("/pair/1", json={"rating": "good"}, headers={"Host": "evil.example"})
    assert (plain.status_code, rebound.status_code) == (422, 400)
    assert sheet.rated == 0


def test_text_of_models_is_escaped_on_the_page(tmp_path, pairs):
    hostile = "<script>window.hacked = 1</script>"
    pair = dataclasses.replace(pairs[0], question=hostile, explanation=hostile, gold=hostile)
    page = TestClient(rating_app(RatingSheet(tmp_path, "anna", [pair])), base_url="http://127.0.0.1").get("/").text
    assert hostile not in page


def outcome(read):
    try:
        return read()
    except LemaError as error:
        return error


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, place: data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :],
        lambda data, place: data[:place],
        lambda data, place: data[:place] + bytes(len(data) - place),
    ],
    ids=["flipped", "torn", "zeroed"],
)
def test_damaged_ratings_are_one_error(tmp_path, make_correction, damage):
    pairs = [make_correction(id=f"c-{number}") for number in range(4)]
    sheet = RatingSheet(tmp_path, "ann", pairs)
    sheet.rate(0, "good")
    files, chance = sorted(tmp_path.glob("*.parquet")), random.Random(19)  # noqa: S311
    before = summarize_ratings(tmp_path)
    for path in files:
        data = path.read_bytes()
        for _ in range(25):
            path.write_bytes(damage(data, chance.randrange(len(data))))
            found = outcome(lambda: summarize_ratings(tmp_path))
            assert found == before or isinstance(found, DataError)
            found = outcome(lambda: RatingSheet(tmp_path, "ann", pairs).rated)
            assert found == 1 or isinstance(found, DataError)
            outcome(lambda: list(read_corrections(tmp_path / "pairs.parquet")))
        path.write_bytes(data)


def test_ratings_of_another_kind_are_refused(tmp_path, make_correction):
    pairs = [make_correction(id=f"c-{number}") for number in range(4)]
    RatingSheet(tmp_path, "ann", pairs).rate(0, "good")
    strange = {"correction_id": [None], "rater": ["ann"], "rating": ["good"]}
    for column in (strange, {"a": [1]}, strange | {"correction_id": ["c-0"], "rating": ["fine"]}):
        pq.write_table(pa.table(column), tmp_path / "ratings-ann.parquet")
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            summarize_ratings(tmp_path)
