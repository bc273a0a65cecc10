"""A report's figures read back from artifacts: what is counted against what, whose name stands where."""

import io
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import escape
from rich.console import Console
from support import kept

from flows.cli.print_results import sets_table
from lema_core.artifacts import ArtifactRef, Store
from lema_core.llm.ledger.store import CompletionEntry, FailureEntry, LedgerStore
from lema_core.llm.requests import Completion
from lema_core.questions import QuestionsSpec, read_questions
from lema_core.rating.pilot import Decision, decision_folder, write_decision
from lema_core.reasoning_paths import path_row
from lema_core.records import Correction, JudgedPath, Question, Rejection, content_id
from lema_core.report import Usage, render_html, render_markdown, summarize
from lema_core.report.cards import check_card, run_dataset_card, run_model_card
from lema_core.report.data import load_bill, load_report_data, load_test_sets, load_usage
from lema_core.report.prose import describe_bill, describe_yield
from lema_core.run.artifacts import MeasuredSet, QuestionRound, RunArtifacts
from lema_core.run.spec import RunSpec
from lema_core.stages.evaluation import PERPLEXITY_FILE, Perplexity
from lema_core.stages.training import Tokens
from lema_core.training import TrainingSpec
from lema_core.verdicts import judge_path

QUESTIONS = [q for q in read_questions(QuestionsSpec(task="arithmetic", limit=4)) if isinstance(q, Question)]
ENDPOINTS = {
    name: {"model": f"model-{name}", "base_url": "http://127.0.0.1:1/v1"}
    for name in ("student", "other", "teacher", "second", "writer", "answerer")
}
SERVE = {"model": "fine-tuned", "command": "serve {model} --port {port}"}
RUN = {
    "name": "r",
    "questions": {"task": "arithmetic"},
    "test_questions": {"task": "arithmetic", "seed": 5},
    "endpoints": ENDPOINTS,
    "students": [{"endpoint": "student"}],
    "corrections": {"endpoint": "teacher"},
}


def run_of(**sections) -> RunSpec:
    return RunSpec.model_validate(RUN | sections)


def judged(question: Question, answer: object, sample: int = 0) -> JudgedPath:
    text = f"Step 1: {sample} + 0 = {sample}.\nThe answer is {answer}."
    row = judge_path(path_row(question, sample, "student", text))
    assert isinstance(row, JudgedPath)
    return row


def corrected(make_correction, path: JudgedPath, attempt: int = 0, corrector: str = "teacher") -> Correction:
    return make_correction(
        id=content_id("c", path.id, attempt, corrector), path_id=path.id, question_id=path.question_id,
        level=path.level, attempt=attempt, corrector=corrector,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "store"))


def lineage(store: Store, paths: list[JudgedPath], sent: list[JudgedPath], kept_rows: dict[str, list]) -> RunArtifacts:
    first = QuestionRound(kept(store, "questions", QUESTIONS, Question), students=["student"])
    verdicts = dict.fromkeys(("right", "wrong"), 0) | {"wrong": len(paths)}
    first.reasoning_paths = [kept(store, "reasoning_paths", paths, JudgedPath)]
    first.verdicts = [kept(store, "verdicts", paths, JudgedPath, **verdicts)]
    first.mistakes = kept(store, "mistakes", sent, JudgedPath)
    first.corrections = {name: kept(store, "corrections", rows, Correction, name) for name, rows in kept_rows.items()}
    return RunArtifacts(questions=first.questions, rounds=[first])


def test_a_mistake_with_several_corrections_is_one_corrected_mistake(store, make_correction):
    wrong = [judged(question, "-1", sample) for question in QUESTIONS[:2] for sample in range(3)]
    sent = wrong[:4]  # the others repeat an earlier one, or exceed a cap
    main = [corrected(make_correction, path, attempt) for path in sent[:3] for attempt in range(2)]
    failed = Rejection(
        id="x", parent_id=sent[3].id, reason="wrong_answer", detail="", text="", request_key="k"
    )  # fmt: skip
    also = [corrected(make_correction, sent[0], corrector="second")]
    data = load_report_data(store, run_of(), lineage(store, wrong, sent, {"teacher": [*main, failed], "second": also}))
    assert (data.funnel.mistakes, data.funnel.accepted, data.funnel.corrected) == (4, 7, 3)
    assert "3 of 4 mistakes (75" in summarize(data).headline
    (level,) = data.difficulty
    assert (level.verdicts["wrong"], level.mistakes, level.corrected) == (6, 4, 3)
    assert "| 3 of 4 |" in render_markdown(data)


