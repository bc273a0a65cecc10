"""Arms over one pool: each holds what its definition says, nothing is lost, the order is the seed's."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from rows import correction_of, judged_path

from lema_core.corrections import ParsedCorrection, parse_correction
from lema_core.errors import ConfigError, DataError
from lema_core.mixture import (
    ARMS,
    Arm,
    MixtureRules,
    RoundData,
    View,
    build_arm,
    count_words,
    example_of_correction,
    get_arm,
    held_out_questions,
    preference_of_correction,
)
from lema_core.mixture.building import Shuffle
from lema_core.prompts import path_input
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.questions.near_duplicates import KnownQuestions
from lema_core.records import Correction, Example, JudgedPath, Rejection

QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=60)))
EVOLVED = list(read_questions(QuestionsSpec(task="arithmetic", limit=10, seed=9)))


def path(question, index, *, right=True, student="s1") -> JudgedPath:
    text = question.rationale if right else question.rationale.replace(question.gold, "77")
    # Each right path says it in other words: equal ones would be dropped as repetitions.
    text = text.replace("has", f"has{'' if not index else ' then' * index}")
    return judged_path(
        question,
        right=right,
        id=f"path-{question.id}-{index}-{student}",
        student=student,
        sample_index=index,
        text=text,
    )


def correction(question, *, corrector="gpt", student="s1") -> Correction:
    return correction_of(
        question,
        id=f"correction-{question.id}-{corrector}-{student}",
        path_id=f"path-{question.id}",
        student=student,
        corrector=corrector,
        original=question.rationale.replace(f"= {question.gold}", "= 77").replace(f"is {question.gold}", "is 77"),
        explanation=f"The last sum is not 77 ({corrector}).",
        spliced=question.rationale.replace("has", "now has"),
    )


PATHS = [path(q, i) for q in QUESTIONS for i in range(8)] + [path(q, 0, right=False) for q in QUESTIONS]
CORRECTIONS = [correction(q) for q in QUESTIONS[:30]] + [correction(q, corrector="weak") for q in QUESTIONS[:5]]


def source(questions=QUESTIONS, paths=PATHS, corrections=CORRECTIONS, **tags):
    return RoundData(lambda: iter(questions), lambda: iter(paths), lambda: iter(corrections), **tags)


POOL = (
    source(),
    source(EVOLVED, [path(q, 0) for q in EVOLVED], [correction(q) for q in EVOLVED[:6]], round=1, evolution="centric"),
    source(EVOLVED, [], [correction(q, student="s2") for q in EVOLVED[6:]], round=1, evolution="general"),
)
RULES = MixtureRules(seed=1)


def built(name, pool=POOL, rules=RULES, **of_the_run):
    rows = list(build_arm(get_arm(name, **of_the_run), pool, rules))
    examples = [row for row in rows if isinstance(row, Example)]
    return examples, [row for row in rows if isinstance(row, Rejection)]


def kinds(name):
    return Counter(example.kind for example in built(name)[0])


def tokens(examples):
    """Return the words of the targets."""
    return sum(count_words(example.output) for example in examples)


# 60 rationales; of 8 right paths a question the first equals the rationale and four are taken: 3 remain.
COT = 60 + 60 * 3


# 35 corrections of the own questions and 6 of centric evolution; the 4 of general evolution are its own arm's.
@pytest.mark.parametrize(
    ("arm", "counts"),
    [
        ("cot", {"cot": COT}),
        ("lema", {"cot": COT, "correction": 41}),
        ("lema_same_size", {"cot": COT - 41, "correction": 41}),
        ("cot_corrected", {"cot": COT + 36}),
        ("without_step", {"cot": COT, "correction": 41}),
        ("without_explanation", {"cot": COT, "correction": 36}),
        ("without_solution", {"cot": COT, "correction": 41}),
        ("evolution_none", {"cot": COT, "correction": 35}),
        ("evolution_centric", {"cot": COT, "correction": 41}),
        ("evolution_general", {"cot": COT, "correction": 39}),
        ("round_0", {"cot": COT, "correction": 35}),
        ("round_1", {"cot": COT, "correction": 41}),
        ("corrector_weak", {"cot": COT, "correction": 5}),
        ("critique", {"critique": 41 + 240}),
        ("refinement", {"cot": COT, "refinement": 41}),
    ],
)
def test_an_arm_holds_what_its_definition_says(arm, counts):
    assert kinds(arm) == counts


def test_a_round_takes_the_kind_of_evolution_that_is_carried_through_all_rounds():
    examples, _ = built("round_1", rounds_of="general")
    assert Counter(example.kind for example in examples) == {"cot": COT, "correction": 39}


def test_centric_and_general_evolution_are_compared_over_the_rounds_that_both_have():
    of_round_2 = [correction(q, student="s3") for q in EVOLVED]
    for kind in ("centric", "general"):
        pool = (*POOL, source(EVOLVED, [], of_round_2, round=2, evolution=kind))
        for name in ("evolution_centric", "evolution_general"):
            assert len(built(name, pool)[0]) == len(built(name)[0]), (kind, name)


def test_a_token_matched_arm_has_the_other_arms_tokens_to_within_one_example():
    for name, other in (("cot_same_tokens", "lema"), ("lema_same_tokens", "cot")):
        examples, _ = built(name)
        target = tokens(built(other)[0])
        longest = max(tokens([example]) for example in examples)
        assert target - longest < tokens(examples) <= target


@pytest.mark.parametrize("name", ARMS)
def test_rows_in_are_rows_out_plus_rejected_and_no_id_repeats(name):
    examples, rejected = built(name)
    assert len({example.id for example in examples}) == len(examples)
    again, rejected_again = built(name)
    assert (examples, rejected) == (again, rejected_again)
    reasons = Counter(row.reason for row in rejected)
    assert set(reasons) <= {"duplicate_example", "over_size"}
    if name == "lema_same_size":
        assert reasons["over_size"] == 41


def test_thinking_that_a_repetition_loses_has_a_reason_of_its_own():
    question = QUESTIONS[0]
    same = replace(path(question, 0), text=question.rationale, thinking="Let me add.")
    pool = [RoundData(lambda: [question], lambda: [same], list)]
    arm = get_arm("cot", {})
    rows = list(build_arm(arm, pool))
    assert [row.thinking for row in rows if isinstance(row, Example)] == [""]
    assert [row.reason for row in rows if isinstance(row, Rejection)] == ["duplicate_but_thinking"]


def shuffled(rows, seed):
    with Shuffle(seed) as shuffle:
        for row in rows:
            shuffle.add(row)
        return list(shuffle.rows())


def test_the_order_is_the_seeds_and_not_the_pools():
    first, _ = built("lema")
    other_seed, _ = built("lema", rules=MixtureRules(seed=2))
    assert [example.id for example in first] != [example.id for example in other_seed]
    assert {example.id for example in first} == {example.id for example in other_seed}
    rows = [replace(example) for example in first]
    random.Random(0).shuffle(rows)  # noqa: S311
    assert shuffled(rows, 1) == first


def test_a_shuffle_keeps_every_row_as_it_is():
    rows = [
        Example(id=f"e{n}", kind="cot", source_id="s", question_id="q", input="\ud800 x\n", output="π", weight=0.5)
        for n in range(200)
    ]
    out = shuffled(rows, 0)
    assert sorted(out, key=lambda row: row.id) == sorted(rows, key=lambda row: row.id)
    assert out != rows


def test_test_questions_and_held_out_ones_are_rejected_and_counted():
    shouted = KnownQuestions([QUESTIONS[0].text.upper().replace(" ", "  ")])
    held = {question.id for question in held_out_questions(QUESTIONS, 5)}
    assert len(held) == 5
    rules = MixtureRules(seed=1, test_questions=shouted, held_out=held | {QUESTIONS[0].id})
    examples, rejected = built("lema", rules=rules)
    left_out = held | {QUESTIONS[0].id}
    assert not {example.question_id for example in examples} & left_out
    reasons = Counter(row.reason for row in rejected)
    assert reasons["test_overlap"] >= 5
    assert reasons["held_out"] >= 25 - 5


def test_held_out_questions_do_not_depend_on_the_order():
    assert held_out_questions(QUESTIONS, 7, 3) == held_out_questions(QUESTIONS[::-1], 7, 3)


def test_a_cot_example_is_the_zero_shot_prompt_and_the_path():
    examples, _ = built("cot")
    question = QUESTIONS[0]
    example = next(row for row in examples if row.source_id == question.id)
    assert example.input == path_input("arithmetic", question.text)
    assert example.output == question.rationale


def test_a_correction_example_reads_back_as_the_correction():
    row = CORRECTIONS[0]
    example = example_of_correction(row, "correction")
    assert example.input.endswith("}\nIncorrect Step:")
    assert row.original in example.input
    parsed = parse_correction(example.output)
    assert isinstance(parsed, ParsedCorrection)
    assert (parsed.step, parsed.explanation) == (row.step, row.explanation)
    assert example.output.endswith(f"{row.correct_solution}\n}}")


def test_the_ablations_leave_out_exactly_one_part():
    row = CORRECTIONS[0]
    whole = example_of_correction(row, "correction").output
    without_step = example_of_correction(row, "without_step")
    assert whole == f"Step {row.step}.\n{without_step.output}"
    assert not without_step.input.endswith("Incorrect Step:")
    assert example_of_correction(row, "without_explanation").output == whole.replace(
        f"Explanation: {row.explanation}\n", ""
    )
    assert whole.startswith(example_of_correction(row, "without_solution").output + "\nCorrect Solution:")


def test_added_methods_have_their_inputs_and_outputs():
    row = CORRECTIONS[0]
    critique = example_of_correction(row, "critique")
    assert row.original in critique.input
    assert critique.output == f"Step {row.step} is wrong. {row.explanation}\nConclusion: wrong."
    refinement = example_of_correction(row, "refinement")
    assert row.explanation in refinement.input
    assert refinement.output == row.spliced
    outputs = {example.output for example in built("critique")[0]}
    assert "Every step of the solution is correct.\nConclusion: right." in outputs


def test_an_arm_that_cannot_reach_its_size_says_what_is_wanting():
    few = (source(paths=PATHS[:8]),)
    with pytest.raises(DataError, match="more are required, but the pool has only"):
        built("cot_same_tokens", few)
    many = (source(questions=QUESTIONS[:2], paths=[]),)
    with pytest.raises(DataError, match="its fixed part alone has"):
        built("lema_same_size", many)
    with pytest.raises(DataError, match="The arm cot has no example"):
        built("cot", (source([], [], []),))


def test_an_unknown_arm_is_refused():
    with pytest.raises(ConfigError, match="no arm 'lemma'"):
        get_arm("lemma")


def test_a_preference_pair_shares_the_steps_before_the_wrong_one_and_compares_one_step() -> None:
    row = replace(
        CORRECTIONS[0],
        original="Step 1: 2 + 3 = 5.\nStep 2: 5 + 4 = 10.\nStep 3: 10 - 1 = 9.\nThe answer is 9.",
        step=2,
        spliced="Step 1: 2 + 3 = 5.\nStep 2: 5 + 4 = 9.\nStep 3: 9 - 1 = 8.\nThe answer is 8.",
    )
    pair = preference_of_correction(row)
    assert pair.prefix == "Step 1: 2 + 3 = 5.\n"
    assert (pair.output, pair.worse) == ("Step 2: 5 + 4 = 9.\n", "Step 2: 5 + 4 = 10.\n")
    assert row.question in pair.input
    last = preference_of_correction(replace(row, step=3, original="Step 1: a.\nStep 2: b.\nStep 3: 9 + 1 = 9."))
    assert last.output.endswith("\n")
    assert last.worse == "Step 3: 9 + 1 = 9.", "nothing follows it: the model may stop there"


def test_every_correction_becomes_one_pair_and_equal_steps_are_rejected() -> None:
    examples, rejected = built("step_dpo")
    assert {e.kind for e in examples} == {"preference"}
    assert all(e.worse and e.worse != e.output for e in examples)
    assert len(examples) + len(rejected) == len(CORRECTIONS) + 6, "the 4 of general evolution are the control's"
    same = replace(CORRECTIONS[0], spliced=CORRECTIONS[0].original)
    _, refused = built("step_dpo", pool=(source(corrections=[same, CORRECTIONS[1]]),))
    assert [row.reason for row in refused] == ["no_preference"]


def test_preference_pairs_have_an_arm_of_their_own_and_come_from_corrections() -> None:
    with pytest.raises(ValueError, match="made from corrections"):
        View(rows="right_paths", format="preference")
    pairs = View(rows="corrections", format="preference")
    with pytest.raises(ValueError, match="an arm of their own"):
        Arm(name="x", about="x", views=(pairs, View(rows="corrections", format="correction")))
