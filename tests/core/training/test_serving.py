"""The server of a checkpoint: answers do not depend on what is generated beside them, and its requests are checked."""

import asyncio
import json

import pytest

torch = pytest.importorskip("torch")

from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from lema_core.training.data import ExampleTokenizer  # noqa: E402
from lema_core.training.models import save_stop  # noqa: E402
from lema_core.training.scratch import ShapeSpec, make_tokenizer, write_blank  # noqa: E402
from lema_core.training.serving import Generator, Server, Wanted  # noqa: E402

TEXTS = ["Tom has 5 apples. He buys 12 more.\nStep 1: Tom has 5 + 12 = 17 apples.\nThe answer is 17."] * 3


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    write_blank(ShapeSpec(hidden=32, layers=2, heads=2, intermediate=48, vocabulary=330, context=96), TEXTS, folder)
    from transformers import AutoTokenizer

    examples = ExampleTokenizer(AutoTokenizer.from_pretrained(folder), "plain")
    examples.tokenizer.save_pretrained(folder)
    save_stop(folder, examples.stops)
    return Generator(str(folder))


def test_greedy_answers_are_those_of_transformers_alone_and_in_a_batch(generator):
    prompts = [generator.encode([{"role": "user", "content": text}]) for text in ("Tom has 5", "He buys 12 more. Tom")]
    together = generator.answer([Wanted(prompt, 20) for prompt in prompts])
    for prompt, answer in zip(prompts, together, strict=True):
        whole = generator._model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False, max_new_tokens=20
        )
        assert answer.tokens == [token for token in whole[0, len(prompt) :].tolist() if token not in generator._stops]


def test_samples_follow_their_seed_and_not_their_neighbours(generator):
    prompt, other = (
        [*generator.encode([{"role": "user", "content": text}])] for text in ("Tom has", "He buys 5 5 5 5")
    )
    alone = generator.answer([Wanted(prompt, 12, 1.0, 0.9, 3)])[0]
    beside = generator.answer([Wanted(other, 30, 1.0, 1.0, 1), Wanted(prompt, 12, 1.0, 0.9, 3)])[1]
    another = generator.answer([Wanted(prompt, 12, 1.0, 0.9, 4)])[0]
    assert alone.tokens == beside.tokens
    assert alone.tokens != another.tokens


def test_requests_over_http(generator):
    async def ask() -> None:
        async with TestClient(TestServer(Server(generator, "small", 4).application(), host="127.0.0.1")) as client:
            asked = {"messages": [{"role": "user", "content": "Tom has 5"}], "temperature": 0, "max_tokens": 6}
            bodies = [
                await (await client.post("/v1/chat/completions", json=asked | {"seed": n})).json() for n in range(2)
            ]
            assert bodies[0]["choices"] == bodies[1]["choices"]
            assert bodies[0]["usage"]["completion_tokens"] <= 6
            assert bodies[0]["choices"][0]["finish_reason"] in {"stop", "length"}
            many = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=asked | {"max_tokens": 1 + n}) for n in range(9))
            )
            assert [reply.status for reply in many] == [200] * 9
            long = {"messages": [{"role": "user", "content": "Tom has 5 apples. " * 60}]}
            refused = await client.post("/v1/chat/completions", json=long)
            assert refused.status == 400
            assert "context 96" in (await refused.json())["error"]["message"]
            assert (await client.post("/v1/chat/completions", data=b"{")).status == 400
            foreign = {"Origin": "http://elsewhere.example"}
            assert (await client.post("/v1/chat/completions", json=asked, headers=foreign)).status == 403
            assert (await client.get("/v1/models")).status == 200

    asyncio.run(ask())


ODD = [
    ({"temperature": float("nan")}, 400), ({"temperature": float("inf")}, 400), ({"top_p": 0}, 400),
    ({"top_p": float("nan")}, 400), ({"max_tokens": float("inf")}, 400), ({"temperature": "warm"}, 400),
    ({"seed": float("inf")}, 400), ({"temperature": 1e-320}, 200), ({"seed": -1}, 200),
]  # fmt: skip


def test_an_odd_request_fails_alone(generator):
    async def ask() -> None:
        async with TestClient(TestServer(Server(generator, "small", 16).application(), host="127.0.0.1")) as client:
            plain = {"messages": [{"role": "user", "content": "Tom has 5"}], "max_tokens": 3}
            bodies = [json.dumps(plain | odd) for odd, _ in ODD] + [json.dumps(plain)]
            replies = await asyncio.gather(*(client.post("/v1/chat/completions", data=body) for body in bodies))
            assert [reply.status for reply in replies] == [*(status for _, status in ODD), 200]

    asyncio.run(ask())


@pytest.mark.parametrize(
    "text", ["Tom has 5 + 12 = 17 apples.\nStep 2: ...", "Ünknown wörds\n\n{ } 123456 §", "a  b\tc"]
)
def test_text_comes_back_as_it_was(text):
    tokenizer = make_tokenizer(TEXTS, 330)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_words_and_numbers_of_the_texts_are_tokens():
    tokenizer = make_tokenizer(TEXTS, 330)
    assert len(tokenizer.encode(" apples has 17 answer")) == 4
    assert make_tokenizer(TEXTS, 330).get_vocab() == tokenizer.get_vocab()