def test_the_correctors_success_is_counted_by_student(store, make_correction):
    wrong = [judged(question, "-1", sample) for question in QUESTIONS[:2] for sample in range(3)]
    sent = [replace(row, student="weak" if number < 2 else "strong") for number, row in enumerate(wrong[:5])]
    kept_rows = [corrected(make_correction, path) for path in (sent[0], sent[1], sent[4])]
    data = load_report_data(store, run_of(), lineage(store, wrong, sent, {"teacher": kept_rows}))
    assert data.funnel.by_student == {"weak": (2, 2), "strong": (3, 1)}
    text = render_markdown(data).replace("\u202f", " ")
    assert "| weak | 2 | 2 (100 %) |" in text
    assert "| strong | 3 | 1 (33 %) |" in text
    assert "mistakes by student" in render_html(data)


def evaluated(store: Store, artifacts: RunArtifacts, rights: dict[str, int], samples: int = 0) -> None:
    for name, right in rights.items():
        answers = [q.gold if number < right else "-1" for number, q in enumerate(QUESTIONS)]
        rows = [judged(q, answer) for q, answer in zip(QUESTIONS, answers, strict=True)]
        artifacts.evaluations[name] = kept(store, "evaluation", rows, JudgedPath, f"{name} {right}")
        votes = [replace(row, sample_index=i) for row in rows for i in range(samples)]
        if samples:
            artifacts.votes[name] = kept(store, "votes", votes, JudgedPath, name)


def test_arms_are_told_without_a_base_model(store):
    artifacts = RunArtifacts()
    evaluated(store, artifacts, {"cot": 1, "lema": 4}, samples=2)
    data = load_report_data(store, run_of(), artifacts)
    assert [(c.arm, c.reference) for c in data.evaluation.comparisons] == [("lema", "cot")]
    summary = summarize(data)
    assert summary.headline.startswith("Right on 4 held-out questions: cot 25")
    assert summary.headline.endswith("; this test cannot tell them apart.")
    assert "Two models were fine-tuned" in summary.lede
    for text in (render_html(data), render_markdown(data)):
        assert "lema against cot" in text
        assert "maj@2" in text
        assert "difference to" not in text
        assert "None" not in text


def test_one_arm_alone_has_its_accuracy_and_no_comparison(store):
    artifacts = RunArtifacts()
    evaluated(store, artifacts, {"lema": 4})
    data = load_report_data(store, run_of(), artifacts)
    assert summarize(data).headline.startswith("Right on 4 held-out questions: lema 100")
    assert summarize(data).caveats == ()
    assert "compared, question by question" not in render_html(data)


@pytest.mark.parametrize(("base", "name"), [("student", "model-student"), ("other", "model-other")])
def test_the_headline_names_the_model_that_was_evaluated_and_not_whoever_made_the_mistakes(store, base, name):
    artifacts = RunArtifacts()
    evaluated(store, artifacts, {"base": 0, "lema": 4})
    assert summarize(load_report_data(store, run_of(evaluation={"base": base}), artifacts)).headline.startswith(
        f"{name} went from"
    )


@pytest.mark.parametrize(
    ("trained", "named"), [("owner/model-student", None), ("./Model-Student/", None), ("tiny", "tiny")]
)
def test_what_was_fine_tuned_is_named_where_it_is_not_what_was_evaluated(store, trained, named):
    artifacts = RunArtifacts()
    evaluated(store, artifacts, {"base": 0, "lema": 4})
    run = run_of(evaluation={"base": "student", "serve": SERVE}, training={"base": trained}, mixture={"arms": ["lema"]})
    assert load_report_data(store, run, artifacts).trained_from == named


