"""Thinking is separated from the answer, wherever a model or its server puts it, in linear time."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from lema_core.answers import judge
from lema_core.answers.judge import verify_pair
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import Completion
from lema_core.llm.responses import AttemptError, parse_completion
from lema_core.reasoning_paths import parse_path
from lema_core.records import Question, ReasoningPath, Rejection
from lema_core.thinking import PAIRS, answer_of, separate, thinking_of

QUESTION = Question(id="q-1", task="gsm8k", text="What is 8 x 9?", gold="72")
KIN = {
    **PAIRS,
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<THINK>": "</THINK>",
    "<longcat_think>": "</longcat_think>",
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",
    " to=self<|message|>": "<|eom|><|start|>assistant to=user<|message|>",
    "Here is my thought process:": "Here is my response:",
}


@pytest.mark.parametrize("opening", KIN)
def test_marks_of_every_kin_part_thinking_from_the_answer(opening: str) -> None:
    whole = f"{opening}\nMaybe 70.\n{KIN[opening]}\n\nStep 1: 8 x 9 = 72.\nThe answer is 72."
    found = separate(whole)
    assert found == ("Maybe 70.", "Step 1: 8 x 9 = 72.\nThe answer is 72.", False)
    cut = separate(f"{opening}\nMaybe the answer is 70")
    assert cut == ("Maybe the answer is 70", "", True)
    assert judge(f"{opening}\nMaybe the answer is 70", "70").verdict == "none"
    for pred in (f"{opening}\nMaybe the answer is 70", f"{opening}\nMaybe the answer is 72"):
        result = verify_pair("70", pred).match
        assert (result.outcome, result.ground[:15]) == ("unknown", "pred: no answer")


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("Maybe 70.\n</think>\n\nThe answer is 72.", "Maybe 70.", "The answer is 72."),
        ("Maybe 70.[/THINK]The answer is 72.", "Maybe 70.", "The answer is 72."),
        ("analysisWe need 72.assistantfinalThe answer is 72.", "We need 72.", "The answer is 72."),
        ("analysisMaybe the answer is 70", "Maybe the answer is 70", ""),
        ("<|channel|>final<|message|>The answer is 72.<|return|>", "", "The answer is 72."),
        ("<think>\n\n</think>\n\n72", "", "72"),
        ("<think>a</think>b<think>c</think>d", "a\n\nc", "b\nd"),
        ("Step 1: 8 x 9 = 72. <think>Wait, 70", "Step 1: 8 x 9 = 72.\n\nWait, 70", ""),
        ("The tag `<think>` opens it. 72", "", "The tag `<think>` opens it. 72"),
        ("analysis of 3 < 5: the answer is 72", "", "analysis of 3 < 5: the answer is 72"),
        ("<|channel|>analysis<|message|>70<|end|><|start|>assistant<|chan", "70", ""),
    ],
)
def test_kinds_without_a_whole_pair(text: str, thinking: str, answer: str) -> None:
    assert separate(text)[:2] == (thinking, answer)


@given(st.text(max_size=200).filter(lambda text: not any(sign in text for sign in "<[◁") and text[:1] not in "aH"))
def test_a_text_without_marks_is_all_answer(text: str) -> None:
    assert separate(text) == ("", text, False)


PIECES = st.sampled_from([*KIN, *KIN.values(), "a", "72", "\n", "`", "</think>"])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_an_answer_is_separated_once_and_an_unfinished_one_is_none(text: str) -> None:
    found = separate(text)
    assert not (found.unfinished and found.answer)
    assert judge(text, "72").answer is None or found.answer


MARKS = ["<think>", "</think>", "<|message|>", "<think>a</think>", "<|channel|>x", "`<think>`"]


@pytest.mark.parametrize("piece", MARKS)
def test_many_marks_take_linear_time(piece: str) -> None:
    def seconds(count: int) -> float:
        text, start = piece * count, time.process_time()
        separate(text)
        return time.process_time() - start

    seconds(1000)
    # Ten times the text in less than forty times the time; a quadratic reading takes a hundred.
    assert seconds(40_000) < 40 * max(seconds(4_000), 0.004)


def body(finish: str = "stop", **message: object) -> dict[str, object]:
    usage = {"prompt_tokens": 10, "completion_tokens": 30}
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage, "model": "m"}


@pytest.mark.parametrize(
    "message",
    [
        {"content": "72", "reasoning_content": "Maybe 70."},
        {"content": "72", "reasoning": "Maybe 70."},
        {"content": "72", "reasoning": "Maybe 70.", "reasoning_content": "Maybe 70."},
        {"content": "72", "reasoning_details": [{"type": "reasoning.text", "text": "Maybe 70."}]},
        {"content": "<think>Maybe 70.</think>72"},
        {"content": [{"type": "thinking", "thinking": [{"text": "Maybe 70."}]}, {"type": "text", "text": "72"}]},
        {"content": [{"type": "reasoning", "text": "Maybe 70."}, {"type": "output_text", "text": "72"}]},
        {"content": [{"thought": True, "text": "Maybe 70."}, {"text": "72"}]},
    ],
)  # fmt: skip
def test_a_response_has_its_thinking_in_a_field_of_its_own(message: dict[str, object]) -> None:
    found = parse_completion(body(**message), 40)
    assert (found.thinking, found.text, found.completion_tokens) == ("Maybe 70.", "72", 30)


def test_reasoning_alone_is_paid_once_and_has_no_answer() -> None:
    found = parse_completion(body(content=None, reasoning="Maybe the answer is 70"), 40)
    assert (found.text, found.thinking) == ("", "Maybe the answer is 70")
    with pytest.raises(AttemptError, match="malformed"):
        parse_completion(body(content=None), 40)


def test_parts_that_are_no_text_are_left_out() -> None:
    assert answer_of([{"type": "image_url", "image_url": "x"}]) is None
    assert answer_of([{"type": "text", "text": "7"}, "2"]) == "72"
    assert thinking_of({"content": "72", "reasoning": 5, "reasoning_content": {"a": []}}) == ""


def answered(text: str, thinking: str = "", finish: str = "stop") -> ReasoningPath | Rejection:
    return parse_path(QUESTION, 0, "student", Completion("key", text, finish, 10, 30, "m", thinking))


def test_a_path_carries_its_thinking_beside_its_text() -> None:
    path = answered("The answer is 72.", "Maybe 70.")
    assert isinstance(path, ReasoningPath)
    assert (path.text, path.thinking) == ("The answer is 72.", "Maybe 70.")


@pytest.mark.parametrize(("finish", "reason"), [("length", "cut_in_thinking"), ("stop", "only_thinking")])
def test_thinking_alone_is_no_path(finish: str, reason: str) -> None:
    row = answered("", "Maybe the answer is 70", finish)
    assert isinstance(row, Rejection)
    assert row.reason == reason
    assert "22 characters of thinking" in row.detail


def test_a_text_cut_in_a_block_that_the_prompt_opened_is_thinking() -> None:
    def said(text: str, finish: str = "length", **message: object) -> tuple[str, str]:
        found = parse_completion(body(finish, content=text, **message), 40, opens_thinking=lambda: True)
        return found.thinking, found.text

    assert said("Maybe the answer is 70") == ("Maybe the answer is 70", "")
    assert said("Maybe 70.\n</think>\n\nThe answer is") == ("Maybe 70.", "The answer is")
    assert said("</think>\n\nThe answer is") == ("", "The answer is")
    assert said("The answer is", reasoning="Maybe 70.") == ("Maybe 70.", "The answer is")
    # A server that hides thinking, or a model that did not think, came to its end.
    assert said("The answer is 72.", "stop") == ("", "The answer is 72.")


@pytest.mark.parametrize(
    ("model", "template", "arguments", "opens"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", None, {}, True),
        ("Qwen/Qwen3-4B-Thinking-2507", None, {}, True),
        ("Qwen/Qwen3-8B", None, {}, False),
        ("tuned", "{{ messages[0].content }}<think>\n", {}, True),
        ("tuned", "{{ messages[0].content }}{% if on %}<think>\n{% endif %}", {"on": True}, True),
        ("tuned", "{{ messages[0].content }}{% if on %}<think>\n{% endif %}", {}, False),
        ("tuned", "{{ messages[0].content }}<think>\n\n</think>\n\n", {}, False),
        ("tuned", "{{ raise_exception('no') }}<think>", {}, False),
    ],
)
def test_whether_a_prompt_opens_thinking_is_known_by_template_or_name(
    tmp_path: Path, model: str, template: str | None, arguments: dict[str, object], opens: bool
) -> None:
    if template is not None:
        folder = tmp_path / model
        folder.mkdir()
        Tokenizer(WordLevel({"?": 0}, unk_token="?")).save(str(folder / "tokenizer.json"))
        (folder / "chat_template.jinja").write_text(template)
        model = str(folder)
    assert EndpointSpec(model=model, params={"chat_template_kwargs": arguments}).opens_thinking() is opens
