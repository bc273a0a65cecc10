"""A million questions through the stages that ask no model: rows a second and peak memory, as docs/scale.md tells.

    python benchmarks/million.py [--rows N] [--workers N] [--arms ARM ...]

The tasks are the ones that `lema run` runs, on a Prefect server of their own; only the student's paths and the
teacher's corrections are made up, because these stages would ask a model. Every answer differs. Each stage prints one
line of a Markdown table; the memory is that of the flow's process and its workers, the answer checker's included.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

import psutil
from bench import prefect_server


class Memory:
    """The most memory that this process and its workers held at one time, in MB; Prefect's server is left out."""

    def __init__(self) -> None:
        self.most = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        me = psutil.Process()
        others = {one.pid for one in me.children(recursive=True)}
        while True:
            total = 0
            for one in (me, *me.children(recursive=True)):
                try:
                    total += 0 if one.pid in others else one.memory_info().rss
                except psutil.Error:
                    continue
            self.most = max(self.most, total / 2**20)
            time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--arms", nargs="*", default=["lema"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lema-million-") as folder, prefect_server(Path(folder) / "prefect"):
        asyncio.run(stages(Path(folder), options.rows, options.workers, options.arms))


async def stages(folder: Path, rows: int, workers: int | None, arms: list[str]) -> None:  # noqa: PLR0915
    from prefect import flow

    from lema_core.artifacts import Store
    from lema_core.llm.endpoints import EndpointSpec
    from lema_core.mixture import get_arm
    from lema_core.questions import QuestionsSpec
    from lema_core.records import Correction, JudgedPath, Question, ReasoningPath
    from lema_core.run.artifacts import QuestionRound
    from lema_core.run.spec import RunContext
    from lema_core.stages.corrections import Corrections, CorrectionsSpec
    from lema_core.stages.mixture import Mixture, MixtureSpec
    from lema_core.stages.questions import Questions
    from lema_core.stages.reasoning_paths import ReasoningPaths, StudentSpec
    from lema_core.stages.verdicts import Mistakes, MistakesSpec, Verdicts, VerdictsSpec
    from tasks.engine_session import engine_session
    from tasks.run_stage import run_rows

    memory = Memory()
    at = RunContext(root=str(folder / "store"), ledger=str(folder / "ledger.sqlite"), run="million", workers=workers)
    store = Store(at.root)
    source, fields = folder / "questions.jsonl", {"question": "question", "gold": "answer", "rationale": "rationale"}
    with source.open("w") as file:
        file.writelines(json.dumps(problem(number)) + "\n" for number in range(rows))

    async def timed(name: str, count: int, stage: Awaitable[Any]) -> Any:
        memory.most, started = 0.0, time.monotonic()
        made = await stage
        seconds = time.monotonic() - started
        print(f"| {name} | {count:,} | {seconds:.0f} | {count / seconds:,.0f} | {memory.most:,.0f} |", flush=True)
        return made

    def written(identity: Any, record: type, made_up: Iterable[Any], count: int) -> Any:
        """Publish rows that a model would have written, in parts as a run cuts them."""
        from lema_core.artifacts import ArtifactRef, shards_of

        ref, made_up, parts = ArtifactRef(identity.stage, identity.fingerprint), iter(made_up), []
        for shard in shards_of(count, at.shard_requests):
            with store.part(ref, shard, record) as part:
                for _ in range(shard.stop - shard.start):
                    part.rows_in += 1
                    part.add(next(made_up))
            parts.append(part.summary)
        store.publish(identity, parts, seconds=0)
        return ref

    @flow(name="million")
    async def million() -> None:
        async with engine_session(at):
            asked = await timed(
                "questions",
                rows,
                run_rows(at, Questions(QuestionsSpec(task="numeric", path=str(source), mapping=fields))),
            )
            student = EndpointSpec(model="s", base_url="http://127.0.0.1:1/v1")
            sampled = ReasoningPaths(StudentSpec(endpoint="s"), student, "numeric", asked)
            paths = written(sampled.identity, ReasoningPath, map(path_to, store.rows(asked, Question)), rows)
            judged = await timed("verdicts", rows, run_rows(at, Verdicts(VerdictsSpec(), "numeric", paths)))
            wrong = await timed("mistakes", rows, run_rows(at, Mistakes(MistakesSpec(), asked, [judged])))
            count = store.manifest(wrong).rows_out
            review = Corrections(CorrectionsSpec(endpoint="t"), student, None, "numeric", wrong)
            corrected = written(review.identity, Correction, map(correction_of, store.rows(wrong, JudgedPath)), count)
            first = QuestionRound(asked, verdicts=[judged], mistakes=wrong, corrections={"t": corrected})
            for arm in arms:
                stage = run_rows(at, Mixture(MixtureSpec(), get_arm(arm), "numeric", (first,)))
                await timed(f"mixture {arm}", rows + store.manifest(judged).counts["right"] + count, stage)

    print("| stage | rows | seconds | rows/s | peak MB |\n|---|---|---|---|---|")
    await million()


def problem(number: int) -> dict[str, str]:
    """Return a question whose answer no other one has."""
    first, second, third = number + 3, number % 97 + 2, number % 41 + 1
    total = first * second + third
    steps = f"Step 1: {first} * {second} = {first * second}.\nStep 2: {first * second} + {third} = {total}."
    text = f"A shop sells {second} boxes of {first} nails each and {third} single nails. How many nails are that?"
    return {"question": text, "answer": str(total), "rationale": f"{steps}\nStep 3: The answer is {total}."}


def path_to(question: Any) -> Any:
    """Return a path to a question: four in ten are wrong, in one number."""
    from lema_core.records import ReasoningPath, content_id

    text = question.rationale
    if int(question.gold) % 10 < 4:
        text = text.replace(question.gold, str(int(question.gold) + 7))
    return ReasoningPath(
        id=content_id("p", question.id, text), question_id=question.id, task="numeric", question=question.text,
        gold=question.gold, candidates=None, rationale=question.rationale, level=None, student="s", sample_index=0,
        text=text, finish_reason="stop", request_key=content_id("k", question.id), prompt_tokens=200,
        completion_tokens=60,
    )  # fmt: skip


def correction_of(path: Any) -> Any:
    """Return a correction of a path's second step."""
    from lema_core.records import Correction, content_id

    return Correction(
        id=content_id("c", path.id), path_id=path.id, question_id=path.question_id, task=path.task,
        question=path.question, gold=path.gold, candidates=None, level=None, student=path.student, corrector="t",
        attempt=0, original=path.text, wrong_answer=path.answer, step=2, n_steps=3, explanation="The sum is wrong.",
        correct_solution="\n".join(path.rationale.splitlines()[1:]), spliced=path.rationale, false_step=2,
        request_key=content_id("k", path.id), prompt_tokens=400, completion_tokens=100,
    )  # fmt: skip


if __name__ == "__main__":
    main()
