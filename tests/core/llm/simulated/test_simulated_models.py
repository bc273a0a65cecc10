import json
from fractions import Fraction
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lema_core.answers import judge
from lema_core.corrections import parse_correction
from lema_core.corrections.parsing import ParsedCorrection
from lema_core.errors import ConfigError, DataError
from lema_core.llm.simulated import Library, Models, UnknownModelError, UnknownQuestionError, parse_faults
from lema_core.llm.simulated.models import count_tokens, read_request
from lema_core.llm.simulated.solutions import LEAD_IN, Skeletons, rewrite, solve, vary
from lema_core.prompts import correction_prompt, evolution_prompt, path_prompt
from lema_core.reference_corrector import Problem
from lema_core.steps import split_path

SHARED = Path(__file__).resolve().parents[4] / ".." / "shared" / "data" / "gsm8k"
EGGS = Problem(
    "Last week Janet sold 16 eggs. She ate 3 and gave 4 to Ben. Each of the rest costs $2. How much is that?",
    "18",
    "Step 1: Left are 16 - 3 - 4 = 9 eggs.\nStep 2: They cost 9 * 2 = 18 dollars.\nThe answer is 18.",
)
BANK = Problem("Where do bankers work?", "bank", None, ("bank", "mall", "pond"))


def rng(seed):
    return Random(seed)  # noqa: S311  # reproducible, not secret


@pytest.fixture
def models():
    library = Library()
    library.add(EGGS)
    library.add(BANK)
    library.record("gpt", EGGS.question, "She has 9 left.\nA: 9")
    library.record("gpt", EGGS.question, "9 * 2 = 18\nA: 18")
    return Models(library, error_rate=0.5)


def ask(models, model, messages, **params):
    return models.answer({"model": model, "messages": list(messages), **params})


def test_prompts_are_read_back():
    path = path_prompt("gsm8k", EGGS.question)[-1]["content"]
    assert (read_request(path).kind, read_request(path).question) == ("path", EGGS.question)
    asked = read_request(correction_prompt("gsm8k", EGGS.question, "She has 9.\nA: 9")[-1]["content"])
    assert (asked.kind, asked.question, asked.steps) == ("correction", EGGS.question, True)
    assert asked.original == "Step 1: She has 9.\nThe answer is 9."
    created = read_request(evolution_prompt("gsm8k", EGGS.question)[-1]["content"])
    assert (created.kind, created.question) == ("evolution", EGGS.question)
    choice = correction_prompt("csqa", BANK.question, "The answer is mall.", BANK.candidates, "choice")[-1]["content"]
    assert (read_request(choice).question, read_request(choice).steps) == (BANK.question, False)
    assert read_request("What is 2 + 2?").question == "What is 2 + 2?"


def test_replay_gives_the_recorded_samples_in_turn(models):
    messages = path_prompt("gsm8k", EGGS.question.replace(" ", "  "))
    answers = [ask(models, "replay/gpt", messages, seed=seed) for seed in range(3)]
    assert answers == ["She has 9 left.\nA: 9", "9 * 2 = 18\nA: 18", "She has 9 left.\nA: 9"]
    with pytest.raises(UnknownQuestionError, match="no recorded solution"):
        ask(models, "replay/gpt", path_prompt("gsm8k", "Another?"))
    with pytest.raises(UnknownModelError, match="replay/gpt"):
        ask(models, "replay/other", messages)
    with pytest.raises(UnknownModelError, match="simulated-student"):
        ask(models, "gpt-9", messages)


def test_corrector_answers_in_both_shapes(models):
    text = ask(models, "reference-corrector", correction_prompt("gsm8k", EGGS.question, "16 - 3 - 4 = 9\nA: 9"))
    parsed = parse_correction(text)
    assert isinstance(parsed, ParsedCorrection)
    assert parsed.answer_line == "The answer is 18."
    prompt = correction_prompt("csqa", BANK.question, "The answer is mall.", BANK.candidates, "choice")
    assert isinstance(parse_correction(ask(models, "reference-corrector", prompt), "choice"), ParsedCorrection)