TRAINED = {
    "mixture": {"arms": ["lema", "step_dpo"]},
    "training": {"base": "org/base", "learning_rate": 1e-5, "epochs": 3},
    "arm_training": {"step_dpo": {"base": "arm:lema", "learning_rate": 5e-7, "epochs": 1, "beta": 0.5}},
}


def test_a_models_card_tells_the_training_of_its_arm(store):
    run = run_of(**TRAINED)
    data = load_report_data(store, run, RunArtifacts())
    card = run_model_card(run, data, "step_dpo")
    assert "base_model: org/base" in card
    assert "| fine-tuning | DPO with beta 0.5, full, 1 epochs, batch 32, learning rate 5e-07" in card
    assert "from the model of lema |" in card
    assert "| fine-tuning of lema | full, 3 epochs" in card
    plain = run_model_card(run, data, "lema")
    assert "| fine-tuning | full, 3 epochs, batch 32, learning rate 1e-05" in plain
    assert "DPO" not in plain
    assert set(data.parameters) >= {"fine-tuning", "fine-tuning of step_dpo"}
    assert "fine-tuning of lema" not in data.parameters


def test_cards_list_everyone_who_made_questions_or_decided_rows(store):
    run = run_of(
        corrections={"endpoint": "teacher", "second": "second"},
        evolution={"endpoint": "writer", "answers": "answerer"},
        licences={"second": "mit", "writer": "apache-2.0"},
    )
    card = run_dataset_card(run, load_report_data(store, run, RunArtifacts()), {"corrections.parquet": 1})
    for line in (
        "| model-second | second teacher | mit |",
        "| model-writer | writer of new questions | apache-2.0 |",
        "| model-answerer | answerer of new questions | unknown |",
    ):
        assert line in card


@pytest.mark.parametrize(
    ("decision", "rule", "said"),
    [
        (Decision(approved=True, by="person", note="looks good", findings="5 of 6 have one."), None,
         "approved by a person. 5 of 6 have one. Note: looks good"),
        (Decision(approved=True, by="rule", findings="5 of 6 have one.", bounds={"min_accepted": 0.6, "max_poor": 0.2}),
         {"min_accepted": 0.9}, "approved by the rule min_accepted = 0.6 and max_poor = 0.2. 5 of 6 have one."),
        (Decision(approved=True, by="rule", findings="5 of 6 have one."), None,
         "approved by the rule. 5 of 6 have one."),
    ],
)  # fmt: skip
def test_a_gates_decision_is_told(store, make_correction, decision, rule, said):
    run = run_of(quality_gate={"rows": 6, "rule": rule})
    paths = [judged(QUESTIONS[0], "-1")]
    artifacts = lineage(store, paths, paths, {"teacher": [corrected(make_correction, paths[0])]})
    assert not [note for note in load_report_data(store, run, artifacts).notes if "pilot" in note]
    pilot = artifacts.rounds[0].pilots["teacher"] = ArtifactRef("corrections", "of-the-pilot")
    write_decision(decision_folder(store.root, pilot), decision)
    notes = load_report_data(store, run, artifacts).notes
    assert f"A pilot of the corrections by model-teacher was {said}" in notes


@pytest.mark.parametrize(
    ("mistaken", "pairs"), [([3.0, 4.0], {"lema": 2}), ([3.0, float("nan")], {"lema": 1}), ([float("inf")] * 2, {})]
)
def test_delta_ppl_leaves_out_pairs_and_arms_without_a_finite_one(store, mistaken, pairs):
    run, artifacts = run_of(evaluation={"base": "student", "perplexity": 50}), RunArtifacts()
    stage = Perplexity("lema", 50, ArtifactRef("training", "model"), ArtifactRef("corrections", "c"))
    artifacts.perplexities["lema"] = stage.ref
    folder = store.folder(artifacts.perplexities["lema"])
    store.local_folder(artifacts.perplexities["lema"])
    pq.write_table(pa.table({"mistaken": mistaken, "corrected": [2.0, 1.5]}), f"{folder}/{PERPLEXITY_FILE}")
    store.publish_files(stage.identity, [PERPLEXITY_FILE], seconds=1.0)
    assert {arm: gap.n for arm, gap in load_report_data(store, run, artifacts).perplexity_gaps.items()} == pairs


