"""``[[test_questions]]``: several test sets by name in one run file, and what a run of them is made of."""

import json
from pathlib import Path

import pytest
from support import RUN

from lema_core.ablation.cells import expand
from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import ConfigError
from lema_core.llm.requests import CompletionRequest, Sampling
from lema_core.pipeline import Pipeline
from lema_core.run.endpoints import PreparedEndpoints
from lema_core.run.files import read_run_file
from lema_core.run.plan import common_prefix_share
from lema_core.run.spec import RunSpec

EVOLVED = 'evolution={endpoint="reference", draws=6, votes=1}'
MEASURED = ["evaluation.base='student'", "evaluation.samples=2", EVOLVED]
TWO = 'test_questions=[{task="arithmetic", limit=10, seed=3}, {name="other", task="arithmetic", limit=5, seed=9}]'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN.replace("{url}", "http://127.0.0.1:1/v1"))
    return path


def refs(file: Path, *settings: str) -> dict[str, str]:
    pipeline = Pipeline(read_run_file(file, [*MEASURED, *settings]), str(file.parent / "out"))
    return {stage.title: stage.ref.folder for stage in pipeline.stages()}


def test_one_table_and_a_list_of_one_are_the_same_run(file: Path) -> None:
    listed = 'test_questions=[{task="arithmetic", limit=10, seed=3}]'
    assert refs(file) == refs(file, listed)


def test_each_set_has_questions_and_answers_of_its_own(file: Path) -> None:
    one, two = refs(file), refs(file, TWO)
    assert two["test_questions: arithmetic"] == one["test_questions"]
    assert two["evaluation: base on arithmetic"] == one["evaluation: base"], "a further set asks nothing again"
    assert two["votes: base on arithmetic"] == one["votes: base"]
    assert two["evaluation: base on other"] != two["evaluation: base on arithmetic"]
    assert len({two["test_questions: arithmetic"], two["test_questions: other"]}) == 2


def test_what_must_not_be_trained_on_is_known_of_every_set(file: Path) -> None:
    one, two = refs(file), refs(file, TWO)
    for stage in ("mixture: cot", "mixture: lema", "evolution_novel: centric 1"):
        assert one[stage] != two[stage]
    for stage in ("reasoning_paths", "corrections", "evolution_created: centric 1"):
        assert one[stage] == two[stage], "paid requests do not depend on what is measured"


def test_a_name_stands_for_the_test_part_of_a_task(file: Path) -> None:
    run = read_run_file(file, ['test_questions=["gsm8k", "svamp", {task="asdiv", limit=3}]'])
    assert [(name, spec.split, spec.limit) for name, spec in run.test_sets.items()] == [
        ("gsm8k", "test", None), ("svamp", "test", None), ("asdiv", "test", 3),
    ]  # fmt: skip
    for document in (run.model_dump(exclude_unset=True), json.loads(run.model_dump_json())):
        assert RunSpec.model_validate(document) == run


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ('["svamp", "svamp"]', "two test sets are called 'svamp'"),
        ("[]", "empty list"),
        ('[{task="svamp", limt=3}]', r"test_questions\.0\.limt: .*did you mean 'limit'"),
        ('{task="svamp", limt=3}', r"test_questions\.limt: .*did you mean 'limit'"),
        ('[{task="svamp", name="a b"}]', r"test_questions\.0\.name"),
        ("3", "test_questions: Input should be"),
    ],
)
def test_a_wrong_list_is_reported_with_its_place(file: Path, listed: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_run_file(file, [f"test_questions={listed}"])


@pytest.mark.parametrize(
    ("command", "filled"),
    [
        ("s --questions {test_questions} -x", "s --questions {a} --questions {b} -x"),
        ("s --questions={test_questions}", "s --questions={a} --questions={b}"),
        ("s {test_questions} end", "s {a} {b} end"),
        ("s --q {questions}", "s --q {own}"),
    ],
)
def test_a_servers_command_is_given_every_test_set(file: Path, command: str, filled: str) -> None:
    pipeline = Pipeline(read_run_file(file, [TWO]), str(file.parent / "out"))
    list(pipeline.stages())
    run, store, artifacts = pipeline.run, Store(str(file.parent / "store")), pipeline.artifacts
    a, b = artifacts.all_test_questions
    assert isinstance(artifacts.questions, ArtifactRef)
    folders = {"a": store.local_path(a), "b": store.local_path(b), "own": store.local_path(artifacts.questions)}
    endpoint = run.endpoint("student").model_copy(update={"base_url": None, "command": tuple(command.split())})
    found = PreparedEndpoints(run, store, artifacts).filled(endpoint).command
    assert " ".join(found or ()) == filled.format(**folders)


def test_a_setting_may_be_asked_other_test_sets_but_none_under_a_name_that_is_taken(file: Path) -> None:
    swept = ["ablation.settings.a={}", 'ablation.settings.b={test_questions=[{name="other", task="svamp"}]}']
    one, other = expand(read_run_file(file, ["evaluation.base='student'", *swept]))
    assert [*one.run.test_sets] == ["arithmetic"]
    assert [*other.cells[0].run.test_sets] == ["other"]
    taken = 'ablation.settings.b={test_questions=[{task="arithmetic", limit=3}]}'
    with pytest.raises(ConfigError, match="holds for all cells"):
        expand(read_run_file(file, [taken]))


def test_the_papers_first_table_is_one_sweep(file: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "ablation.md").read_text(encoding="utf-8")
    table = page[page.index("## The paper's Table 1") :].split("```toml\n")[1].split("```")[0]
    for name in ("7b", "13b"):
        table += f'\n[endpoints.{name}]\nmodel = "{name}"\nbase_url = "http://127.0.0.1:1/v1"\n'
    table += '[training]\nbase = "x"\n[evaluation]\nbase = "7b"\nserve = { model = "m", command = "m" }\n'
    file.write_text(file.read_text() + table)
    settings = expand(read_run_file(file))
    asked = {setting.name: [*setting.run.test_sets] for setting in settings}
    assert asked == {"gsm8k": ["gsm8k", "svamp", "asdiv"], "math": ["math"], "csqa": ["csqa"]}
    cells = [(cell.base, cell.arm) for setting in settings for cell in setting.cells]
    assert len(cells) == 3 * 2 * 3


def test_the_common_beginning_of_prompts_is_measured() -> None:
    def asked(*texts: str) -> list[CompletionRequest]:
        return [CompletionRequest(({"role": "user", "content": text},), Sampling(), 0) for text in texts]

    head = len("user\0")
    assert common_prefix_share(asked("abcd", "abxy")) == pytest.approx((head + 2) / (head + 4))
    assert common_prefix_share(asked("abcd", "abcd")) is None, "one prompt asked twice says nothing"
    assert common_prefix_share(iter(())) is None
