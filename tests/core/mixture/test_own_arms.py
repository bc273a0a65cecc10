import re
import tomllib
from pathlib import Path

import pytest

from lema_core.artifacts import ArtifactRef
from lema_core.errors import ConfigError
from lema_core.mixture import ARMS, ArmSpec, get_arm
from lema_core.run.artifacts import QuestionRound, RunArtifacts
from lema_core.run.files import read_run_file
from lema_core.stages.mixture import Mixture, MixtureSpec

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "ablation.md").read_text(encoding="utf-8")
RUN = """
name = "own"
[questions]
task = "arithmetic"
limit = 10
[mixture]
arms = ["mine", "cot"]
"""
MINE = """
[arms.mine]
about = "corrections alone"
views = [{ rows = "corrections", format = "correction" }]
"""
MATCHED = MINE + 'fill = [{ rows = "right_paths", format = "cot" }]\nmatch = { arm = "lema_same_size", by = "rows" }'


def read(tmp_path, text, *settings):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return read_run_file(path, settings)


def identity(arm, seed=0, corrector="c"):
    made = RunArtifacts(questions=ArtifactRef("questions", "q"))
    one = made.add_round(QuestionRound(made.questions))
    one.verdicts.append(ArtifactRef("verdicts", "v"))
    one.corrections["teacher"] = ArtifactRef("corrections", corrector)
    return Mixture(MixtureSpec(seed=seed), arm, "arithmetic", tuple(made.rounds)).ref.fingerprint


EVOLVING = """
[evolution]
endpoint = "e"
[[students]]
endpoint = "e"
[corrections]
endpoint = "e"
[endpoints.e]
model = "m"
base_url = "http://127.0.0.1:1/v1"
"""


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [('"general"', "general"), ('"general","centric"', "general"), ('"centric","general"', "centric")],
)
def test_a_rounds_student_learns_from_the_kind_that_its_rounds_collected(tmp_path, kinds, kind):
    run = read(tmp_path, RUN + MINE + EVOLVING, f"evolution.kinds=[{kinds}]")
    assert run.arm("round_1").views[-1].where.evolution == ("none", kind)
    assert run.evolution.kinds_in(2) == (kind,)


def test_critique_fine_tuning_written_in_the_page_is_the_bundled_arm():
    (text,) = re.findall(r"```toml\n(\[arms\.cft\].*?)```", PAGE, re.DOTALL)
    own = {name: ArmSpec.model_validate(arm) for name, arm in tomllib.loads(text)["arms"].items()}
    assert get_arm("cft", own).identity == get_arm("critique").identity


def test_the_definition_decides_the_rows_and_neither_name_nor_words_do(tmp_path):
    first = read(tmp_path, RUN + MINE).arm("mine")
    again = first.model_copy(update={"name": "other", "about": "other words"})
    heavier = read(tmp_path, RUN + MINE.replace('"correction" }', '"correction", weight = 2 }')).arm("mine")
    assert identity(first) == identity(again)
    assert identity(first) != identity(heavier)
    assert identity(first) != identity(first, seed=1)


def test_another_corrector_makes_no_arm_anew_that_reads_no_corrections():
    for name, same in {"cot": True, "lema": False, "cot_same_tokens": False, "critique": False}.items():
        arm = get_arm(name)
        assert (identity(arm) == identity(arm, corrector="other")) is same, name


def test_an_arm_is_brought_to_the_size_of_an_own_arm(tmp_path):
    sized = """
[arms.sized]
views = [{ rows = "rationales", format = "cot" }]
fill = [{ rows = "right_paths", format = "cot" }]
match = { arm = "mine", by = "rows" }
"""
    run = read(tmp_path, RUN + MINE + sized)
    assert run.arm("sized").target == run.arm("mine").views
    other = read(tmp_path, RUN + MINE.replace('"correction" }', '"critique" }') + sized)
    assert identity(run.arm("sized")) != identity(other.arm("sized"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN, r"no arm 'mine'.*a new one is defined as \[arms\.mine\]"),
        (RUN.replace("mine", "lemma"), "Did you mean 'lema'"),
        (RUN + MINE.replace("arms.mine", "arms.mien"), "Did you mean 'mien'"),
        (RUN + MINE.replace("arms.mine", "arms.cot"), r"\[arms\.cot\]: the name is taken"),
        (RUN + MINE.replace("arms.mine", "arms.base"), r"\[arms\.base\]: the name is taken"),
        (RUN + MINE + 'match = { arm = "cot", by = "rows" }', "fill and match go together"),
        (RUN + MINE.replace("views", "view"), r"arms\.mine\.view: there is no such option; did you mean 'views'"),
        (RUN + MINE.replace('"correction"', '"corection"'), r"arms\.mine\.views\.0\.format: Input should be"),
        (RUN + "[arms.mine]\nviews = []", r"arms\.mine\.views: .*at least 1"),
        (
            RUN + MINE + 'fill = [{ rows = "right_paths", format = "cot" }]\nmatch = { arm = "lemma", by = "rows" }',
            "Did you mean 'lema'",
        ),
        (RUN + MATCHED.replace("lema_same_size", "cot_same_tokens"), "'mine' is to be brought .* such as 'lema'"),
        (RUN + MATCHED.replace("lema_same_size", "mine"), "'mine' is to be brought to the size of 'mine'"),
    ],
)
def test_a_wrong_arm_is_told_before_anything_is_paid(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.compile(message, re.DOTALL)):
        read(tmp_path, text)


@pytest.mark.parametrize("name", ARMS)
def test_every_bundled_arm_knows_the_size_it_is_brought_to(name):
    arm = get_arm(name)
    assert bool(arm.target) == bool(arm.match) == bool(arm.fill)
