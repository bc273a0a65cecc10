"""``lema plan``: prompts counted by a real tokenizer, a pilot that the run does not pay for again."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from support import kept
from tokenizers import Tokenizer, models, pre_tokenizers

from lema_core.artifacts import ArtifactRef, Store
from lema_core.errors import ConfigError
from lema_core.llm.ledger.store import LedgerStore
from lema_core.mixture import count_target_words, get_arm
from lema_core.pipeline import Pipeline
from lema_core.records import Correction, Example, Question
from lema_core.run.artifacts import QuestionRound, RunArtifacts
from lema_core.run.files import read_run_file
from lema_core.run.plan import (
    ExampleStats,
    estimate_training,
    forecast_stage,
    from_mixture,
    from_pool,
    open_for_reading,
    planned_stages,
    select_pilot_stages,
)
from lema_core.run.spec import RunContext
from lema_core.stages.evaluation import Evaluation, Votes
from lema_core.stages.mixture import Mixture, MixtureSpec
from lema_core.training import LaunchSpec, TrainingSpec

CORRECTION = Correction(
    id="c", path_id="p", question_id="q", task="arithmetic", question="Q", gold="3", candidates=None, level=None,
    student="s", corrector="t", attempt=0, original="o", wrong_answer="2", step=1, n_steps=1, explanation="e",
    correct_solution="c", spliced="c", false_step=None, request_key="k", prompt_tokens=1, completion_tokens=1,
)  # fmt: skip
TEMPLATE = "{% for one in messages %}{{ one.content }}{% endfor %}"


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Give a folder with a tokenizer of one token a word or run of signs, and a template that adds nothing."""
    folder = tmp_path / "model"
    folder.mkdir()
    made = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def test_prompts_are_exact_with_the_models_tokenizer_and_estimated_without(run_file, tmp_path, model) -> None:
    for name, exact in (("simulated-student", False), (model, True)):
        run, root = read_run_file(run_file, [f"endpoints.student.model={name}"]), str(tmp_path / "out")
        stages = {stage.name: stage for stage in planned_stages(run, root)}
        paths = stages["reasoning_paths"]
        with open_for_reading(RunContext.of(run, root).ledger) as ledger:
            found = forecast_stage(ledger, paths)
        assert found is not None
        assert found.prompts_counted is exact
        assert paths.asked is not None
        texts = ["".join(str(one["content"]) for one in request.messages) for request in paths.asked()]
        counted = sum(len(re.findall(r"\w+|[^\w\s]+", text)) for text in texts)
        assert (found.prompt_tokens.low == found.prompt_tokens.high == counted) is exact


def test_a_base_whose_template_cannot_be_trained_is_refused_by_the_plan(run_file, tmp_path, model) -> None:
    from flows.preflight import check_templates

    arms = ['mixture.arms=["cot"]', f"training.base={model}"]
    with pytest.raises(ConfigError, match=r"training\.base"):
        check_templates(read_run_file(run_file, arms))
    check_templates(read_run_file(run_file, [*arms, "training.template=plain"]))


def test_a_pair_is_as_long_as_both_its_sequences() -> None:
    plain = Example(id="e", kind="cot", source_id="s", question_id="q", input="in", output="right")
    pair = replace(plain, prefix="step", worse="wrong!")
    lengths = [len(text) for text in from_mixture(2, lambda: iter((plain, pair))).texts()]
    assert lengths == [len("inright"), len("instepright") + len("instepwrong!")]
    question = Question(id="q", task="gsm8k", text="what", gold="3", rationale="because")
    one, two = ([*from_pool(1, lambda: [question], pairs=pairs).texts()] for pairs in (False, True))
    assert len(two[0]) == 2 * len(one[0])
    unread = ExampleStats(1, tuple, "nothing")
    told = [
        estimate_training(TrainingSpec(objective=name), LaunchSpec(ranks=1), unread, 0.4) for name in ("sft", "dpo")
    ]
    tokens = [float(re.search(r"([\d.]+)M tokens", line)[1]) for line in told]
    assert tokens[1] == 2 * tokens[0]


def test_a_pilot_is_paid_once_and_kept_in_the_runs_ledger(lema, run_file, simulated, tmp_path) -> None:
    def paid() -> int:
        return simulated.stats.counts["ok"]

    told = lema("plan", run_file, "--root", "out", "--pilot", 7).stdout
    assert "Pilot: up to 7 requests each for reasoning_paths of student. They are paid, and kept in the ledger" in told
    assert "7 answered, 0 failed; 7 bought now" in told
    assert "as in 7 earlier ones" in told
    assert "the ledger holds 7 more" in told
    assert paid() == 7
    again = lema("plan", run_file, "--root", "out", "--pilot", 7, "--set", "budget.tokens=1000000").stdout
    assert "7 answered, 0 failed; 0 bought now" in again
    spent = LedgerStore(str(tmp_path / "out" / "ledger.sqlite")).spent("flow_test")[1]
    assert f"Budget of the run flow_test: {spent:,} of 1,000,000 tokens spent so far" in again
    assert "flow_test-corrections and may spend as much again" in again
    assert paid() == 7


