"""The embedded student behind llama.cpp's HTTP server: real weights, real sampling, clean end."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from support import until

from lema_core.errors import ConfigError, MissingDependencyError
from lema_core.llm.costs.tokenizers import need_tokenizer
from lema_core.llm.embedded import embedded_gguf, gguf_of, weights_identity
from lema_core.llm.requests import Sampling
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.reasoning_paths import path_requests
from lema_core.records import Question

pytest.importorskip("xllamacpp", reason="the embedded server is not installed (lema-pipeline[local])")


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    try:
        embedded_gguf()
    except MissingDependencyError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "lema_core.llm.embedded",
        "--model",
        "smollm2",
        "--port",
        str(port),
        "--slots",
        "2",
    ]
    process = subprocess.Popen([*command, "--threads", "1"])
    url = f"http://127.0.0.1:{port}"
    until("a healthy server", lambda: _healthy(url), alive=process)
    yield process, url
    process.kill()
    process.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health") as answer:
            return answer.status == 200
    except OSError:
        return False


STORY = [{"role": "user", "content": "Tell me a short story."}]


def _ask(url: str, messages: list[dict[str, str]] = STORY, **sampling: Any) -> dict[str, Any]:
    body = json.dumps({"model": "smollm2", "messages": messages, "max_tokens": 12, **sampling}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        parsed: dict[str, Any] = json.load(answer)
    return parsed


def _text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.slow
def test_it_names_its_model_and_counts_the_template(server: tuple[subprocess.Popen[bytes], str]) -> None:
    with urllib.request.urlopen(f"{server[1]}/v1/models") as answer:
        assert json.load(answer)["data"][0]["id"] == "smollm2"
    # 36 tokens: the template's default system prompt, the user's turn and the assistant's cue.
    assert _ask(server[1], temperature=0)["usage"]["prompt_tokens"] == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    "messages",
    [
        STORY,
        [{"role": "system", "content": "Be brief."}, *STORY],
        [*STORY, {"role": "assistant", "content": "Once  upon\n\n7 times."}, {"role": "user", "content": "Go on!\n"}],
        [{"role": "user", "content": "12 + 1,234.50 = ?\n\n\n3 “quoted” <|im_end|> 数学 \U0001f600  x\t9\r\n"}],
        [{"role": "user", "content": "  It's 5 o'clock; they'll   pay $3.\n 4 \n"}],
    ],
)
def test_the_tokenizer_counts_what_the_server_bills(
    server: tuple[subprocess.Popen[bytes], str], messages: list[dict[str, str]]
) -> None:
    pytest.importorskip("gguf")
    counter = need_tokenizer("smollm2")
    billed = _ask(server[1], messages, temperature=0, max_tokens=1)["usage"]["prompt_tokens"]
    assert counter.count_prompt(messages) == billed


@pytest.mark.slow
def test_real_prompts_are_counted_as_billed(server: tuple[subprocess.Popen[bytes], str]) -> None:
    pytest.importorskip("gguf")
    questions = (row for row in read_questions(QuestionsSpec(task="arithmetic", limit=1)) if isinstance(row, Question))
    for one in path_requests(questions, Sampling(), 1, "few_shot"):
        messages = [dict(message) for message in one.request.messages]
        billed = _ask(server[1], messages, temperature=0, max_tokens=1)["usage"]["prompt_tokens"]
        assert need_tokenizer("smollm2").count_prompt(messages) == billed


@pytest.mark.slow
def test_seeds_sample_and_greedy_repeats(server: tuple[subprocess.Popen[bytes], str]) -> None:
    first, second = (_text(_ask(server[1], temperature=0.7, seed=s)) for s in (1, 2))
    assert first != second
    assert _text(_ask(server[1], temperature=0.7, seed=1)) == first
    greedy = {_text(_ask(server[1], temperature=0, seed=s)) for s in (1, 2)}
    assert len(greedy) == 1


@pytest.mark.slow
def test_sigterm_ends_it_cleanly(server: tuple[subprocess.Popen[bytes], str]) -> None:
    process, _ = server
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_weights_that_are_not_there_are_named(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="no weights at"):
        weights_identity(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"checkpoint folder"):
        gguf_of(str(tmp_path))


def test_identity_is_the_weights_and_not_their_place(tmp_path: Any) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.gguf").write_bytes(b"weights")
    assert weights_identity(str(tmp_path / "a" / "same.gguf")) == weights_identity(str(tmp_path / "b" / "same.gguf"))
    (tmp_path / "b" / "same.gguf").write_bytes(b"other weights")
    assert weights_identity(str(tmp_path / "a" / "same.gguf")) != weights_identity(str(tmp_path / "b" / "same.gguf"))


@pytest.mark.parametrize("name", ["generation_config.json", "adapter_config.json"])
def test_settings_that_change_answers_are_part_of_a_checkpoint(tmp_path: Any, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / name).write_text('{"temperature": 0.6}')
    before = weights_identity(str(tmp_path))
    (tmp_path / name).write_text('{"temperature": 1.0}')
    assert weights_identity(str(tmp_path)) != before
