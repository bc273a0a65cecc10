"""Learning from mistakes in one flat function, against the simulated endpoint: no key, no GPU, a few seconds.

Exchange the two `EndpointSpec`s for your own student and teacher, and `read_questions` for your own file.
"""

import asyncio

from lema_core import (
    Correction, EndpointSpec, Engine, Example, JudgedPath, Question, QuestionsSpec, ReasoningPath, RoundData, Sampling,
    SimulatedEndpoint, build_arm, correction_requests, get_arm, get_task, judge_path, parse_path, path_requests,
    read_questions, review_correction, select_mistakes,
)  # fmt: skip


async def main(ledger: str = "lema_loop.sqlite") -> list[Example]:
    task = get_task("arithmetic")
    questions = [row for row in read_questions(QuestionsSpec(task="arithmetic", limit=24)) if isinstance(row, Question)]
    async with SimulatedEndpoint(questions) as server, Engine.open(ledger) as engine:
        student = EndpointSpec(model="simulated-student", base_url=server.url)
        teacher = EndpointSpec(model="reference-corrector", base_url=server.url)

        # Sample reasoning paths, and keep those with a wrong final answer (paper, section 2.1).
        samples = list(path_requests(questions, Sampling(temperature=0.7, max_tokens=256), samples=2))
        answers = [answer async for answer in engine.stream(student, [sample.request for sample in samples])]
        paths = [
            parse_path(sample.question, sample.sample_index, student.identity, answer)
            for sample, answer in zip(samples, answers, strict=True)
        ]
        judged = [judge_path(path) for path in paths if isinstance(path, ReasoningPath)]
        right_or_wrong = [row for row in judged if isinstance(row, JudgedPath)]
        mistakes = [row for row in select_mistakes(right_or_wrong) if isinstance(row, JudgedPath)]

        # A teacher corrects each mistake from its wrong step on; keep what stands every check.
        requests = correction_requests(mistakes, task, Sampling(temperature=0.0, max_tokens=1024))
        answers = [answer async for answer in engine.stream(teacher, requests)]
        reviewed = [
            review_correction(mistake, answer, family=task.family, shape=task.shape, corrector=teacher.identity)
            for mistake, answer in zip(mistakes, answers, strict=True)
        ]
        corrections = [row for row in reviewed if isinstance(row, Correction)]

    # The training set of LeMa: worked solutions, right paths and corrections (section 2.3).
    data = RoundData(lambda: questions, lambda: right_or_wrong, lambda: corrections)
    examples = [row for row in build_arm(get_arm("lema"), [data]) if isinstance(row, Example)]
    print(f"{len(paths)} paths, {len(mistakes)} mistakes, {len(corrections)} corrections, {len(examples)} examples")
    return examples


if __name__ == "__main__":
    asyncio.run(main())
