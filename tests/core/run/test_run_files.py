from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from lema_core.errors import ConfigError
from lema_core.run.files import read_run_file, run_options

ROOT = Path(__file__).resolve().parents[3]

SMALL = """
name = "small"
[questions]
task = "arithmetic"
limit = 10
[endpoints.student]
model = "m"
base_url = "http://127.0.0.1:1/v1"
[[students]]
endpoint = "student"
samples = 2
"""


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(SMALL)
    return path


def test_settings_are_laid_over_the_file(run_file):
    run = read_run_file(run_file, ["students.0.samples=7", "questions.limit=3", "name=other", "title=Two words"])
    assert (run.students[0].samples, run.questions.limit, run.name, run.title) == (7, 3, "other", "Two words")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("questions.limt=3", r"questions\.limt: there is no such option; did you mean 'limit'"),
        ("students.0.sample=3", r"students\.0\.sample: .*did you mean 'samples'"),
        ("endpoints.student.modl=x", r"modl: .*did you mean 'model'"),
        ("students.0.endpoint=teacher", r"no \[endpoints\.teacher\]"),
        ("questions.limit=many", r"questions\.limit: Input should be a valid integer"),
        ("students.0.samples=0", r"students\.0\.samples: .*greater than or equal to 1"),
        ("students.3.samples=1", "must be a position from 0 to 0"),
        ("students.².samples=2", "must be a position from 0 to 0"),
        ('endpoints={"../x"={model="m"}}', r"endpoints\.\.\./x.*should match"),
        ('endpoints={".x"={model="m"}}', "should match"),
        ('arms={"a/b"={views=[{rows="corrections", format="correction"}]}}', "a/b.*should match"),
        ("nonsense", "not of the form"),
        ("name.x=1", "is a value, not a section"),
        ("corrections.endpoint=student", None),
    ],
)
def test_a_wrong_option_is_named_with_its_remedy(run_file, setting, message):
    if message is None:
        assert read_run_file(run_file, [setting]).corrections
        return
    with pytest.raises(ConfigError, match=message):
        read_run_file(run_file, [setting])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["runtime.workers=2", "runtime.scheduler=tcp://127.0.0.1:8786"], "set one of them"),
        (["runtime.scheduler=tcp://10.0.0.5:8786"], "PostgreSQL"),
        (["runtime.scheduler=10.0.0.5"], "runtime.scheduler"),
        (["runtime.workers=0"], "runtime.workers"),
    ],
)
def test_a_cluster_that_would_pay_twice_is_refused(run_file, settings, message):
    with pytest.raises(ConfigError, match=message):
        read_run_file(run_file, settings)


def test_a_cluster_is_a_line_of_the_run_file(run_file):
    assert read_run_file(run_file, ["runtime.workers=2"]).runtime.workers == 2
    elsewhere = ["runtime.scheduler=tcp://10.0.0.5:8786", "runtime.ledger=postgresql://10.0.0.5/lema"]
    assert read_run_file(run_file, elsewhere).runtime.scheduler == "tcp://10.0.0.5:8786"


def test_a_missing_file_and_broken_toml_are_told(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_run_file(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[questions\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_run_file(tmp_path / "bad.toml")


def test_all_mistakes_are_listed_at_once(tmp_path):
    (tmp_path / "bad.toml").write_text('name = "Bad Name"\n[questions]\ntask = "arithmetic"\nlimits = 3\n')
    with pytest.raises(ConfigError) as caught:
        read_run_file(tmp_path / "bad.toml")
    assert "name:" in str(caught.value)
    assert "did you mean 'limit'" in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "deployments" / "runs").glob("*.toml")), ids=lambda p: p.stem)
def test_the_shipped_run_files_are_valid(path):
    assert read_run_file(path).name


def test_an_arm_of_one_corrector_names_an_endpoint_and_means_its_model(run_file):
    run_file.write_text(
        SMALL + '[corrections]\nendpoint = "big"\nalso = ["small"]\n[mixture]\narms = ["corrector_small"]\n'
        '[endpoints.big]\nmodel = "m-70b"\nbase_url = "http://127.0.0.1:1/v1"\n'
        '[endpoints.small]\nmodel = "m-7b"\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    arm = read_run_file(run_file).arm("corrector_small")
    assert {view.where.correctors for view in arm.views if view.rows == "corrections"} == {("m-7b",)}
    with pytest.raises(ConfigError, match="needs the corrector 'other'; the run's are: big, small"):
        read_run_file(run_file).arm("corrector_other")


def test_a_password_in_the_ledgers_url_is_refused_because_it_would_be_shown(run_file):
    with pytest.raises(ConfigError, match="PGPASSWORD") as refused:
        read_run_file(run_file, ["runtime.ledger=postgresql://me:hunter2@db/ledger"])
    assert "hunter2" not in str(refused.value)


def test_the_options_page_is_what_the_specs_say():
    told = CliRunner().invoke(app, ["options", "--markdown"]).stdout
    assert told == (ROOT / "docs" / "run_file.md").read_text()
    assert {"students", "training.adapter", "endpoints", "budget"} <= run_options().keys()
    one = CliRunner().invoke(app, ["options", "corrections"]).stdout
    assert "Corrections sampled for one mistake" in one
    assert "no section" in str(CliRunner().invoke(app, ["options", "corections"]).output)
