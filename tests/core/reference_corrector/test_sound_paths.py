"""Right paths by whether their reasoning is sound, and whose fill the cap per question first."""

from dataclasses import replace

import pytest
from rows import judged_path

from lema_core.evaluation.accuracy import compare_models
from lema_core.mixture import ARMS, ArmSpec, RoundData, View, build_arm, get_arm
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Example, Question
from lema_core.reference_corrector.sound_paths import is_sound, is_strictly_right
from lema_core.run.spec import RunSpec

LEO = Question(
    id="q-leo", task="arithmetic", text="Leo has 7 pens. He finds 5 more and gives 3 away. How many does he have?",
    gold="9", rationale="Step 1: Leo has 7 + 5 = 12 pens.\nStep 2: He keeps 12 - 3 = 9 pens.\nThe answer is 9.",
)  # fmt: skip


def leo(text, right=True, **fields):
    return judged_path(LEO, right=right, **({"id": f"p-{hash(text)}", "text": text} | fields))


@pytest.mark.parametrize(
    ("text", "strict", "sound"),
    [
        (LEO.rationale, True, True),
        ("Step 1: He keeps 7 - 3 = 4 pens.\nStep 2: With the others 4 + 5 = 9.\nThe answer is 9.", True, True),
        ("Step 1: He finds some and has 7 + 5 - 3 = 9.\nThe answer is 9.", True, True),
        ("Step 1: 7 - 3 = 2.\nStep 2: 2 + 7 = 9.\nThe answer is 9.", False, False),
        ("Step 1: Leo has 3 + 5 = 8.\nStep 2: He gives 1 + 1 = 2.\nThe answer is 9.", True, False),
        ("The answer is 9.", True, True),
    ],
)
def test_a_right_answer_below_false_steps_or_foreign_equations_is_not_sound(text, strict, sound):
    assert is_strictly_right(leo(text)) is strict
    assert is_sound(leo(text)) is sound
    assert not is_strictly_right(leo(text, right=False))


def test_every_rationale_of_generated_questions_is_sound():
    spec = QuestionsSpec(task="arithmetic", limit=60, seed=3, arithmetic={"min_steps": 2, "max_steps": 5})
    questions = list(read_questions(spec))
    unsound = [q.text for q in questions if not is_sound(judged_path(q, right=True, id=q.id, text=q.rationale))]
    assert not unsound


def test_without_a_rationale_only_arithmetic_is_checked():
    assert is_sound(leo("Step 1: 4 + 5 = 9.\nThe answer is 9.", rationale=None))
    assert not is_sound(leo("Step 1: 4 + 4 = 9.\nThe answer is 9.", rationale=None))


LUCKY = "Step 1: Leo has 3 + 5 = 8.\nStep 2: He gives 1 + 1 = 2.\nThe answer is 9."
SOUND = "Step 1: He keeps 7 - 3 = 4 pens.\nStep 2: With the others 4 + 5 = 9.\nThe answer is 9."
TEACHERS = "Step 1: Together there are 7 + 5 = 12.\nStep 2: Less three, 12 - 3 = 9.\nThe answer is 9."
POOL = (
    RoundData(
        lambda: iter([LEO]),
        lambda: iter([leo(LUCKY, student="s"), leo(SOUND, student="s"), leo(TEACHERS, student="t")]),
        lambda: iter(()),
    ),
)


def outputs(where):
    view = View(rows="right_paths", format="cot", where=where)
    arm = get_arm("mine", {"mine": ArmSpec(views=(view,))})
    return {row.output for row in build_arm(arm, POOL) if isinstance(row, Example)}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, {LUCKY, SOUND, TEACHERS}),
        ({"sound": True}, {SOUND, TEACHERS}),
        ({"sound": False}, {LUCKY}),
        ({"per_question": 1}, {LUCKY}),
        ({"per_question": 1, "sound": True}, {SOUND}),
        ({"per_question": 1, "prefer": ["t"]}, {TEACHERS}),
        ({"per_question": 2, "prefer": ["t"]}, {TEACHERS, LUCKY}),
        ({"skip_per_question": 1, "prefer": ["t"]}, {LUCKY, SOUND}),
    ],
)
def test_a_view_takes_sound_paths_and_those_of_preferred_models_first(where, expected):
    assert outputs(where) == expected


def test_the_options_are_part_of_an_arm_only_where_they_are_set():
    for arm in ARMS.values():
        assert all("sound" not in view["where"] and "prefer" not in view["where"] for view in arm.identity["views"])
    changed = ARMS["cot"].with_paths(sound=True, prefer=("t",)).identity["views"]
    assert [(view["where"].get("sound"), view["where"].get("prefer")) for view in changed] == [
        (None, None), (True, ["t"]),
    ]  # fmt: skip


def test_a_run_file_sets_both_for_all_arms_and_names_teachers_as_rows_do():
    endpoint = {"model": "m", "base_url": "http://127.0.0.1:1/v1"}
    run = RunSpec.model_validate(
        {
            "name": "r", "questions": {"task": "arithmetic"},
            "students": [{"endpoint": "s"}, {"endpoint": "t", "mistakes": False}],
            "mixture": {"arms": ["cot"], "sound_paths": True, "teachers_first": True},
            "endpoints": {"s": endpoint, "t": endpoint | {"identity": "the teacher"}},
        }
    )  # fmt: skip
    rationales, paths = run.arm("cot").views
    assert (paths.where.sound, paths.where.prefer) == (True, ("the teacher",))
    assert (rationales.where.sound, rationales.where.prefer) == (None, None)
    plain = run.model_copy(
        update={"mixture": run.mixture.model_copy(update={"sound_paths": False, "teachers_first": False})}
    )
    assert plain.arm("cot") == ARMS["cot"]


def test_an_evaluation_counts_answers_that_are_right_without_a_false_step():
    rows = [leo(text, question_id=f"q{n}") for n, text in enumerate((LEO.rationale, "7 - 3 = 2. The answer is 9."))]
    rows.append(replace(leo("Step 1: 7 + 5 = 12.\nThe answer is 12.", right=False), question_id="q3"))
    (score,) = compare_models(rows, {}).scores
    assert (score.accuracy.successes, score.strict.successes, score.strict.n) == (2, 1, 3)
