"""A small server of a checkpoint on this machine, by torch: for models that llama.cpp's converter does not take.

``python -m lema_core.training.serving --model FOLDER --port 8080`` answers ``/v1/chat/completions`` on 127.0.0.1.
Requests that wait together are generated together, up to ``--slots`` of them. As an endpoint's command:
``{python} -m lema_core.training.serving --model {model} --port {port}``. Temperature, top_p, seed and max_tokens are
followed; an answer ends at the model's end token, at its cap, or where the model's context ends.
"""

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import torch
from aiohttp import web

from lema_core.errors import ConfigError, LemaError
from lema_core.system.foreign_models import render_chat
from lema_core.system.loopback import RequestFilter
from lema_core.system.processes import die_with_parent
from lema_core.training.data import ExampleTokenizer, load_tokenizer
from lema_core.training.models import checkpoint_of

HOST = "127.0.0.1"
DEFAULT_CAP = 512
"""Tokens of an answer whose request names no cap."""
LEAST_TEMPERATURE = 1e-4
"""Below it the likeliest token is taken."""
_GATE = RequestFilter()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prompt as tokens, and how its answer is drawn."""

    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(slots=True)
class Answer:
    """The tokens of an answer, without the end token."""

    tokens: list[int] = field(default_factory=list)
    finish_reason: str = "length"


class Generator:
    """Generates answers to several prompts at a time.

    An answer depends on its prompt and its seed, not on what is generated beside it, up to rounding.
    """

    def __init__(self, checkpoint: str) -> None:
        from transformers import AutoModelForCausalLM

        folder = checkpoint_of(checkpoint)
        examples = ExampleTokenizer(load_tokenizer(folder), "chat")
        self.tokenizer, self._format = examples.tokenizer, examples.format
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = torch.bfloat16 if self.device == "cuda" else torch.float32
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, trust_remote_code=False)
        self._model = model.to(self.device)
        known = getattr(model.generation_config, "eos_token_id", None)
        stops = known if isinstance(known, list) else [known]
        self._stops = {int(stop) for stop in (*stops, examples.stops) if stop is not None}
        self.context = int(getattr(model.config, "max_position_embeddings", 2048))

    def encode(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the prompt's tokens, as the checkpoint's own template renders the messages."""
        text = render_chat(self._format.template, messages, self._format.vocabulary.special)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    @torch.inference_mode()
    def answer(self, wanted: Sequence[Wanted]) -> list[Answer]:
        """Return an answer for each prompt, in one batch; rows that have ended leave it."""
        answers = [Answer() for _ in wanted]
        draws = [torch.Generator().manual_seed(asked.seed) for asked in wanted]
        rows, width = list(range(len(wanted))), max(len(asked.prompt) for asked in wanted)
        # Padded on the left, so that every row's next token is at the end.
        ids = torch.tensor([[0] * (width - len(asked.prompt)) + asked.prompt for asked in wanted], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(asked.prompt)) + [1] * len(asked.prompt) for asked in wanted], device=self.device
        )
        cache = None
        while True:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            found = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = found.past_key_values
            logits = found.logits[:, -1].float().cpu()
            chosen = [_draw(logits[place], wanted[row], draws[row]) for place, row in enumerate(rows)]
            kept: list[int] = []
            for place, (row, token) in enumerate(zip(rows, chosen, strict=True)):
                if token in self._stops:
                    answers[row].finish_reason = "stop"
                    continue
                answers[row].tokens.append(token)
                if len(answers[row].tokens) < wanted[row].max_tokens:
                    kept.append(place)
            if not kept:
                break
            if len(kept) < len(rows):
                cache.batch_select_indices(torch.tensor(kept, device=self.device))
            ids = torch.tensor([[chosen[place]] for place in kept], device=self.device)
            mask = torch.cat([mask[kept], torch.ones((len(kept), 1), dtype=mask.dtype, device=self.device)], dim=1)
            rows = [rows[place] for place in kept]
        return answers


