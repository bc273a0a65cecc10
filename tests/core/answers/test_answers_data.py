"""The matcher on real data: every corpus gold, real solutions, the peers' cases, the step checker's corpora."""

import json
import re
from pathlib import Path

import pytest

from lema_core.answers import extract, judge, match
from lema_core.answers.judge import verify_pair
from lema_core.answers.results import family_of
from lema_core.step_checker import false_equations

DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data"
CASES = DATA / "verify_cases"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not DATA.is_dir(), reason="no data folder beside the project")]


def rows(path):
    return [json.loads(line) for line in (DATA / path).read_text("utf-8").splitlines()]


def judged_right(text, gold, family, candidates=None):
    return (
        judge(text, gold, family, candidates).verdict == "right"
        and match(gold, gold, family, candidates).outcome == "equal"
    )


def test_every_gsm8k_and_svamp_gold():
    for name in ("train", "test"):
        for row in rows(f"gsm8k/{name}.jsonl"):
            assert judged_right(row["answer"], row["answer"].rpartition("####")[2].strip(), "numeric")
    for row in json.loads((DATA / "svamp/SVAMP.json").read_text("utf-8")):
        assert judged_right(f"The answer is {row['Answer']}.", str(row["Answer"]), "numeric")


def test_every_numeric_asdiv_gold():
    answers = re.findall("<Answer>(.*?)</Answer>", (DATA / "asdiv/ASDiv.xml").read_text("utf-8"))
    numeric = [answer for answer in answers if re.fullmatch(r"-?[0-9][0-9.,/]*\s*(?:\([^)]*\))?", answer)]
    assert len(numeric) >= 2084
    for answer in numeric:
        assert judged_right(f"The answer is {answer}.", answer, "numeric"), answer


def test_every_math_gold():
    for row in rows("math/test.jsonl"):
        gold = extract(row["solution"], "latex").value
        assert gold is not None
        assert judged_right(row["solution"], gold, "latex"), gold


def test_every_csqa_gold_by_text_and_by_letter():
    for name in ("train", "dev"):
        for row in rows(f"csqa/{name}_rand_split.jsonl"):
            candidates = tuple(choice["text"] for choice in row["question"]["choices"])
            gold = candidates["ABCDE".index(row["answerKey"])]
            for text in (f"The answer is {gold}.", f"The answer is ({row['answerKey']})."):
                assert judged_right(text, gold, "choice", candidates), (gold, text)


def test_verdicts_on_real_gsm8k_solutions_agree_with_the_recorded_flags():
    solutions = rows("model_solutions/gsm8k_model_solutions.jsonl")
    agreed = sum(
        (judge(row["solution"], row["gold_answer"]).verdict == "right") == row["official_is_correct"]
        for row in solutions
    )
    assert agreed / len(solutions) >= 0.999


@pytest.mark.parametrize(
    "name", ["math_gold_identity", "math_gold_perturbed", "math_gold_rewrites", "real_math_pairs_adjudicated"]
)
def test_pairs_made_from_math_golds_have_no_error(name):
    for row in rows(f"verify_cases/{name}.jsonl"):
        assert (match(row["gold"], row["pred"]).outcome == "equal") == row["equal"], (row["gold"], row["pred"])


FLOORS = {
    "hardverify_math": 0.84,
    "hendrycks_math_tests": 0.9,
    "inspect_ai_tests": 1.0,
    "lighteval_choice_tests": 1.0,
    "lighteval_extra_tests": 1.0,
    "mario_eval_tests": 0.93,
    "mathverify_tests": 0.967,
    "nemo_skills_tests": 1.0,
    "reward_tests_misc": 0.96,
}


@pytest.mark.parametrize("name", FLOORS)
def test_peers_own_cases(name):
    cases = rows(f"verify_cases/{name}.jsonl")
    right = sum(
        (verify_pair(row["gold"], row["pred"], family_of(row)).verdict == "equal") == row["equal"] for row in cases
    )
    assert right / len(cases) >= FLOORS[name]


def test_the_step_checker_finds_first_wrong_steps_and_leaves_clean_solutions_alone():
    flagged = exact = 0
    for row in rows("bigbench_mistake/multistep_arithmetic.jsonl"):
        first = next((index for index, step in enumerate(row["steps"]) if false_equations(step)), None)
        if first is not None and row["mistake_index"] is not None:
            flagged += 1
            exact += first == row["mistake_index"]
    assert exact / flagged >= 0.95
    clean = [row for row in json.loads((DATA / "processbench/gsm8k.json").read_text("utf-8")) if row["label"] == -1]
    assert sum(any(map(false_equations, row["steps"])) for row in clean) / len(clean) <= 0.01


def rewrites(gold):
    yield from (
        f"${gold}$",
        f" {gold} ",
        f"{gold}.",
        rf"\({gold}\)",
        rf"\boxed{{{gold}}}",
        gold.replace(r"\frac", r"\dfrac"),
    )
    if re.fullmatch("-?[0-9]+", gold):
        yield from (
            f"x={gold}",
            gold + r"\text{ units}",
            gold + ".0",
            rf"\text{{{gold}}}",
            f"{int(gold):,}",
            rf"\${gold}",
        )
    fraction = re.fullmatch(r"(-?)\\d?frac\{([0-9]+)\}\{([0-9]+)\}", gold)
    if fraction:
        sign, top, bottom = fraction[1], int(fraction[2]), int(fraction[3])
        yield from (
            f"{sign}{top}/{bottom}",
            rf"{sign}\frac{{{3 * top}}}{{{3 * bottom}}}",
            rf"\frac{{{sign}{top}}}{{{bottom}}}",
        )
    if "(" in gold and ")" in gold:
        yield gold.replace("(", r"\left(").replace(")", r"\right)")


def test_every_math_gold_survives_harmless_rewrites_and_no_changed_number():
    golds = dict.fromkeys(extract(row["solution"], "latex").value for row in rows("math/test.jsonl"))
    for gold in golds:
        for rewrite in rewrites(gold):
            assert match(gold, rewrite).outcome == match(rewrite, gold).outcome == "equal", (gold, rewrite)
        number = re.search("[0-9]+", gold)
        if number:
            changed = f"{gold[: number.start()]}{int(number.group()) + 1}{gold[number.end() :]}"
            assert match(gold, changed).outcome != "equal", (gold, changed)
