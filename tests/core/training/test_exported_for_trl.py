"""What TRL's own SFTTrainer trains of an export is what our training trains."""

import json
from dataclasses import asdict
from pathlib import Path

from rows import correction_of, judged_path
from support import kept

from lema_core.artifacts import Store
from lema_core.exporting import export
from lema_core.mixture.formats import example_of_correction, example_of_path
from lema_core.records import Example, Question
from lema_core.run.artifacts import RunArtifacts
from lema_core.training.data import TokenisedData, tokenise, tokenizer_for
from lema_core.training.specs import TrainingSpec

WRONG = "Step 1: 3 + 4 = 8.\nThe answer is 8."
SOLUTION = "Step 1: 3 + 4 = 7.\nThe answer is 7."
QUESTION = Question(
    id="q", task="numeric", text="Tom has 3 apples and buys 4 more. How many?", gold="7",
    rationale=SOLUTION,
)  # fmt: skip


def test_trl_trains_the_output_and_the_end_of_the_turn_and_nothing_else(tiny_base: str, tmp_path: Path) -> None:
    import datasets
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    correction = correction_of(
        QUESTION, id="c", path_id="p", original=WRONG, corrector="c", explanation="3 + 4 is 7.", spliced=SOLUTION
    )
    path = judged_path(QUESTION, id="p2", text=SOLUTION)
    rows = [example_of_correction(correction, "correction"), example_of_path(path, "cot")]
    assert WRONG in rows[0].input
    store = Store(str(tmp_path / "store"))
    mixture = kept(store, "mixture", rows, Example)
    export(store, RunArtifacts(mixtures={"lema": mixture}), [], "trl", tmp_path)
    data = datasets.load_dataset("json", data_files=str(tmp_path / "lema.jsonl"), cache_dir=str(tmp_path / "cache"))
    config = SFTConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, max_length=None)
    trainer = SFTTrainer(tiny_base, args=config, train_dataset=data["train"])
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
    tokenizer = trainer.processing_class

    tokens = tmp_path / "tokens"
    spec = TrainingSpec(base=tiny_base)
    tokenise(map(asdict, rows), tokenizer_for(spec, tiny_base), spec, tokens)
    ours = {example.id: example for example in TokenisedData(tokens)}
    for row, ids, labels in zip(rows, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        trained = [token for token in labels if token != -100]
        assert tokenizer.decode(trained) == f"{row.output}<|im_end|>\n"
        example = ours[row.id]
        # The template's line break after the turn is never generated, so that our own training leaves it out.
        assert trained[:-1] == example.input_ids[example.prompt_tokens :]
        assert ids[: len(example.input_ids)] == example.input_ids
        assert WRONG not in tokenizer.decode(trained)
    assert json.loads((tmp_path / "lema.jsonl").read_text().splitlines()[0])["id"] == rows[0].id