def test_student_is_a_function_of_question_seed_and_model(models):
    messages = path_prompt("gsm8k", EGGS.question)
    samples = [ask(models, "simulated-student", messages, seed=seed, temperature=0.7) for seed in range(40)]
    assert samples == [ask(models, "simulated-student", messages, seed=seed, temperature=0.7) for seed in range(40)]
    assert samples != [ask(models, "simulated-student/b", messages, seed=seed, temperature=0.7) for seed in range(40)]
    verdicts = [judge(text, EGGS.gold, "numeric").verdict for text in samples]
    assert 8 < verdicts.count("right") < 32
    assert len(set(samples)) > 5
    greedy = {ask(models, "simulated-student", messages, seed=seed, temperature=0) for seed in range(5)}
    assert len(greedy) == 1


def test_teacher_solves_and_creates(models):
    assert (
        judge(ask(models, "simulated-teacher", path_prompt("gsm8k", EGGS.question)), "18", "numeric").verdict == "right"
    )
    created = ask(models, "simulated-teacher", evolution_prompt("gsm8k", EGGS.question), seed=3)
    assert created.startswith("#Created Question#: ")
    question = created.removeprefix("#Created Question#: ")
    assert question != EGGS.question
    answers = [ask(models, "simulated-teacher", path_prompt("gsm8k", question), seed=seed) for seed in range(3)]
    problem = models.library.find(question)
    assert all(judge(text, problem.gold, "numeric").verdict == "right" for text in answers)
    again = ask(models, "simulated-teacher", evolution_prompt("gsm8k", question), seed=3).removeprefix(
        "#Created Question#: "
    )
    assert models.library.find(again) is not None


def test_question_without_numbers_still_varies(models):
    created = ask(models, "simulated-teacher", evolution_prompt("csqa", BANK.question, BANK.candidates), seed=1)
    question = created.removeprefix("#Created Question#: ")
    assert models.library.find(question).candidates == BANK.candidates
    again = ask(models, "simulated-teacher", evolution_prompt("csqa", question, BANK.candidates), seed=1)
    assert models.library.find(again.removeprefix("#Created Question#: ")) is not None


def test_choices_may_be_letters():
    problem = Problem("Where?", "A", None, ("bank", "mall"))
    wrong = solve(problem, rng(1), 1.0)
    assert wrong.endswith("The answer is B.")


def test_rewriting_recomputes_what_depends():
    steps = ["Left are 16 - 3 - 4 = 9 eggs.", "They cost 9 * 2 = 18 dollars, so 18."]
    changed = rewrite(steps, {Fraction(16): Fraction(20)})
    assert changed == ["Left are 20 - 3 - 4 = 13 eggs.", "They cost 13 * 2 = 26 dollars, so 26."]
    assert rewrite(steps, {Fraction(16): Fraction(2)}) is None


def test_rewriting_refuses_a_number_that_would_have_to_become_two():
    steps = ["The boxes hold 2 * 2 = 4 pens.", "She has 4 + 4 = 8 pens."]
    assert rewrite(steps, {Fraction(4): Fraction(9), Fraction(2): Fraction(6)}) is None
    assert rewrite(steps, {Fraction(4): Fraction(36), Fraction(2): Fraction(6)}) is not None


NUMBERS = st.integers(2, 60)


@example(4, 2, 2, 0)
@given(NUMBERS, NUMBERS, NUMBERS, st.integers())
def test_variants_are_found_again_with_their_rationale(a, b, c, seed):
    problem = Problem(
        f"Anna has {a} pens. She buys {b} boxes of {c} pens. How many pens has Anna?",
        str(a + b * c),
        f"Step 1: The boxes hold {b} * {c} = {b * c} pens.\nStep 2: She has {a} + {b * c} = {a + b * c} pens.\n"
        f"The answer is {a + b * c}.",
    )
    text = vary(problem, rng(seed))
    derived = Skeletons([problem]).derive(text)
    assert derived is not None
    assert judge(derived.rationale, derived.gold, "numeric").verdict == "right"
    assert len(split_path(derived.rationale).steps) == 2
    if not text.startswith(LEAD_IN):
        numbers = [int(word.strip(".")) for word in text.split() if word.strip(".").isdigit()]
        assert derived.gold == str(numbers[0] + numbers[1] * numbers[2])


