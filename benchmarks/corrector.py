"""Which step the reference corrector names, against human labels: ``python benchmarks/corrector.py GSM8K ROWS``.

GSM8K is a file of its questions with rationales. ROWS is JSON or JSONL with ``problem``, ``steps``, ``label`` (0-based;
-1 where no step is wrong) and perhaps ``final_answer_correct``, as in ProcessBench. Nothing is sent.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lema_core.corrections import ParsedCorrection, parse_correction
from lema_core.evaluation.statistics import wilson
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import Question
from lema_core.reference_corrector import Problem, correct


def main(questions: str, rows: str) -> None:
    """Print the share of exact, near, early and late names among wrong solutions, and of right ones with a name."""
    spec = QuestionsSpec(task="gsm8k", path=questions)
    known = {" ".join(q.text.split()): q for q in read_questions(spec) if isinstance(q, Question)}
    text = Path(rows).read_text()
    found = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    wrong, clean = Counter[str](), Counter[str]()
    started = time.process_time()
    for row in found:
        question = known[" ".join(row["problem"].split())]
        step, label = _named(question, row), row["label"] + 1
        if not label:
            clean["named" if step else "declined"] += 1
        elif not row.get("final_answer_correct", False):
            kind = "declined" if not step else "exact" if step == label else "early" if step < label else "late"
            wrong[kind] += 1
            wrong["within one"] += bool(step) and abs(step - label) <= 1
    print(f"{len(found) / (time.process_time() - started):.0f} rows per CPU second")
    rows_wrong = wrong["exact"] + wrong["early"] + wrong["late"] + wrong["declined"]
    exact = wilson(wrong["exact"], rows_wrong)
    print(f"{rows_wrong} wrong: {dict(wrong)}")
    print(f"exact {wrong['exact'] / rows_wrong:.1%} ({exact.low:.1%} to {exact.high:.1%})")
    print(f"{clean.total()} right: {dict(clean)}")


def _named(question: Question, row: dict[str, Any]) -> int:
    path = "\n".join(f"Step {number}: {' '.join(step.split())}" for number, step in enumerate(row["steps"], 1))
    parsed = parse_correction(correct(Problem(question.text, question.gold, question.rationale), path))
    return parsed.step if isinstance(parsed, ParsedCorrection) else 0


if __name__ == "__main__":
    main(*sys.argv[1:3])
