"""A judged task: explanations, which a judge model compares with a reference by a rubric.

The run file needs [endpoints.judge]. The rubric is in the prompt set: an edited one judges again, and samples nothing.
"""

from lema_core import FieldMapping, Judge, Score, ScoringContext, Task


async def score(question: str, gold: str, text: str, context: ScoringContext) -> Score:
    """Ask the judge; its last line is its verdict."""
    reply = await context.ask(context.texts["rubric"].format(question=question, reference=gold, answer=text))
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    verdict = lines[-1].removeprefix("Verdict:").strip(" .").lower() if lines else ""
    if verdict not in ("right", "wrong"):
        return Score("unknown", f"the judge gave no verdict: {reply[-200:]!r}")
    return Score(verdict, " ".join(lines[:-1]))


TASK = Task(
    name="explanations",
    prompts="judged_task.toml",
    train="judged_train.jsonl",
    test="judged_test.jsonl",
    mapping=FieldMapping(question="question", gold="reference"),
    scorer=score,
    judge=Judge(endpoint="judge", max_tokens=200),
)