@given(NUMBERS, NUMBERS, NUMBERS, st.integers())
def test_wrong_paths_are_wrong_and_right_ones_right(a, b, c, seed):
    gold = str(a + b * c)
    rationale = f"Step 1: They hold {b} * {c} = {b * c}.\nStep 2: In all {a} + {b * c} = {gold}.\nThe answer is {gold}."
    problem = Problem("How many?", gold, rationale)
    assert judge(solve(problem, rng(seed), 0.0), gold, "numeric").verdict == "right"
    assert judge(solve(problem, rng(seed), 1.0), gold, "numeric").verdict in {"wrong", "none"}


def test_library_reads_many_formats(tmp_path):
    rows = [
        {"question": "A?", "answer": "It is 2 + 2 = <<2+2=4>>4\n#### 4"},
        {"text": "B?", "gold": "5", "rationale": "Step 1: 5.", "candidates": None},
        {"question": "C?", "ground_truth": "3*2=6\nA: 6", "6b": {"is_correct": False, "solution": "A: 7"}},
        {"question": "D?", "gold_answer": "8", "gold_solution": "8", "model": "abel", "solution": "A: 9"},
        {"question": "E?", "gold": "1", "student": "gpt", "text": "The answer is 2.", "rationale": None},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    library = Library.read([tmp_path / "rows.jsonl"])
    golds = {problem.question: problem.gold for problem in library.problems.values()}
    assert golds == {"A?": "4", "B?": "5", "C?": "6", "D?": "8", "E?": "1"}
    assert library.samples("6b", "c?") == ["A: 7"]
    assert library.samples("abel", "D?") == ["A: 9"]
    assert library.samples("gpt", "E?") == ["The answer is 2."]


def test_library_reads_a_folder_of_parquet_parts(tmp_path):
    for part, text in enumerate(("A?", "B?")):
        table = pa.Table.from_pylist([{"text": text, "gold": "1", "rationale": None, "candidates": ["1", "2"]}])
        pq.write_table(table, tmp_path / f"part-{part:05d}.parquet")
        pq.write_table(pa.Table.from_pylist([{"reason": "x"}]), tmp_path / f"rejected-{part:05d}.parquet")
    library = Library.read([tmp_path])
    assert [problem.candidates for problem in library.problems.values()] == [("1", "2"), ("1", "2")]


def test_bad_files_say_what_is_wrong(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        Library.read([tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="holds no questions"):
        Library.read([tmp_path])
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"odd\.jsonl:1 has the fields a"):
        Library.read([tmp_path / "odd.jsonl"])


def test_faults_by_settings():
    assert parse_faults(["latency_s=0.5", "seed=3"]).latency_s == 0.5
    for setting in ("latency_s", "nonsense=1", "server_error=2"):
        with pytest.raises(ConfigError):
            parse_faults([setting])


def test_tokens_are_counted_the_same_everywhere():
    assert count_tokens("She pays $3.50, or 7/2.") == 12


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the shared data folder is not beside the project")
def test_gsm8k_students_and_variants():
    library = Library.read([SHARED / "test.jsonl"])
    problems = list(library.problems.values())[::9]
    verdicts = [judge(solve(one, rng(1), 1.0), one.gold, "numeric").verdict for one in problems]
    assert verdicts.count("right") == 0
    created = [vary(one, rng(1)) for one in problems]
    fresh = [text for text in created if not text.startswith(LEAD_IN)]
    assert len(fresh) > len(created) / 2
    assert all(library.find(text) is not None for text in created)
