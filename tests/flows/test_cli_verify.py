"""``lema verify`` over real files."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from flows.cli.console import exit_on_error
from flows.cli.verify import BATCH, verify
from lema_core.errors import BudgetExceededError, ConfigError, DataError, EndpointError
from lema_core.llm.simulated import Library, Reply, SimulatedEndpoint

app = typer.Typer()
app.command()(verify)
runner = CliRunner()
CASES = [
    {"gold": "18", "pred": "#### 18", "task": "gsm8k", "equal": True},
    {"gold": r"\frac{1}{2}", "pred": r"so \boxed{0.5}", "task": "math", "equal": True},
    {"gold": "5", "pred": "6", "equal": True},
    {"gold": "1", "pred": "9**9**9**9", "equal": False},
    {"gold": "mall", "pred": "The answer is (B).", "task": "csqa", "candidates": ["bank", "mall"], "equal": True},
]
VERDICTS = ["equal", "equal", "different", "unknown", "equal"]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in CASES), "utf-8")
    return path


def test_jsonl_in_and_out(jsonl, tmp_path):
    out = tmp_path / "out.jsonl"
    result = runner.invoke(app, [str(jsonl), "--out", str(out)])
    assert result.exit_code == 0
    written = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["verdict"] for row in written] == VERDICTS
    assert written[0]["gold"] == "18"
    assert "agreement 4 of 5" in result.output
    assert "'5' against '6'" in result.output


def test_parquet_in_and_out(tmp_path):
    cases, out = tmp_path / "cases.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist([{"task": None, "candidates": None, **case} for case in CASES]), cases)
    result = runner.invoke(app, [str(cases), "--out", str(out)])
    assert result.exit_code == 0
    assert pq.read_table(out).column("verdict").to_pylist() == VERDICTS


def test_parquet_keeps_columns_that_come_late_or_begin_with_nulls(tmp_path):
    rows = [{"gold": str(row), "pred": str(row), "note": None, "tags": []} for row in range(BATCH)]
    rows += [{"gold": "1", "pred": "2", "note": "odd", "late": 1.5, "tags": ["x"]} for _ in range(BATCH)]
    cases, out = tmp_path / "cases.jsonl.gz", tmp_path / "out.parquet"
    cases.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    result = runner.invoke(app, [cases.as_uri(), "--out", str(out)])
    assert result.exit_code == 0, result.output
    written = pq.read_table(out).to_pylist()
    assert [{name: row[name] for name in ("gold", "note", "late", "tags")} for row in written] == [
        {"late": None} | {name: row[name] for name in row if name != "pred"} for row in rows
    ]
    assert [row["verdict"] for row in written] == ["equal"] * BATCH + ["different"] * BATCH


@pytest.mark.parametrize(("name", "told"), [("out.parquet", "jsonl instead"), ("out.jsonl", "no field 'pred'")])
def test_an_output_appears_whole_or_not_at_all(tmp_path, name, told):
    (tmp_path / "out").mkdir()
    rows = [{"gold": 1, "pred": "1"}] * (BATCH + 1) + [{"gold": "one"}]
    cases, out = tmp_path / "cases.jsonl", tmp_path / "out" / name
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError, match=told):
        verify(str(cases), out)
    assert not list(out.parent.iterdir())


def test_why_explains_one_pair():
    result = runner.invoke(app, ["--why", r"\frac{1}{2}", r"The answer is 50\%."])
    assert result.exit_code == 0
    for word in ("equal", "number", "50", "cue"):
        assert word in result.output


def test_bad_input_names_the_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"gold": "1", "pred": "1"}\n{"gold": "1"}\n', "utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:2: no field 'pred'"):
        verify(str(path))
    path.write_text("nonsense\n", "utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:1"):
        verify(str(path))
    with pytest.raises(DataError, match="No file at"):
        verify(str(tmp_path / "missing.jsonl"))


def test_options_that_do_not_fit_are_told():
    assert runner.invoke(app, []).exit_code != 0
    assert runner.invoke(app, ["--family", "poetry", "--why", "1", "1"]).exit_code != 0


def test_the_input_is_not_overwritten(jsonl, tmp_path):
    before = jsonl.read_bytes()
    (tmp_path / "same.jsonl").symlink_to(jsonl)
    for out in (jsonl, tmp_path / "same.jsonl"):
        result = runner.invoke(app, [str(jsonl), "--out", str(out)])
        assert result.exit_code == 2
        assert "name another one" in " ".join(result.output.replace("│", " ").split())
        assert jsonl.read_bytes() == before


def test_a_file_that_is_no_parquet_is_told(tmp_path):
    broken = tmp_path / "cases.parquet"
    broken.write_bytes(b"")
    assert isinstance(runner.invoke(app, [str(broken)]).exception, DataError)


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(2, "No such file or directory", "nodir/x.parquet"), pa.ArrowInvalid("Parquet magic bytes")],
)
def test_errors_of_files_are_one_message(error, capsys):
    def command() -> None:
        raise error

    with pytest.raises(SystemExit):
        exit_on_error(command)()
    assert str(error) in capsys.readouterr().err


def test_a_defect_of_ours_is_one_message_that_says_so(capsys):
    with pytest.raises(SystemExit):
        exit_on_error(lambda: 1 / 0)()
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_object_without_fields_has_no_parquet_column(tmp_path):
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"gold": "1", "pred": "1", "meta": {}}) + "\n")
    with pytest.raises(DataError, match="do not fit the columns"):
        verify(cases=str(cases), out=tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


def test_no_row_chooses_code_and_none_takes_the_file(tmp_path, monkeypatch):
    module = tmp_path / "evil_module_of_a_row.py"
    module.write_text("open('imported', 'w').close()\nclass s:\n    extract = match = staticmethod(print)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rows = [
        *({"gold": "5", "pred": "7", name: f"{module.stem}:s"} for name in ("family", "kind", "task")),
        {"gold": "5", "pred": "5", "family": ["x"]},
        {"gold": "5", "pred": "5", "family": {"a": 1}, "candidates": ["1", ""], "task": 7},
        {"gold": ["5"], "pred": {"answer": 5}, "kind": []},
        {"gold": "x^2+y^2=9", "pred": r"\\boxed{\\sqrt{x^2+y^2}=3}"},
        {"gold": "\ud800", "pred": "\ud800"},
    ]
    cases, out = tmp_path / "cases.jsonl", tmp_path / "out.jsonl"
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    result = runner.invoke(app, [str(cases), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "imported").exists()
    assert [json.loads(line)["verdict"] for line in out.read_text("utf-8").splitlines()][:3] == ["different"] * 3
    assert "is none of numeric, latex, choice and text" in " ".join(result.output.split())


def test_a_label_that_decides_the_reading_is_told(tmp_path):
    cases = tmp_path / "cases.jsonl"
    cases.write_text('{"gold": "0.5", "pred": "1/2", "kind": "text"}\n{"gold": "1", "pred": "1", "kind": "hard"}\n')
    result = runner.invoke(app, [str(cases)])
    assert "1 rows: read as text, for `kind` says so" in " ".join(result.output.split())


def test_a_policy_is_switched_by_an_option():
    pair = ["--why", "5 cm", "5 m"]
    assert "verdict  equal" not in runner.invoke(app, pair).output
    assert "verdict  equal" in runner.invoke(app, [*pair, "--policy", "units=ignore"]).output
    for wrong in ("unit=ignore", "units=drop", "units", "convert_units=1", "__class__=x"):
        result = runner.invoke(app, [*pair, "--policy", wrong])
        assert result.exit_code == 2
        assert "expected" in result.output


SCORED = """
from lema_core import FieldMapping, Judge, Score, Task
MAPPING = FieldMapping(question="question", gold="gold")
def alone(question, gold, text, context):
    return Score("right" if gold in text and question else "wrong", f"{len(context.candidates or ())} choices")