def test_a_pilot_stays_within_the_runs_budget(lema, run_file, simulated) -> None:
    done = lema("plan", run_file, "--root", "out", "--pilot", 7, "--set", "budget.tokens=1000", check=False)
    assert done.returncode == 1
    assert "budget" in done.stderr


def test_only_an_arm_of_equal_tokens_depends_on_the_tokenizer(model, tmp_path) -> None:
    def mixture(arm: str, base: str | None) -> Mixture:
        training = TrainingSpec(base=base, template="plain") if base else None
        return Mixture(MixtureSpec(), get_arm(arm), "arithmetic", (), training=training)

    def fingerprint(arm: str, base: str | None) -> str:
        return mixture(arm, base).ref.fingerprint

    for arm in ("lema", "lema_same_size"):
        assert fingerprint(arm, "some/model") == fingerprint(arm, "another/model") == fingerprint(arm, None)
    assert len({fingerprint("cot_same_tokens", base) for base in ("some/model", "another/model", None)}) == 3

    def rules(arm: str, base: str | None):
        return mixture(arm, base).rules(Store(str(tmp_path)))

    example = Example(id="e", kind="cot", source_id="s", question_id="q", input="a long input", output="a == b")
    # Two signs together are one token of this model, and the end of the turn is one more; the input is not counted.
    assert rules("cot_same_tokens", model).count_targets(example) == 3 + 1
    assert count_target_words(example) == 4
    assert rules("cot_same_tokens", None).count_targets is count_target_words
    assert rules("lema", "no/such").count_targets is count_target_words


def test_a_tokenizer_that_is_missing_is_told_before_anything_is_paid(lema, run_file, simulated, tmp_path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"x")
    training = ["--set", f"training.base={base}", "--set", "mixture.arms=['cot_same_tokens']"]
    done = lema("run", run_file, "--root", "out", *training, check=False)
    assert done.returncode == 1
    assert "no tokenizer for" in done.stderr
    assert simulated.stats.counts["ok"] == 0


def test_no_model_is_piloted_that_is_still_to_be_trained(tmp_path) -> None:
    smoke = read_run_file(Path(__file__).resolve().parents[2] / "deployments" / "runs" / "smoke.toml")
    stages = {stage.name: stage for stage in planned_stages(smoke, str(tmp_path / "out"))}
    trained = stages["evaluation: lema"]
    assert " served as " in trained.endpoint.identity
    assert (trained.trained, trained.tokenizer) == (False, "tiny")
    assert [stage.name for stage in select_pilot_stages(stages.values())] == ["reasoning_paths"]


def test_an_evaluation_is_known_by_the_task_of_the_questions_that_are_asked(run_file, tmp_path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    tested = [f"test_questions={{task = 'numeric', path = '{file}'}}", "evaluation={base = 'student', samples = 2}"]
    run = read_run_file(run_file, tested)
    stages = {stage.name: stage.ref for stage in planned_stages(run, str(tmp_path / "out"))}
    assert run.evaluation
    student = run.endpoint("student")
    for kind in (Evaluation, Votes):
        asked = kind(run.evaluation, "base", student, "few_shot", "numeric", stages["test_questions"])
        assert stages[f"{kind.name}: base"] == asked.ref


def test_a_run_without_a_correction_measures_no_delta_ppl(run_file, tmp_path) -> None:
    measured = ["evaluation={base = 'student', perplexity = 5, serve = {model = 'm', command = 'm'}}"]
    pipeline = Pipeline(read_run_file(run_file, measured), str(tmp_path / "out"))
    for rows, found in (([], []), ([CORRECTION], ["perplexity: lema"])):
        corrections = kept(pipeline.store, "corrections", rows, Correction, str(rows))
        pipeline.artifacts = RunArtifacts(
            test_questions=ArtifactRef("questions", "q"),
            rounds=[QuestionRound(corrections, corrections={"teacher": corrections})],
            models={"lema": ArtifactRef("training", "f")},
        )
        assert [stage.title for stage in pipeline.evaluation() if stage.name == "perplexity"] == found


def test_a_cells_plan_evaluates_the_cells_own_arm_only(tmp_path) -> None:
    chained = ["ablation.arms=['cot', 'step_dpo']", "arm_training={step_dpo = {base = 'arm:lema'}}"]
    runs = Path(__file__).resolve().parents[2] / "deployments" / "runs"
    names = [
        one.name for one in planned_stages(read_run_file(runs / "ablation_smoke.toml", chained), str(tmp_path / "out"))
    ]
    evaluated = [name for name in names if name.startswith("evaluation: step_dpo, seed 0, tiny")]
    assert len(evaluated) == len(set(evaluated))
    assert sum(name.startswith("training: step_dpo, seed 0, tiny") for name in names) == 2 * len(evaluated)
