import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lema_core.artifacts import ArtifactRef
from lema_core.errors import DataError
from lema_core.evaluation.accuracy import judge_answer, score_votes
from lema_core.evaluation.statistics import pass_at_k
from lema_core.llm.endpoints import EndpointSpec
from lema_core.llm.requests import Completion
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.records import JudgedPath
from lema_core.stages.evaluation import EvaluationSpec, Votes


def sampled(k: int) -> Votes:
    model = EndpointSpec(model="m", base_url="http://127.0.0.1:1/v1")
    return Votes(EvaluationSpec(samples=k), "base", model, "zero_shot", "numeric", ArtifactRef("questions", "q"))


SAMPLE = JudgedPath(
    id="p", question_id="q", task="numeric", question="Q", gold="0.5", candidates=None, rationale=None, level=None,
    student="s", sample_index=0, text="t", finish_reason="stop", request_key="k", prompt_tokens=1, completion_tokens=1,
    verdict="wrong", answer=None, decided_by="exact",
)  # fmt: skip


def answers(question, *said):
    for index, answer in enumerate(said):
        right = answer in {"0.5", "1/2"}
        verdict = "right" if right else "wrong" if answer else "failed"
        yield dataclasses.replace(
            SAMPLE, question_id=question, sample_index=index, answer=answer, verdict=verdict, id=f"{question}-{index}"
        )


def test_answers_vote_by_equivalence_right_and_wrong_ones_alike():
    rows = [
        *answers("a", "1/2", "0.5", "3", "3", "7"),  # two spellings of the right answer: a tie with 3
        *answers("b", "0.25", "1/4", "25%", "0.5", "0.5"),  # three spellings of one wrong answer win
        *answers("c", None, None, "0.5", None, None),  # what failed does not vote
    ]
    (score,) = score_votes({"base": rows})
    assert score.k == 5
    assert score.accuracy.successes == pytest.approx(0.5 + 0 + 1)
    assert score.accuracy.low < score.accuracy.value < score.accuracy.high
    assert score.difference is None


SCORED = """
from lema_core import FieldMapping, Score, Task
def score(question, gold, text, context): return Score("right" if gold in text else "wrong")
TASK = Task(name="mine", prompts="gsm8k", mapping=FieldMapping(question="q", gold="a"), scorer=score)
"""


def test_samples_that_only_a_scorer_judges_have_pass_at_k_and_no_majority(tmp_path):
    (tmp_path / "mine.py").write_text(SCORED)
    task = f"{tmp_path / 'mine.py'}:TASK"
    rows = [
        dataclasses.replace(SAMPLE, task=task, question_id=question, sample_index=index, verdict=verdict)
        for question, verdicts in (("a", "rwww"), ("b", "wwww"), ("c", "uuru"))
        for index, verdict in enumerate({"r": "right", "w": "wrong", "u": "unknown"}[one] for one in verdicts)
    ]
    base, arm = score_votes({"base": rows, "lema": rows}, pass_at=(1, 2, 4))
    assert (base.accuracy, base.difference, arm.difference) == (None, None, None)
    assert [passed.accuracy.successes for passed in base.passes] == pytest.approx([2 / 4, 2 / 2, 2])
    assert [passed.difference.value for passed in arm.passes] == [0, 0, 0]


def test_an_answer_that_cannot_be_decided_votes_and_is_not_right():
    question = dataclasses.replace(next(read_questions(QuestionsSpec(task="arithmetic", limit=1))), gold="1")
    asked = sampled(4).requests([question])
    texts = ["The answer is 9**9**9**9.", "The answer is 1.", "The answer is 9**9**9**9.", "Who knows."]
    rows = [
        judge_answer(one, "m", Completion("k", text, "stop", 1, 1, "m")) for one, text in zip(asked, texts, strict=True)
    ]
    assert [row.verdict for row in rows] == ["unknown", "right", "unknown", "none"]
    assert [row.answer for row in rows] == ["9**9**9**9", "1", "9**9**9**9", None]
    assert score_votes({"base": rows})[0].accuracy.successes == 0, "two equal answers outvote the right one"


def test_models_are_compared_question_by_question():
    def model(rights):
        return [row for i in range(40) for row in answers(f"q{i}", *(["0.5"] * 3 if i < rights else ["9"] * 3))]

    base, arm = score_votes({"base": model(10), "lema": model(30)})
    assert (base.accuracy.successes, arm.accuracy.successes) == (10, 30)
    assert arm.difference.value == pytest.approx(0.5)
    assert arm.difference.low > 0.3


def test_votes_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match="different numbers of samples"):
        score_votes({"base": [*answers("a", "1", "2"), *answers("b", "1")]})
    with pytest.raises(DataError, match="other questions"):
        score_votes({"base": answers("a", "1"), "lema": answers("b", "1")})


def test_more_samples_keep_the_first_ones_and_each_question_draws_by_itself():
    rows = list(read_questions(QuestionsSpec(task="arithmetic", limit=2)))

    def asked(k):
        return [(r.request.sampling.seed, r.sample_index) for r in sampled(k).requests(rows)]

    assert len(asked(2)) == 4
    assert set(asked(2)) < set(asked(3))
    assert len({seed for seed, _ in asked(3)}) == 2


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(drawn):
    samples, right, k = drawn
    subsets = list(itertools.combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_of_what_was_not_sampled_is_refused(samples, right, k):
    with pytest.raises(DataError, match="1 <= k <= samples"):
        pass_at_k(samples, right, k)


def test_pass_at_k_stands_beside_the_votes():
    rows = [*answers("a", "0.5", "3", "3", None), *answers("b", None, "7", "7", "7")]
    (score,) = score_votes({"base": rows})
    assert [passed.k for passed in score.passes] == [1, 2, 4]
    assert [passed.accuracy.value for passed in score.passes] == pytest.approx([1 / 8, 1 / 4, 1 / 2])
    better = [*answers("a", *["0.5"] * 4), *answers("b", *"7777")]
    (base, lema) = score_votes({"base": rows, "lema": better}, pass_at=[3])
    assert [passed.k for passed in lema.passes] == [3]
    assert lema.passes[0].difference.value == pytest.approx(0.5 - 3 / 8)
    assert base.passes[0].difference is None


def test_a_k_above_the_samples_is_refused_before_anything_is_asked():
    with pytest.raises(ValueError, match="pass_at = 8 needs as many samples, and samples is 4"):
        EvaluationSpec(samples=4, pass_at=(8,))


def test_the_k_of_pass_at_k_name_nothing_anew():
    one, other = sampled(4), dataclasses.replace(sampled(4), spec=EvaluationSpec(samples=4, pass_at=(3,)))
    assert one.ref == other.ref
