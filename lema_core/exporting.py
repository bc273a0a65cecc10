"""A run's training data and its models, for other programs and for the Hub, each with its card."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from lema_core.artifacts import Store
from lema_core.artifacts.files import atomic_local, error_text
from lema_core.artifacts.manifest import damage_error
from lema_core.artifacts.parquet import TableWriter, schema_of, table_of
from lema_core.artifacts.part import WRITE_BATCH
from lema_core.errors import ArtifactError, ConfigError, EndpointError
from lema_core.records import Correction, Example, JudgedPath
from lema_core.run.artifacts import RunArtifacts
from lema_core.system.chunking import chunked
from lema_core.system.redaction import Redactor
from lema_core.training.specs import MODEL_FOLDER

Format = Literal["trl", "chat", "parquet"]
"""``trl``: a line ``{"prompt": [user], "completion": [assistant], ...}`` per example, of which TRL's SFTTrainer trains
the completion only; of a preference pair ``{"prompt": [user], "chosen": [assistant], "rejected": [assistant], ...}``,
as its DPOTrainer reads it; of KTO's rows prompt, completion and ``label``. ``chat``: ``{"messages": [user,
assistant], ...}`` in place of prompt and completion. TRL
trains every turn of it, and the user's turn of a correction holds the mistake: it is for trainers that mask the user.
``parquet``: the tables as they are.
"""
Kind = Literal["dataset", "model"]
"""Of a repository of the Hub."""
CARD = "README.md"
_OURS = "<!-- Written by `lema export`; the next export replaces it. -->"
_OLDER = ("(LeMa)", "LeMa (Learning from Mistakes)")
"""In the cards of versions that did not mark theirs."""
TOKEN = "HF_TOKEN"  # noqa: S105  the variable's name


def export(store: Store, artifacts: RunArtifacts, arms: Iterable[str], form: Format, folder: Path) -> dict[str, int]:
    """Write a run's data into a folder and return the rows of each file.

    Args:
        store: where the artifacts are.
        artifacts: the run's artifacts.
        arms: whose examples to write, a file an arm; none of them writes the whole pool: every arm of the run and, as
            Parquet, the judged paths and the corrections they were made from.
        form: of the files.
        folder: gets them; files of the same names are replaced, each in one step.

    Raises:
        ConfigError: the run has no such arm.
        ArtifactError: the data have not been made yet.
    """
    chosen = list(arms)
    if unknown := [arm for arm in chosen if arm not in artifacts.mixtures]:
        raise ConfigError(f"the run has no arm {unknown[0]!r}; it has {', '.join(artifacts.mixtures) or 'none'}")
    written: dict[str, int] = {}
    for arm in chosen or artifacts.mixtures:
        rows = store.rows(artifacts.mixtures[arm], Example)
        name = f"{arm}.parquet" if form == "parquet" else f"{arm}.jsonl"
        if form == "parquet":
            written[name] = _parquet(rows, Example, folder / name)
        else:
            line_of = chat_line if form == "chat" else trl_line
            written[name] = _jsonl(map(line_of, rows), folder / name)
    if form == "parquet" and not chosen:
        corrections = [ref for question_round in artifacts.rounds for ref in question_round.corrections.values()]
        verdicts = [ref for question_round in artifacts.rounds for ref in question_round.verdicts]
        for name, refs, record in (("corrections", corrections, Correction), ("paths", verdicts, JudgedPath)):
            rows_of_all = (row for ref in refs for row in store.rows(ref, record))
            written[f"{name}.parquet"] = _parquet(rows_of_all, record, folder / f"{name}.parquet")
    if not written:
        raise ConfigError("the run has nothing to export: no [mixture] and no paths")
    return written


def export_model(store: Store, artifacts: RunArtifacts, arm: str, folder: Path) -> dict[str, int]:
    """Copy an arm's model, weights and tokenizer, into a folder and return the bytes of each file.

    Raises:
        ConfigError: the run trains no such arm.
        ArtifactError: the model has not been made yet.
    """
    if arm not in artifacts.models:
        raise ConfigError(f"the run trains no arm {arm!r}; it trains {', '.join(artifacts.models) or 'none'}")
    manifest = store.manifest(artifacts.models[arm])
    source = store.local_folder(artifacts.models[arm]) / MODEL_FOLDER
    names = [file.removeprefix(f"{MODEL_FOLDER}/") for file in manifest.files if file.startswith(f"{MODEL_FOLDER}/")]
    written: dict[str, int] = {}
    for name in sorted(name for name in names if "/" not in name and name != CARD):
        # What is not named by the manifest was put there by another program.
        with atomic_local(folder / name) as local:
            try:
                shutil.copyfile(source / name, local)
            except FileNotFoundError:
                raise damage_error(f"{source}/{name}", str(source.parent), "it is missing") from None
        written[name] = (folder / name).stat().st_size
    return written


def check_card(folder: Path) -> None:
    """Refuse a folder whose card is not ours: an export replaces the card.

    Raises:
        ConfigError: its README.md was written by someone else.
    """
    card = folder / CARD
    try:
        held = card.read_bytes().decode("utf-8", "replace") if card.exists() else _OURS
    except OSError as error:
        raise ConfigError(f"{card} cannot be read ({error_text(error)}). Name another folder with --to") from None
    if not any(mark in held for mark in (_OURS, *_OLDER)):
        raise ConfigError(
            f"{card} was not written by `lema export`, which writes its own card there. Name an empty folder with "
            "--to, or move that file away"
        )


def write_card(folder: Path, text: str) -> None:
    """Write a card beside what it describes.

    Raises:
        ConfigError: the folder has a card that is not ours.
    """
    check_card(folder)
    with atomic_local(folder / CARD) as local:
        local.write_text(f"{text.rstrip()}\n\n{_OURS}\n", encoding="utf-8")


def push(
    folder: Path, names: Iterable[str], repository: str, kind: Kind, *, private: bool, notify: Callable[[str], None]
) -> str:
    """Upload files to the Hub and return their address; the token comes from ``HF_TOKEN`` only.

    Args:
        folder: where the files are.
        names: of the files that ``export`` or ``export_model`` wrote, and of the card. Nothing else of the folder is
            sent.
        repository: ``owner/name``.
        kind: of the repository.
        private: whether others may see a new one.
        notify: called before the upload with a description of what is sent, and where.

    Raises:
        ConfigError: there is no token, or the name cannot be one of the Hub's.
        ArtifactError: a file is not there any more.
        EndpointError: the Hub refused.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but exported by name only

    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(f"a push needs a token with write access in the environment variable {TOKEN}")
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise ConfigError(f"{repository!r} cannot be a name on the Hub: {error}") from error
    api = HfApi(token=token)
    files = [folder / name for name in sorted(names)]
    if missing := [str(path) for path in files if not path.is_file()]:
        raise ArtifactError(f"{missing[0]} is missing, which this export wrote. Nothing was sent; export again")
    size = sum(path.stat().st_size for path in files)
    listed = ", ".join(path.name for path in files)
    address = f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}"
    notify(f"Sending {listed} ({size / 1e6:.1f} MB) to {address}, nothing else")
    try:
        api.create_repo(repository, repo_type=kind, private=private, exist_ok=True)
        api.create_commit(
            repo_id=repository, repo_type=kind, commit_message=f"The {kind} of a LeMa run",
            operations=[CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files],
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - the client's own errors and those of its HTTP stacks
        raise EndpointError(
            f"the Hub refused the push of {repository}: {Redactor(token).redact(error_text(error))}"
        ) from None
    return address


def _jsonl(lines: Iterable[dict[str, object]], path: Path) -> int:
    count = 0
    with atomic_local(path) as local, local.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def trl_line(row: Example) -> dict[str, object]:
    """Return an example in TRL's conversational prompt and completion form, or a preference pair in its own.

    Only the completion is trained: a prompt may hold a wrong path, which must never be a target.
    """
    named = {"kind": row.kind, "id": row.id, "question_id": row.question_id}
    prompt = [_turn("user", row.input)]
    if row.kind in ("desirable", "undesirable"):
        completion = [_turn("assistant", row.output)]
        return {"prompt": prompt, "completion": completion, "label": row.kind == "desirable", **named}
    if row.worse is None:
        return {"prompt": prompt, "completion": [_turn("assistant", row.output)], "weight": row.weight, **named}
    # Steps that both sides begin with cancel in DPO's loss: as one turn they train what they train as a prefix.
    sides = {"chosen": row.output, "rejected": row.worse}
    answers = {side: [_turn("assistant", row.prefix + text)] for side, text in sides.items()}
    return {"prompt": prompt, **answers, "prefix": row.prefix, **named}


def chat_line(row: Example) -> dict[str, object]:
    """Return an example as messages; a preference pair and a row of KTO as `trl_line` does."""
    line = trl_line(row)
    if row.worse is not None or "label" in line:
        return line
    answer = [_turn("assistant", row.output)]
    return {"messages": [_turn("user", row.input), *answer]} | {
        name: value for name, value in line.items() if name not in {"prompt", "completion"}
    }


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _parquet(rows: Iterable[object], record: type, path: Path) -> int:
    count = 0
    with atomic_local(path) as local, TableWriter(local, schema_of(record)) as out:
        for batch in chunked(rows, WRITE_BATCH):
            out.write(table_of(batch, record))
            count += len(batch)
    return count