def test_examples_that_were_too_long_are_told_with_what_was_trained_on(store):
    artifacts = RunArtifacts()
    for arm, lost in (("cot", 0), ("lema", 37)):
        stage = Tokens(TrainingSpec(), arm, ArtifactRef("mixture", arm))
        store.local_folder(stage.ref)
        store.publish_files(stage.identity, [], seconds=1.0, extra={"examples": 1163, "rejected": lost})
        artifacts.tokens[arm] = stage.ref
    (note,) = (note for note in load_report_data(store, run_of(), artifacts).notes if "max_length" in note)
    assert note.endswith("left out of the training: 37 of lema, which was trained on 1,163.")


def test_delta_ppl_says_what_it_was_measured_on(store):
    run = run_of(evaluation={"base": "student", "perplexity": 50})
    artifacts = RunArtifacts()
    assert not [note for note in load_report_data(store, run, artifacts).notes if "delta-PPL" in note]
    stage = Perplexity("lema", 50, ArtifactRef("training", "model"), ArtifactRef("corrections", "c"))
    artifacts.perplexities["lema"] = stage.ref
    folder = store.folder(artifacts.perplexities["lema"])
    store.local_folder(artifacts.perplexities["lema"])
    pq.write_table(pa.table({"mistaken": [3.0, 4.0], "corrected": [2.0, 1.5]}), f"{folder}/{PERPLEXITY_FILE}")
    store.publish_files(stage.identity, [PERPLEXITY_FILE], seconds=1.0)
    assert [
        note
        for note in load_report_data(store, run, artifacts).notes
        if "delta-PPL is measured on the first 50" in note
    ]


def paid_by(path, run: str, **lost: int) -> LedgerStore:
    """Return a ledger in which a run paid for one answer of 12 tokens, and for attempts that gave none."""
    ledger = LedgerStore(str(path))
    answer = Completion("k", "t", "stop", 5, 7, "m")
    entries = [CompletionEntry("m", "{}", answer, 0.5)]
    entries += [
        FailureEntry("m", "{}", f"k-{reason}", reason, "x", prompt_tokens=5, completion_tokens=7, cost=dollars / 4)
        for reason, dollars in lost.items()
    ]
    ledger.commit(entries, run)
    return ledger


@pytest.mark.parametrize(
    ("used", "lost", "says"),
    [
        (
            12,
            {},
            "had paid $0.50 when this page was made: $0.50 for 1 answers. The stages in the table used $0.50, which",
        ),
        (12, {"length": 1}, "had paid $0.75 when this page was made: $0.50 for 1 answers and $0.25 for attempts"),
        (
            12,
            {"length": 1, "malformed": 2},
            "(1 length, 1 malformed). The stages in the table used $0.50, which is all",
        ),
        (0, {}, "used $0, $0.50 less: the other answers are those of a pilot"),
        (24, {}, "used $1.00, $0.50 more: other runs paid for some"),
    ],
)
def test_what_the_stages_used_and_what_the_run_paid_agree_or_the_page_says_why(
    sample, tmp_path, used, lost, says
) -> None:
    ledger = paid_by(tmp_path / "ledger.sqlite", "r", **lost)
    usage = Usage(
        stage="corrections", endpoint="m", completions=1, prompt_tokens=used, completion_tokens=0, cost=used / 24
    )
    data = replace(sample, usage=(usage,), bill=load_bill(ledger, "r"))
    ledger.close()
    assert says in describe_bill(data)
    assert escape(says) in render_html(data)
    assert says.split("(")[0].replace("$", "\\$") in render_markdown(data)


def test_without_prices_the_sums_are_in_tokens(sample, tmp_path) -> None:
    ledger = LedgerStore(str(tmp_path / "ledger.sqlite"))
    ledger.commit([CompletionEntry("m", "{}", Completion("k", "t", "stop", 5, 7, "m"), None)], "r")
    usage = Usage(stage="s", endpoint="m", completions=1, prompt_tokens=5, completion_tokens=7, cost=None)
    data = replace(sample, usage=(usage,), bill=load_bill(ledger, "r"))
    ledger.close()
    assert "paid 12 tokens when" in describe_bill(data)


