"""Plausible figures of a demo run, for the tests of the report and for looking at it."""

import dataclasses
import math

import numpy as np
import pytest

from lema_core.evaluation.accuracy import compare_models
from lema_core.evaluation.statistics import perplexity_gap
from lema_core.records import Correction, JudgedPath
from lema_core.report import Funnel, LossCurve, Provenance, ReportData, Usage

PAIRS = [
    (
        "A florist ties 7 bouquets with 12 tulips each. She had 120 tulips. How many tulips are left?",
        "36",
        ["She uses 7 * 12 = 94 tulips.", "She had 120, so 120 - 94 = 26 are left."],
        1,
        "7 * 12 is 84, not 94: 7 * 10 = 70 and 7 * 2 = 14 add up to 84.",
        ["She uses 7 * 12 = 84 tulips.", "She had 120, so 120 - 84 = 36 are left."],
    ),
    (
        "Mina reads 15 pages a day from Monday to Friday and 25 a day at the weekend. How many pages in two weeks?",
        "250",
        ["From Monday to Friday she reads 5 * 15 = 75 pages.", "At the weekend she reads 25 pages.",
         "In a week that is 75 + 25 = 100 pages.", "In two weeks she reads 2 * 100 = 200 pages."],
        2,
        "The weekend has two days, so its 25 pages count twice.",
        ["At the weekend she reads 2 * 25 = 50 pages.", "In a week that is 75 + 50 = 125 pages.",
         "In two weeks she reads 2 * 125 = 250 pages."],
    ),
    (
        "A tank of 480 litres gains 30 litres a minute and leaks 6. How many minutes until it is full?",
        "20",
        ["The pump fills 30 litres a minute.", "480 / 30 = 16 minutes."],
        2,
        "The leak was forgotten: what stays in the tank is 30 - 6 = 24 litres a minute.",
        ["The tank gains 30 - 6 = 24 litres a minute.", "480 / 24 = 20 minutes."],
    ),
]  # fmt: skip


def correction(number, question, gold, steps, wrong, why, fixed):
    def path(lines, answer, first=1):
        return "\n".join([*(f"Step {i}: {s}" for i, s in enumerate(lines, first)), f"The answer is {answer}."])

    whole = [*steps[: wrong - 1], *fixed]
    said = "".join(c for c in steps[-1].split("=")[-1] if c.isdigit())
    return Correction(
        id=f"correction-{number:04d}",
        path_id=f"path-{number}",
        question_id=f"question-{number}",
        task="arithmetic",
        question=question,
        gold=gold,
        candidates=None,
        level=None,
        student="SmolLM2-135M-Instruct",
        corrector="the reference corrector",
        attempt=0,
        original=path(steps, said),
        wrong_answer=said,
        step=wrong,
        n_steps=len(steps),
        explanation=why,
        correct_solution=path(fixed, gold, wrong),
        spliced=path(whole, gold),
        false_step=None,
        request_key="0" * 16,
        prompt_tokens=300,
        completion_tokens=80,
    )


def judged(number, right, level):
    return JudgedPath(
        id=f"path-{number}",
        question_id=f"question-{number:04d}",
        task="arithmetic",
        question="Q",
        gold="4",
        candidates=None,
        rationale=None,
        level=level,
        student="s",
        sample_index=0,
        text="Step 1",
        finish_reason="stop",
        request_key="k",
        prompt_tokens=1,
        completion_tokens=1,
        verdict="right" if right else "wrong",
        answer=None,
        decided_by="exact",
    )


def sample_evaluation(n=240):
    chance = np.random.default_rng(5)
    levels = [f"{2 + i % 4} terms" for i in range(n)]
    easy = [1.35 - 0.25 * (i % 4) for i in range(n)]

    def model(rate):
        return [judged(i, chance.random() < rate * easy[i], levels[i]) for i in range(n)]

    return compare_models(model(0.04), {"cot": model(0.31), "lema": model(0.38)}, base_name="SmolLM2-135M")


def sample_curve(arm, floor, seed):
    chance = np.random.default_rng(seed)
    points = tuple(
        (s, floor + (2.1 - floor) * math.exp(-s / 14) + chance.uniform(-0.03, 0.03)) for s in range(1, 81, 2)
    )
    return LossCurve(arm=arm, points=points)


def sample_data():
    chance = np.random.default_rng(9)
    ppl = [(chance.uniform(2, 4), chance.uniform(1.5, 3)) for _ in range(120)]
    return ReportData(
        title="demo · arithmetic word problems",
        task="sums of two to five terms, told as short stories",
        students=("SmolLM2-135M-Instruct",),
        corrector="the reference corrector",
        learner="SmolLM2-135M-Instruct",
        parameters={
            "students": "SmolLM2-135M-Instruct (Q4_1, llama.cpp)",
            "samples a question": "4",
            "temperature": "0.7",
            "corrector": "reference corrector",
            "training": "full fine-tuning, ZeRO-2, 2 CPU ranks",
            "examples": "320",
            "epochs": "2",
            "seed": "42",
        },
        notes=(
            "The base model was asked with the same zero-shot prompt as the fine-tuned ones.",
            "The reference corrector is a program that reads the known solution; it is not a language model.",
        ),
        funnel=Funnel(
            questions=400,
            paths=1600,
            verdicts={"wrong": 1313, "none": 168, "right": 112, "ambiguous": 7},
            mistakes=1187,
            corrections=1187,
            accepted=1096,
            corrected=1096,
            rejected={"step_not_in_path": 52, "wrong_answer": 31, "explanation_empty": 8},
        ),
        evaluation=sample_evaluation(),
        curves=(sample_curve("cot", 0.32, 1), sample_curve("lema", 0.41, 2)),
        mistake_steps={1: 612, 2: 301, 3: 122, 4: 48, 5: 13},
        perplexity_gaps={"cot": perplexity_gap([a for a, _ in ppl], [b for _, b in ppl])},
        examples=tuple(correction(i, *pair) for i, pair in enumerate(PAIRS)),
        usage=(
            Usage(
                stage="reasoning_paths",
                endpoint="student",
                completions=1600,
                prompt_tokens=412_800,
                completion_tokens=92_480,
                cost=0.0,
            ),
            Usage(
                stage="corrections",
                endpoint="gpt-4o",
                completions=1187,
                prompt_tokens=379_840,
                completion_tokens=94_960,
                cost=1.9,
            ),
        ),
        provenance=(
            Provenance(stage="questions", identity="5f2c91aa03be77d1", rows=400, rejected=0, seconds=0.4),
            Provenance(stage="reasoning_paths", identity="b91044c02d7f1a3e", rows=1600, rejected=0, seconds=214.0),
            Provenance(stage="corrections", identity="0c77aa19e35f2b60", rows=1096, rejected=91, seconds=3.1),
            Provenance(stage="training", identity="77de01cc93ab4f52", rows=1, rejected=0, seconds=341.7),
        ),
    )


@pytest.fixture(scope="session")
def sample():
    return sample_data()


@pytest.fixture
def make_correction():
    return lambda **fields: dataclasses.replace(correction(0, *PAIRS[0]), **fields)