def _draw(logits: torch.Tensor, one: Wanted, draw: torch.Generator) -> int:
    # Divided by less, logits are no finite numbers any more.
    if one.temperature < LEAST_TEMPERATURE:
        return int(logits.argmax())
    shares = torch.softmax(logits / one.temperature, dim=-1)
    if one.top_p < 1:
        ordered, places = shares.sort(descending=True)
        # The most likely token always stays; a token goes if those before it already reach top_p.
        ordered[(ordered.cumsum(0) - ordered) >= one.top_p] = 0
        shares = torch.zeros_like(shares).scatter(0, places, ordered)
    return int(torch.multinomial(shares, 1, generator=draw))


class Server:
    """Collects requests that wait together into batches; one batch is generated at a time."""

    def __init__(self, generator: Generator, name: str, slots: int) -> None:
        self.generator, self._name, self._slots = generator, name, slots
        self._waiting: asyncio.Queue[tuple[Wanted, asyncio.Future[Answer]]] = asyncio.Queue()

    def application(self) -> web.Application:
        """Return the routes, with the loop that generates."""
        app = web.Application(client_max_size=16 * 2**20, middlewares=[_refuse_other_origins])
        app.add_routes([web.get("/v1/models", self._models), web.get("/health", self._models)])
        app.add_routes([web.post("/v1/chat/completions", self._complete)])
        app.cleanup_ctx.append(self._working)
        return app

    async def _working(self, _: web.Application) -> Any:
        work = asyncio.create_task(self._generate())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self._name, "object": "model"}]})

    async def _generate(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            # Clients that had their answers together send their next requests together: let these arrive.
            await asyncio.sleep(0.01)
            while len(batch) < self._slots and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            live = [(wanted, future) for wanted, future in batch if not future.done()]
            if not live:
                continue
            try:
                answers = await asyncio.to_thread(self.generator.answer, [wanted for wanted, _ in live])
            except Exception as error:  # noqa: BLE001 - whatever torch raises: these requests fail, the server goes on
                for _, future in live:
                    if not future.done():
                        future.set_exception(LemaError(f"generation failed: {error}"))
                continue
            for (_, future), answer in zip(live, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
            wanted = self._read(body)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, LemaError) as error:
            return _error(400, f"the request cannot be read: {error}")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((wanted, future))
        try:
            answer = await future
        except LemaError as error:
            return _error(500, str(error))
        used = {"prompt_tokens": len(wanted.prompt), "completion_tokens": len(answer.tokens)}
        message = {"role": "assistant", "content": self.generator.decode(answer.tokens)}
        return web.json_response(
            {
                "id": f"chatcmpl-{blake2b(repr(wanted).encode(), digest_size=8).hexdigest()}",
                "object": "chat.completion",
                "created": 0,
                "model": self._name,
                "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
                "usage": used | {"total_tokens": sum(used.values())},
            }
        )

    def _read(self, body: dict[str, Any]) -> Wanted:
        """Return what a request asks for.

        Raises:
            ConfigError: its prompt leaves no room for an answer, or its temperature or top_p is no number to draw by.
        """
        prompt = self.generator.encode(body["messages"])
        room = self.generator.context - len(prompt)
        if not prompt or room < 1:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens and the model's context {self.generator.context}: an answer "
                "needs a prompt, and one token of room"
            )
        cap = body.get("max_tokens") or body.get("max_completion_tokens") or DEFAULT_CAP
        given = (body.get("temperature"), body.get("top_p"))
        temperature, top_p = (1.0 if value is None else float(value) for value in given)
        # One draw that torch refuses would fail every request of its batch.
        if not (math.isfinite(temperature) and 0 < top_p <= 1):
            raise ConfigError(f"temperature {temperature} and top_p {top_p}: expected a number, and one in (0, 1]")
        return Wanted(prompt, max(1, min(int(cap), room)), temperature, top_p, int(body.get("seed") or 0) % 2**63)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)


@web.middleware
async def _refuse_other_origins(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    refusal = _GATE.refusal(request.headers.items())
    return await handler(request) if refusal is None else _error(refusal.status, refusal.reason)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; a mistake of the user ends with one line on stderr and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m lema_core.training.serving", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", required=True, help="a checkpoint folder, or what training.base names")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=64, help="answers generated at the same time")
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 8))
    given = parser.parse_args(argv)
    die_with_parent()
    torch.set_num_threads(given.threads)
    try:
        server = Server(Generator(given.model), given.model, given.slots)
    except LemaError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    web.run_app(server.application(), host=HOST, port=given.port, access_log=None, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