def test_several_test_sets_have_a_column_each_in_every_page(store):
    artifacts = RunArtifacts()
    evaluated(store, artifacts, {"base": 1, "lema": 3}, samples=2)
    other = RunArtifacts()
    evaluated(store, other, {"base": 0, "lema": 2})
    artifacts.further_sets["other"] = MeasuredSet(None, other.evaluations, other.votes)
    sets = [{"task": "arithmetic", "limit": 4}, {"name": "other", "task": "arithmetic", "limit": 4, "seed": 9}]
    run = run_of(test_questions=sets)
    data = load_report_data(store, run, artifacts)
    assert [measured.name for measured in data.sets] == ["arithmetic", "other"]
    summary = summarize(data)
    assert "held-out questions of arithmetic" in summary.headline
    assert "+50 points on other" in summary.headline
    assert "two test sets (4 of arithmetic, 4 of other)" in summary.lede
    # The second set has the very questions of the first: over all they count once.
    assert data.overall.sets == {"arithmetic": 4}
    markdown = render_markdown(data)
    assert "| right, by test set | arithmetic (4) | other (4) | average |" in markdown
    assert "### other" in markdown
    assert "4 questions that an earlier set has too" in markdown
    card = run_model_card(run, data, "lema")
    for text in (markdown, render_html(data), card):
        assert "pooled p" in text
        assert "None" not in text
    (results,) = check_card(card)["model-index"]
    assert [(r["dataset"]["type"], r["metrics"][0]["value"]) for r in results["results"]] == [
        ("arithmetic", 75.0), ("other", 50.0),
    ]  # fmt: skip
    table = io.StringIO()
    figures, overall = load_test_sets(store, run, artifacts)
    Console(file=table, width=160).print(sets_table(figures, overall))
    assert "other" in table.getvalue()
    assert "average" in table.getvalue()


JUDGED = """
from lema_core import FieldMapping, Judge, Score, Task
async def score(question, gold, text, context): return Score("right")
MAPPING = FieldMapping(question="q", gold="a")
TASK = Task(name="mine", prompts="gsm8k", mapping=MAPPING, scorer=score, judge=Judge(endpoint="second"))
"""


def test_what_a_scorers_judge_has_used_is_in_the_table(tmp_path):
    (tmp_path / "mine.py").write_text(JUDGED)
    task, store = f"{tmp_path / 'mine.py'}:TASK", Store(str(tmp_path / "store"))
    asked = {"judge_completions": 3, "judge_prompt_tokens": 50, "judge_completion_tokens": 5}
    path = judged(QUESTIONS[0], 1)
    questions = kept(store, "questions", QUESTIONS, Question)
    paths = kept(store, "reasoning_paths", [path], JudgedPath, completions=4, prompt_tokens=7, completion_tokens=9)
    one_round = QuestionRound(
        questions, students=["student"], reasoning_paths=[paths],
        verdicts=[kept(store, "verdicts", [path], JudgedPath, **asked)],
    )  # fmt: skip
    evaluated = kept(store, "evaluation", [path], JudgedPath, **asked, completions=1)
    run = run_of(questions={"task": task}, test_questions={"task": task}, evaluation={"base": "student"})
    artifacts = RunArtifacts(questions, questions, rounds=[one_round], evaluations={"base": evaluated})
    used = {(u.stage, u.endpoint): (u.completions, u.prompt_tokens) for u in load_usage(store, run, artifacts)}
    assert used == {
        ("reasoning_paths", "model-student"): (4, 7), ("verdicts", "model-second as judge"): (3, 50),
        ("evaluation", "base"): (1, 0), ("evaluation", "model-second as judge"): (3, 50),
    }  # fmt: skip


def test_a_kept_correction_does_not_cost_what_was_asked_after_the_training():
    used = [
        Usage(stage=stage, endpoint="m", completions=1, prompt_tokens=5, completion_tokens=5, cost=None)
        for stage in ("reasoning_paths", "corrections", "evaluation", "votes", "self_correction")
    ]
    assert "has cost 20 tokens" in describe_yield(used, 1)
