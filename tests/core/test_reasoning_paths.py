"""Requests for paths and what becomes of the answers."""

from dataclasses import replace

import pytest

from lema_core.llm.requests import Completion, Failure, Sampling, request_key
from lema_core.prompts import path_input
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.reasoning_paths import parse_path, path_requests, without_run_on
from lema_core.records import ReasoningPath, Rejection

QUESTIONS = list(read_questions(QuestionsSpec(task="arithmetic", limit=5)))
ANSWER = Completion("k", "Step 1: 3 + 4 = 7.\nThe answer is 7.", "stop", 10, 5, "m")


def test_each_question_is_asked_n_times_and_every_request_is_its_own():
    wanted = list(path_requests(QUESTIONS, Sampling(temperature=0.7), samples=4))
    assert [(one.question, one.sample_index) for one in wanted] == [(q, i) for q in QUESTIONS for i in range(4)]
    assert len({request_key("m", one.request) for one in wanted}) == 20
    sent = [one.request.sampling.body(one.sample_index)["seed"] for one in wanted]
    assert len(set(sent)) == 20
    assert all(0 <= seed < 2**31 for seed in sent)


def test_requests_are_repeatable_and_made_lazily():
    def endless():
        while True:
            yield QUESTIONS[0]

    first = next(path_requests(endless(), Sampling(temperature=0.7)))
    assert first == next(path_requests(QUESTIONS, Sampling(temperature=0.7)))


def test_a_given_seed_is_kept():
    (wanted,) = path_requests(QUESTIONS[:1], Sampling(temperature=0.7, seed=5))
    assert wanted.request.sampling.seed == 5


def test_the_zero_shot_prompt_is_the_cot_examples_input():
    (wanted,) = path_requests(QUESTIONS[:1], Sampling(), prompt="zero_shot")
    (message,) = wanted.request.messages
    assert message["content"] == path_input("arithmetic", QUESTIONS[0].text)


def test_a_completion_becomes_a_path_with_its_question_and_cost():
    path = parse_path(QUESTIONS[0], 2, "student", ANSWER)
    assert isinstance(path, ReasoningPath)
    assert (path.question, path.gold, path.rationale) == (QUESTIONS[0].text, QUESTIONS[0].gold, QUESTIONS[0].rationale)
    assert (path.request_key, path.prompt_tokens, path.completion_tokens) == ("k", 10, 5)
    assert path.id == parse_path(QUESTIONS[0], 2, "student", ANSWER).id
    assert path.id != parse_path(QUESTIONS[0], 3, "student", ANSWER).id


def test_a_failure_and_an_empty_answer_become_rejections_with_their_reason():
    failed = parse_path(QUESTIONS[0], 0, "student", Failure("k", "deadline", "after 60 s", 3))
    empty = parse_path(QUESTIONS[0], 1, "student", replace(ANSWER, text=" \n"))
    assert isinstance(failed, Rejection)
    assert isinstance(empty, Rejection)
    assert (failed.reason, empty.reason) == ("request_failed", "empty")
    assert "deadline" in failed.detail
    assert failed.parent_id == QUESTIONS[0].id
    assert failed.id != empty.id


def test_a_student_that_goes_on_with_a_second_question_is_cut():
    text = "Step 1: 3 + 4 = 7.\nThe answer is 7.\n\nQuestion: Tom has 5.\nAnswer: Step 1: 5.\nThe answer is 5."
    assert without_run_on(text, "arithmetic") == "Step 1: 3 + 4 = 7.\nThe answer is 7."
    assert (
        without_run_on("Step 1: a\nThe answer is 7.\n**Question 2:** b", "arithmetic") == "Step 1: a\nThe answer is 7."
    )


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "</s>", "<|eot_id|>\n", " <end_of_turn>", "<|endoftext|><|endoftext|>"]
)
def test_an_end_token_is_no_part_of_a_path(token):
    solved = "Step 1: 3 + 4 = 7.\nThe answer is 7."
    assert without_run_on(solved + token, "gsm8k") == solved
    assert without_run_on("<|im_start|>assistant\n" + solved + token, "gsm8k") == solved
    assert without_run_on(f"{solved}{token}<|im_start|>user\nThe answer is 8.", "gsm8k") == solved
    assert without_run_on(token, "gsm8k") == ""


@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
def test_a_student_that_goes_on_with_the_prompts_instruction_is_cut(between):
    solved = "Step 1: 3 + 4 = 7.\nThe answer is 7."
    text = solved + between + path_input("gsm8k", "Tom has 5. How many?") + "\nStep 1: 5.\nThe answer is 5."
    assert without_run_on(text, "gsm8k") == solved


def test_an_instruction_that_is_restated_first_is_no_run_on():
    text = path_input("gsm8k", "Tom has 5.").partition("\n")[0] + "\nStep 1: 5 + 1 = 6.\nThe answer is 6."
    assert without_run_on(text, "gsm8k") == text


def test_a_restated_question_before_the_solution_is_no_run_on():
    text = "Question: Tom has 5.\nStep 1: 5 + 1 = 6.\nThe answer is 6."
    assert without_run_on(text, "arithmetic") == text
