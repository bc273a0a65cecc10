"""Evolution: seeds by their count, created questions read, repetitions out, the majority's answer."""

from collections import Counter
from types import SimpleNamespace

import pytest

from lema_core.artifacts import ArtifactRef
from lema_core.errors import DataError
from lema_core.evolution import (
    Novelty,
    answer_by_majority,
    evolution_requests,
    parse_created,
    parse_evolved,
    seed_counts,
)
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import Completion, Failure, Sampling, request_key
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.questions.near_duplicates import KnownQuestions, NearDuplicates
from lema_core.records import Question, Rejection
from lema_core.run.artifacts import QuestionRound
from lema_core.stages.evolution import EvolutionCreated, EvolutionSpec

QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=20)))
SEED = QUESTIONS[0]


def says(text, finish="stop", key="k"):
    return Completion(key, text, finish, 1, 1, "m")


def corrections(counts):
    return [SimpleNamespace(question_id=QUESTIONS[n].id) for n, count in counts.items() for _ in range(count)]


def test_centric_seeds_follow_the_counts_in_the_corrections():
    counts = seed_counts("centric", QUESTIONS, corrections({0: 6, 1: 3, 2: 1}), 10_000)
    assert counts.total() == 10_000
    shares = [counts[QUESTIONS[n].id] / 10_000 for n in range(3)]
    # Three standard errors of a share of 0.6 over 10,000 draws are 0.015.
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.015)
    assert counts == seed_counts("centric", QUESTIONS, corrections({2: 1, 1: 3, 0: 6}), 10_000)
    assert counts != seed_counts("centric", QUESTIONS, corrections({0: 6, 1: 3, 2: 1}), 10_000, seed=1)


def test_general_seeds_come_from_all_questions_alike():
    counts = seed_counts("general", QUESTIONS, corrections({0: 6}), 4_000)
    assert len(counts) == 20
    assert max(counts.values()) < 2 * min(counts.values())


def test_without_corrections_there_is_nothing_to_draw():
    with pytest.raises(DataError, match="there is no accepted correction"):
        seed_counts("centric", QUESTIONS, [], 10_000)


def test_a_question_is_asked_for_once_a_draw():
    counts = Counter({QUESTIONS[3].id: 3, QUESTIONS[1].id: 1})
    wanted = list(evolution_requests(counts, QUESTIONS, Sampling(temperature=1.0)))
    assert [(one.seed, one.draw) for one in wanted] == [(QUESTIONS[1], 0)] + [(QUESTIONS[3], n) for n in range(3)]
    assert len({request_key("m", one.request) for one in wanted}) == 4
    assert wanted[0].request.messages[-1]["content"].endswith(f"#Given Question#: {QUESTIONS[1].text}")


def test_a_later_round_takes_the_same_seeds_and_asks_for_other_questions():
    counts = Counter({QUESTIONS[3].id: 2})
    first = [one.request for one in evolution_requests(counts, QUESTIONS, Sampling(temperature=1.0))]
    second = [one.request for one in evolution_requests(counts, QUESTIONS, Sampling(temperature=1.0), 2)]
    assert [request.sample_index for request in first + second] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("#Created Question#: How many?", "How many?"),
        ("Sure!\n\n**#Created Question#:** How\nmany?\n\nAnswer: 3", "How many?"),
        ("Created Question: How many?\n#Given Question#: x", "How many?"),
        ("How many are left?", "How many are left?"),
        ("#Created Question#: How many?\nThe answer is 7.", "How many?"),
        ("#Created Question#: How many? So the final answer is 7.", "How many?"),
        ("#Created Question#: How many? #Answer#: 7", "How many?"),
        ("#Created Question#: How many? Answer: 7", "How many?"),
        ("#Created Question#: How many?\n\n## Solution\n3 + 4 = 7", "How many?"),
        (
            "#Created Question#: Tom mixes a drink.\nSolution A has 30% acid. How much?",
            "Tom mixes a drink. Solution A has 30% acid. How much?",
        ),
        ("#Created Question#: How much?\nAnswer in cents.", "How much? Answer in cents."),
        ("I would say:\nHow many?", None),
        ("#Created Question#:", None),
        ("", None),
    ],
)
def test_created_questions_are_found_in_what_models_write(text, question):
    parsed = parse_created(text)
    assert (parsed and parsed[0]) == question


def test_created_choices_stand_in_brackets():
    assert parse_created("#Created Question#: Which? [oak; elm; ash]", with_choices=True) == (
        "Which?",
        ("oak", "elm", "ash"),
    )
    assert parse_created("#Created Question#: Which? [oak]", with_choices=True) is None
    assert parse_created("#Created Question#: Which?", with_choices=True) is None


def test_an_answer_becomes_a_question_without_gold_or_a_rejection():
    created = parse_evolved(SEED, 0, says("#Created Question#: Ann has 3 cats. How many legs?", key="paid"))
    assert isinstance(created, Question)
    assert (created.gold, created.seed_question_id, created.origin, created.task) == ("", SEED.id, "paid", SEED.task)
    rejected = [
        parse_evolved(SEED, 0, Failure("k", "deadline", "60 s", 2)),
        parse_evolved(SEED, 1, says("#Created Question#: Ann", "length")),
        parse_evolved(SEED, 2, says("a\nb")),
    ]
    assert [row.reason for row in rejected] == ["request_failed", "cut_off", "unparsable"]
    assert len({row.id for row in rejected}) == 3


