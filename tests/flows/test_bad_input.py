import pytest

pytestmark = pytest.mark.slow


def fails(lema, *words) -> str:
    done = lema(*words, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("error:") == 1
    return done.stderr


def write(tmp_path, *lines: str) -> str:
    (tmp_path / "mine.jsonl").write_text("".join(line + "\n" for line in lines))
    return "questions.path=mine.jsonl"


GOOD = '{"question": "What is 2 + 2?", "answer": "4"}'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, '{"question": "What is'], "mine.jsonl:2"),
        ([], "No question in mine.jsonl"),
        ([GOOD, '{"question": "And 3 + 3?", "answer": "several apples"}'], "mine.jsonl:2"),
        ([GOOD, GOOD], "mine.jsonl:2"),
        (['{"text": "What is 2 + 2?", "answer": "4"}'], "no field 'question'"),
    ],
)
def test_a_bad_source_is_told_with_its_place_before_anything_is_paid(lema, run_file, simulated, tmp_path, lines, said):
    source = write(tmp_path, *lines)
    told = fails(lema, "run", run_file, "--set", "questions.task=numeric", "--set", source)
    assert said in told
    assert simulated.stats.counts["hits"] == 0


def test_a_missing_file_and_a_misspelt_option(lema, run_file, simulated):
    source = "questions.path=nowhere.jsonl"
    assert "nowhere.jsonl" in fails(lema, "run", run_file, "--set", "questions.task=numeric", "--set", source)
    assert "did you mean 'samples'" in fails(lema, "run", run_file, "--set", "students.0.sampels=3")
    assert "does not exist" in fails(lema, "run", "nothing.toml")
    assert simulated.stats.counts["hits"] == 0


def test_an_endpoint_that_refuses_and_a_missing_key(lema, run_file, simulated):
    refused = fails(lema, "run", run_file, "--set", "endpoints.student.base_url=http://127.0.0.1:9/v1")
    assert "127.0.0.1:9" in refused
    # The corrector is asked last, but its mistake is told before the student is paid.
    fails(lema, "run", run_file, "--set", "endpoints.reference.base_url=http://127.0.0.1:9/v1")
    missing = fails(lema, "run", run_file, "--set", "endpoints.reference.api_key_env=NO_SUCH_KEY")
    assert "NO_SUCH_KEY" in missing
    assert simulated.stats.counts["ok"] == 0


def test_resume_without_a_run_says_how_to_start_one(lema):
    assert "nothing to resume" in fails(lema, "resume")
    assert "no run 'other'" in fails(lema, "resume", "other")


def test_explain_of_an_unknown_id(lema):
    assert "no row 'p-0'" in fails(lema, "explain", "p-0")
