"""A code task: the model writes a Python function, and unit tests decide whether it is right.

A row of code_train.jsonl has a problem and its tests; the tests are the gold answer.
"""

import re
import secrets

from lema_core import FieldMapping, ProgramLimits, Score, ScoringContext, Task, run_untrusted

BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
LIMITS = ProgramLimits(seconds=5, memory_mib=512, file_mib=8)


def score(question: str, gold: str, text: str, context: ScoringContext) -> Score:
    """Run the tests on the last block of code of an answer."""
    blocks = BLOCK.findall(text)
    if not blocks:
        return Score("wrong", "no block of code")
    # A solution that leaves the program early, with status 0, has not passed: only the end of the tests says this word.
    passed = secrets.token_hex(8)
    files = {"solution.py": blocks[-1], "tests.py": f"from solution import *\n{gold}\nprint({passed!r})\n"}
    result = run_untrusted(["python", "tests.py"], files, LIMITS)
    if result.outcome == "not_started":
        return Score("unknown", result.stderr)
    if result.ok and result.stdout.rstrip().endswith(passed):
        return Score("right", "all tests passed")
    return Score("wrong", result.outcome if result.outcome == "timeout" else result.stderr[-300:])


TASK = Task(
    name="code",
    shape="whole",  # a correction rewrites the whole program
    prompts="code_task.toml",
    train="code_train.jsonl",
    test="code_test.jsonl",
    mapping=FieldMapping(question="problem", gold="tests"),
    scorer=score,
)
