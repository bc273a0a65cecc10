"""The process that a scorer runs in: texts come in as JSON lines, verdicts go out; started by ``scoring.pool``.

It confines itself before it loads the user's file: no program is started, nothing is written outside its folder, memory
and file size are limited. A scorer's questions to its judge and the programs that it runs are done by the parent.
"""

import asyncio
import base64
import inspect
import json
import os
import queue
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from lema_core.scoring.scores import LONGEST_REASON, JudgeFailedError, Score, Scorer, ScoringContext
from lema_core.system import confine, untrusted
from lema_core.system.processes import die_with_parent


def write_message(out: TextIO, message: object) -> None:
    """Write one message to the parent."""
    out.write(json.dumps(message) + "\n")
    out.flush()


class Worker:
    """Scores one text at a time, or many at once where the scorer is a coroutine function."""

    def __init__(self, scorer: Scorer, texts: Mapping[str, str], folder: Path, source: TextIO, out: TextIO) -> None:
        self.scorer, self.texts, self.folder = scorer, texts, folder
        self._source, self._out, self._writes = source, out, threading.Lock()
        self._replies: dict[int, Future[dict[str, Any]]] = {}
        self._requests = 0

    def send(self, message: object) -> None:
        """Write one message to the parent, from any thread."""
        with self._writes:
            write_message(self._out, message)

    def read(self, work: "queue.SimpleQueue[dict[str, Any] | None]", wake: Any) -> None:
        """Hand replies to who waits for them, and texts to the main thread, until the input ends."""
        for line in self._source:
            message = json.loads(line)
            if "reply" in message:
                self._replies.pop(message["reply"]).set_result(message)
            elif wake is not None:
                wake(message)
            else:
                work.put(message)
        os._exit(0)  # the parent has closed the pipe or is dead; the main thread may be within the scorer

    def request(self, row: int, **what: object) -> "Future[dict[str, Any]]":
        """Ask the parent to do something for a text, and return its reply to come."""
        with self._writes:
            self._requests += 1
            number = self._requests
            reply = self._replies[number] = Future[dict[str, Any]]()
        self.send({"request": number, "row": row, **what})
        return reply

    async def ask(self, row: int, prompt: str | Sequence[Mapping[str, str]]) -> str:
        """Ask the judge."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
        reply = await asyncio.wrap_future(self.request(row, ask=messages))
        if "failed" in reply:
            raise JudgeFailedError(reply["failed"])
        return str(reply["text"])

    def run_program(
        self,
        row: int,
        program: Sequence[str],
        files: Mapping[str, str | bytes],
        limits: untrusted.ProgramLimits,
        stdin: str,
    ) -> untrusted.ProgramResult:
        """Let the parent run a program: this process may not start one."""
        data = {
            name: base64.b64encode(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).decode()
            for name, text in files.items()
        }
        what = {"program": list(program), "files": data, "limits": asdict(limits), "stdin": stdin}
        reply = self.request(row, run=what).result()
        if "failed" in reply:
            raise ValueError(reply["failed"])
        return untrusted.ProgramResult(**reply["result"])

    def context(self, item: Mapping[str, Any]) -> ScoringContext:
        """Return what the scorer is given beside the three texts."""
        folder = self.folder / str(item["row"])
        folder.mkdir()
        return ScoringContext(
            candidates=tuple(item["candidates"]) if item["candidates"] is not None else None,
            question_id=item["question_id"],
            texts=self.texts,
            folder=folder,
            ask=partial(self.ask, item["row"]),
        )

    async def score(self, item: Mapping[str, Any]) -> None:
        """Score a text and send its verdict, or why there is none."""
        row = item["row"]
        untrusted.delegate.set(partial(self.run_program, row))
        out_of_memory = False
        try:
            found = self.scorer(item["question"], item["gold"], item["text"], self.context(item))
            if inspect.isawaitable(found):
                found = await found
            message = _result(found)
        except JudgeFailedError as error:
            message = {"code": "judge_failed", "reason": str(error)}
        except MemoryError:
            out_of_memory, message = True, {"code": "scorer_memory", "reason": "MemoryError"}
        except asyncio.CancelledError:
            message = {"code": "scorer_timeout", "reason": ""}
        except (Exception, SystemExit, KeyboardInterrupt, RecursionError) as error:  # noqa: BLE001  the user's code
            message = {"code": "scorer_raised", "reason": f"{type(error).__name__}: {error}"}
        shutil.rmtree(self.folder / str(row), ignore_errors=True)
        message["reason"] = _storable(message["reason"][:LONGEST_REASON])
        self.send({"row": row, "last": out_of_memory, **message})
        if out_of_memory:
            os._exit(0)  # what it holds by then is unknown: the next text gets a fresh process


def _storable(text: str) -> str:
    """Return a text without lone surrogates, which no Parquet file takes."""
    return text.encode("utf-8", "replace").decode()


def _result(found: object) -> dict[str, Any]:
    if not isinstance(found, Score):
        return {"code": "scorer_result", "reason": f"it returned {type(found).__name__}, expected a Score"}
    answer = None if found.answer is None else _storable(str(found.answer))
    return {"verdict": found.verdict, "reason": str(found.reason), "answer": answer}


async def serve_many(worker: Worker) -> None:
    """Score texts as they come, at the same time."""
    loop, running = asyncio.get_running_loop(), dict[int, asyncio.Task[None]]()

    def begin(message: dict[str, Any]) -> None:
        if "cancel" in message:
            if message["cancel"] in running:
                running[message["cancel"]].cancel()
            return
        task = running[message["row"]] = loop.create_task(worker.score(message))
        task.add_done_callback(lambda _: running.pop(message["row"], None))

    def wake(message: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(begin, message)

    threading.Thread(target=worker.read, args=(queue.SimpleQueue(), wake), daemon=True).start()
    worker.send({"ready": True})
    await asyncio.Event().wait()


def serve_one_by_one(worker: Worker) -> None:
    """Score texts one after the other."""
    work: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=worker.read, args=(work, None), daemon=True).start()
    worker.send({"ready": True})
    while (message := work.get()) is not None:
        if "cancel" not in message:
            coroutine = worker.score(message)
            try:
                coroutine.send(None)
            except StopIteration:
                continue
            coroutine.close()
            raise RuntimeError("a scorer that is no coroutine function returned an awaitable that waits")


def main() -> None:
    """Confine the process, load the task, and score until the parent closes the pipe."""
    given = json.loads(sys.argv[1])
    die_with_parent()
    source, out = os.fdopen(os.dup(0), encoding="ascii"), os.fdopen(os.dup(1), "w", encoding="ascii")
    # What the user's code prints must not end up between the messages, and `input()` must not take one of them.
    os.dup2(2, 1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    folder = Path(given["folder"])
    os.chdir(folder)
    # Imported before the limits hold: the loader reads many files, and none of them is the user's.
    from lema_core import prompts
    from lema_core.questions import get_task

    confine.limit(memory_mib=given["memory_mib"], file_mib=given["file_mib"], open_files=1024)
    confine.allow_writing([str(folder)])
    confine.filter_calls(network=True)
    try:
        task = get_task(given["task"])
    except Exception as error:  # noqa: BLE001  the parent raises it
        few = isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)
        said = (
            f"its limit of memory, {given['memory_mib']} MiB, is too small: raise limits.memory_mib" if few else error
        )
        write_message(out, {"fatal": str(said)})
        return
    assert task.scorer is not None  # noqa: S101  the parent starts a worker for a task with a scorer only
    worker = Worker(task.scorer, prompts.load(task.prompts).texts, folder, source, out)
    if inspect.iscoroutinefunction(task.scorer):
        asyncio.run(serve_many(worker))
    else:
        serve_one_by_one(worker)


if __name__ == "__main__":
    main()