async def asking(question, gold, text, context):
    return Score(await context.ask(f"{question} {gold} {text}"), "by the judge")
ALONE = Task(name="alone", prompts="gsm8k", mapping=MAPPING, scorer=alone)
ASKING = Task(name="asking", prompts="gsm8k", mapping=MAPPING, scorer=asking, judge=Judge(endpoint="judge"))
PLAIN = Task(name="plain", prompts="gsm8k", mapping=MAPPING, family="numeric")
"""
JUDGED = """
name = "judged"
[questions]
task = "numeric"
path = "cases.jsonl"
[[students]]
endpoint = "judge"
[endpoints.judge]
model = "judge"
base_url = "{url}"
"""
TEXTS = [
    {"question": "one?", "gold": "7", "pred": "it is 7", "equal": True},
    {"question": "two?", "gold": "8", "pred": "it is 9", "equal": False, "candidates": ["8", "9"]},
    {"question": "two?", "gold": "8", "pred": "it is 9", "equal": True},
]


def judgement(request):
    text = "right" if "one?" in request.body["messages"][-1]["content"] else "wrong"
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    return Reply(200, {"object": "chat.completion", "model": "judge", "choices": choices, "usage": usage})


@pytest.fixture
def scored(tmp_path):
    """Give the words that score TEXTS by a task, and the endpoint that its judge is."""
    (tmp_path / "mine.py").write_text(SCORED)
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(text) + "\n" for text in TEXTS))
    with SimulatedEndpoint(Library(), respond=judgement).in_thread() as endpoint:
        (tmp_path / "run.toml").write_text(JUDGED.replace("{url}", endpoint.url))

        def words(task, *more):
            out = ["--out", str(tmp_path / "out.jsonl"), "--root", str(tmp_path / "root")]
            return [str(cases), "--task", f"{tmp_path / 'mine.py'}:{task}", *out, *map(str, more)]

        yield words, endpoint


def written(tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    return [(row["verdict"], row["layer"], row["ground"]) for row in rows]


def test_a_tasks_scorer_judges_the_texts(scored, tmp_path):
    words, endpoint = scored
    result = runner.invoke(app, words("ALONE"))
    assert result.exit_code == 0, result.exception
    assert written(tmp_path) == [
        ("right", "scorer", "0 choices"), ("wrong", "scorer", "2 choices"), ("wrong", "scorer", "0 choices"),
    ]  # fmt: skip
    assert "agreement 2 of 3" in result.stdout
    assert "labelled right" in result.stdout
    assert endpoint.stats.counts["hits"] == 0


def test_a_judge_is_asked_through_the_runs_ledger_and_budget(scored, tmp_path):
    words, endpoint = scored
    run_file = tmp_path / "run.toml"
    for _ in range(2):
        result = runner.invoke(app, words("ASKING", "--run", run_file))
        assert result.exit_code == 0, result.exception
        assert [verdict for verdict, *_ in written(tmp_path)] == ["right", "wrong", "wrong"]
    assert endpoint.stats.counts["ok"] == 2, "two prompts, each paid once"
    run_file.write_text(run_file.read_text() + "[budget]\ntokens = 30\n")
    cases = tmp_path / "cases.jsonl"
    cases.write_text(cases.read_text().replace("two?", "three?"))
    stopped = runner.invoke(app, words("ASKING", "--run", run_file))
    assert isinstance(stopped.exception, BudgetExceededError)
    assert endpoint.stats.counts["ok"] == 2


def test_what_cannot_be_scored_is_refused_before_anything_is_asked(scored, tmp_path):
    words, endpoint = scored
    run_file = tmp_path / "run.toml"
    for wanted, said in (
        (words("ASKING"), "asks a judge, the endpoint 'judge'"), (words("PLAIN"), "has no scorer"),
    ):  # fmt: skip
        refused = runner.invoke(app, wanted)
        assert isinstance(refused.exception, ConfigError)
        assert said in str(refused.exception)
    run_file.write_text(
        run_file.read_text().replace("endpoints.judge", "endpoints.other").replace('"judge"', '"other"')
    )
    assert "[endpoints.judge]" in str(runner.invoke(app, words("ASKING", "--run", run_file)).exception)
    with (tmp_path / "cases.jsonl").open("a") as file:
        file.write('{"question": "no gold", "pred": "7"}\n')
    (tmp_path / "run.toml").write_text(JUDGED.replace("{url}", endpoint.url))
    assert isinstance(runner.invoke(app, words("ASKING", "--run", run_file)).exception, DataError)
    assert runner.invoke(app, [str(tmp_path / "cases.jsonl"), "--run", str(run_file)]).exit_code == 2
    assert endpoint.stats.counts["hits"] == 0


def test_a_judge_that_refuses_everything_ends_with_its_words(scored, tmp_path):
    words, endpoint = scored
    endpoint.respond = lambda _: Reply(400, {"error": {"message": "no such effort"}})
    refused = runner.invoke(app, words("ASKING", "--run", tmp_path / "run.toml"))
    assert isinstance(refused.exception, EndpointError)
    assert "no such effort" in str(refused.exception)