def created(text, origin="k"):
    row = parse_evolved(SEED, 0, says(f"#Created Question#: {text}", key=origin))
    assert isinstance(row, Question)
    return row


def test_only_new_questions_pass():
    test = "A farmer has 12 cows and sells 5 of them at the market on Monday. How many cows are left?"
    seeds = [question.text for question in QUESTIONS]
    rows = [
        created("The shelf holds 40 jars of red jam and 12 jars of honey. How many more jars of jam?", "a"),
        created("The shelf holds 40 jars of red jam and 12 jars of honey. How many more jars of jam are there?", "b"),
        created(test.upper(), "c"),
        created(test.replace("Monday", "Friday"), "d"),
        created(SEED.text, "e"),
        created("Nine planes land in an hour, each with 80 people on board. How many people arrive?", "f"),
    ]
    out = list(Novelty([test], seeds).screen(rows))
    reasons = [row.reason if isinstance(row, Rejection) else "new" for row in out]
    assert reasons == ["new", "near_duplicate", "test_overlap", "test_overlap", "near_duplicate", "new"]
    assert {row.request_key for row in out if isinstance(row, Rejection)} == {"b", "c", "d", "e"}


def test_the_majority_answers_by_equivalence():
    question = created("Half of 1?")
    outcomes = [
        says("Step 1: a.\nThe answer is 3."),
        says("The answer is 1/2."),
        says("1 / 2 = 0.5\nThe answer is 0.5."),
    ]
    row = answer_by_majority(question, outcomes)
    assert isinstance(row, Question)
    assert row.gold == "1/2"
    assert row.rationale is not None
    assert row.rationale.endswith("The answer is 1/2.")
    assert row.id == question.id


@pytest.mark.parametrize(
    "texts",
    [
        ("The answer is 1.", "The answer is 2.", "The answer is 3."),
        ("The answer is 1.", "No idea.", "None."),
        ("", "", ""),
    ],
)
def test_without_a_majority_the_question_is_dropped(texts):
    row = answer_by_majority(created("How many?"), [says(text) for text in texts])
    assert isinstance(row, Rejection)
    assert row.reason == "no_majority"


def test_a_failed_sample_agrees_with_none():
    failed = Failure("k", "deadline", "60 s", 2)
    assert isinstance(answer_by_majority(created("Q?"), [says("The answer is 1."), failed, failed]), Rejection)
    assert isinstance(
        answer_by_majority(created("Q?"), [says("The answer is 1."), says("The answer is 1."), failed]), Question
    )


def test_seeds_of_a_second_corrector_are_no_part_of_what_is_drawn():
    def identity(**corrections):
        first = QuestionRound(ArtifactRef("questions", "q"), corrections=corrections)
        writer = EndpointSpec(model="writer", base_url="http://127.0.0.1:1/v1")
        stage = EvolutionCreated(
            EvolutionSpec(endpoint="e"), "centric", 1, writer, "arithmetic", first.questions, first.main_corrections
        )
        return stage.ref

    strong, weak = ArtifactRef("corrections", "strong"), ArtifactRef("corrections", "weak")
    assert identity(strong=strong) == identity(strong=strong, weak=weak)
    assert identity(strong=strong) != identity(weak=weak)


def test_known_questions_ignore_case_space_and_punctuation():
    known = KnownQuestions(["How many,  then?"])
    assert "how MANY then" in known
    assert "how many now" not in known
    assert len(known) == 1


@pytest.mark.parametrize(
    ("tested", "same", "another"),
    [
        ("Compute $5+3$.", "compute 5 + 3", "Compute $5-3$."),
        ("12 − 5 = ?", "12 - 5 = ?", "12 + 5 = ?"),
        (r"Compute $\arccos (-1).$", r"compute $\arccos(-1)$", r"Compute $\arccos 1.$"),
        ("Evaluate $3/4$", "evaluate 3 / 4.", "Evaluate $-3-4$"),
        ("What is 5!?", "what is 5!", "What is 5?"),
        ("Is x < 4?", "is x<4", "Is x > 4?"),
        ("A well-known 6-year-old: and/or **bold**!", "a well known 6 year old and or bold", "a well known 6"),
    ],
)
def test_known_questions_tell_formulas_by_their_signs(tested, same, another):
    known = KnownQuestions([tested])
    assert same in known
    assert another not in known


def test_near_duplicates_name_the_most_similar_text():
    index = NearDuplicates(0.5)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    index.add("same", " ".join(words))
    index.add("close", " ".join([*words[:7], "x", "y", "z"]))
    index.add("same", "another text under a key that is taken")
    assert index.like(" ".join(words)) == "same"
    assert index.like("nothing of the kind is known here at all") is None
    assert index.like("short") is None
