"""Dataset and model cards in Hugging Face's format: YAML front matter that the Hub reads, Markdown that people read.

A card is made from the same figures as the report and is checked before it is given out: a card with a wrong front
matter is refused by the Hub only after the upload.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lema_core.errors import ConfigError
from lema_core.report.data import ReportData
from lema_core.report.notes import base_of, parameters_of
from lema_core.report.render import collapse_blank_lines, template_environment, template_variables
from lema_core.run.spec import RunSpec

__all__ = ["CardSource", "check_card", "dataset_card", "model_card"]

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]*")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_CITATION = """@article{an2023lema,
  title = {Learning From Mistakes Makes LLM Better Reasoner},
  author = {An, Shengnan and Ma, Zexiong and Lin, Zeqi and Zheng, Nanning and Lou, Jian-Guang and Chen, Weizhu},
  journal = {arXiv preprint arXiv:2310.20689},
  year = {2023}
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSource:
    """Something the data were made from, with the licence it came under."""

    name: str
    kind: str
    """Its part: questions, student, corrector, second teacher, writer or answerer of new questions."""
    licence: str
    """The Hub's identifier: mit, apache-2.0, cc-by-4.0, ...; ``other`` for terms of use."""
    url: str | None = None


def dataset_card(
    data: ReportData,
    *,
    name: str,
    licence: str,
    sources: Sequence[CardSource],
    configs: Mapping[str, str],
    rows: int,
    language: Sequence[str] = ("en",),
    preferences: Collection[str] = (),
) -> str:
    """Return the README.md of a data set of corrections.

    Args:
        data: the run's figures.
        name: what people call the data set.
        licence: the Hub's identifier of the licence you give it.
        sources: what it was made from; their licences bind you and are listed.
        configs: a config's name and its files, as ``{"corrections": "corrections/*.parquet"}``.
        rows: rows of the largest config, for the size category.
        language: ISO 639-1 codes.
        preferences: the configs of preference pairs.

    Raises:
        ConfigError: a licence, language or config that the Hub would refuse.
    """
    matter = {
        "pretty_name": name,
        "license": licence,
        "language": list(language),
        "task_categories": ["text-generation"],
        "size_categories": [_size(rows)],
        "tags": ["lema", "learning-from-mistakes", "reasoning", "synthetic"],
        "configs": [{"config_name": config, "data_files": files} for config, files in configs.items()],
    }
    lines = {config: files for config, files in configs.items() if files.endswith(".jsonl")}
    extra = {"name": name, "sources": sources, "citation": _CITATION, "configs": configs}
    return _card("dataset_card.md.j2", matter, data, **extra, lines=lines, preferences=preferences)


def model_card(
    data: ReportData,
    *,
    name: str,
    arm: str,
    base_model: str,
    licence: str,
    sources: Sequence[CardSource] = (),
    datasets: Sequence[str] = (),
    language: Sequence[str] = ("en",),
) -> str:
    """Return the README.md of a model fine-tuned on ``arm``, with its accuracy where the run measured it.

    ``base_model`` and ``datasets`` are ids on the Hub.

    Raises:
        ConfigError: a licence or language that the Hub would refuse, or an arm that the run did not evaluate.
    """
    matter: dict[str, Any] = {
        "license": licence,
        "language": list(language),
        "base_model": base_model,
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["lema", "learning-from-mistakes", "reasoning"],
    }
    if datasets:
        matter["datasets"] = list(datasets)
    if data.evaluation is not None:
        matter["model-index"] = [{"name": name, "results": list(_results(data, arm))}]
    extra = {"name": name, "arm": arm, "base_model": base_model, "sources": sources, "citation": _CITATION}
    return _card("model_card.md.j2", matter, data, **extra)


def check_card(text: str) -> dict[str, Any]:
    """Return a card's front matter, or raise what the Hub would refuse. Uses no network.

    Raises:
        ConfigError: the front matter is missing, is no YAML, or holds a wrong licence, language or config.
    """
    found = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    matter = yaml.safe_load(found.group(1)) if found else None
    if not isinstance(matter, dict):
        raise ConfigError("the card does not begin with YAML front matter between two lines of ---")
    if not _LICENCE.fullmatch(str(matter.get("license", ""))):
        raise ConfigError(
            f"the licence {matter.get('license')!r} is not one of the Hub's identifiers, such as mit, apache-2.0, "
            "cc-by-4.0; use 'other' for anything else"
        )
    wrong = [code for code in matter.get("language", []) if not re.fullmatch(r"[a-z]{2,3}", str(code))]
    if wrong:
        raise ConfigError(f"the languages {wrong} are not ISO 639 codes such as en")
    for config in matter.get("configs", []):
        if not config.get("config_name") or not config.get("data_files"):
            raise ConfigError(f"the config {config} needs a name and its files")
    from huggingface_hub import DatasetCard, ModelCard

    try:
        (ModelCard if ("base_model" in matter) else DatasetCard)(text)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"huggingface_hub does not read this card: {error}") from error
    return matter


def _card(template: str, matter: dict[str, Any], data: ReportData, **more: object) -> str:
    front = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True, width=1000)
    body = (
        template_environment()
        .get_template(template)
        .render(**template_variables(data), licence=matter["license"], **more)
    )
    text = f"---\n{front}---\n\n{collapse_blank_lines(body)}"
    check_card(text)
    return text


def _size(rows: int) -> str:
    return next((name for limit, name in _SIZES if rows < limit), "n>1M")


def _results(data: ReportData, arm: str) -> Iterator[dict[str, Any]]:
    """Yield an arm's accuracy on each test set."""
    for measured in data.sets:
        names = [score.name for score in measured.evaluation.scores]
        if arm not in names:
            raise ConfigError(f"the run did not evaluate the arm {arm!r}; it evaluated {names}")
        accuracy = measured.evaluation.score(arm).accuracy
        yield {
            "task": {"type": "text-generation"},
            "dataset": {"type": measured.name, "name": f"{measured.name}, {accuracy.n} held-out questions"},
            "metrics": [{"type": "accuracy", "name": "accuracy, greedy", "value": round(100 * accuracy.value, 2)}],
        }


UNKNOWN = "unknown"
"""The Hub's identifier of a licence that the run file does not name."""


def run_dataset_card(run: RunSpec, data: ReportData, rows: Mapping[str, int]) -> str:
    """Return the card of a run's exported data; ``rows`` are those of each file.

    Raises:
        ConfigError: a licence that the Hub would refuse.
    """
    configs = {name.rpartition(".")[0]: name for name in rows}
    arms = set(run.mixture.arms if run.mixture else ())
    return dataset_card(
        data,
        name=run.title or run.name,
        licence=run.licences.get("data", UNKNOWN),
        sources=list(_sources(run)),
        configs=configs,
        rows=max(rows.values(), default=0),
        preferences=[name for name in configs if name in arms and run.arm(name).preferences],
    )


def run_model_card(run: RunSpec, data: ReportData, arm: str) -> str:
    """Return the card of the model that was fine-tuned on an arm.

    Raises:
        ConfigError: a licence that the Hub would refuse.
    """
    base = base_of(run, arm) if run.training else UNKNOWN
    return model_card(
        replace(data, parameters=parameters_of(run, arm)),
        name=f"{run.name}-{arm}",
        arm=arm,
        # A folder's place is this machine's own business.
        base_model=Path(base).name if Path(base).exists() else base,
        licence=run.licences.get("model", UNKNOWN),
        sources=list(_sources(run)),
    )


def _sources(run: RunSpec) -> Iterator[CardSource]:
    named = run.questions.hub or (Path(run.questions.path).name if run.questions.path else run.questions.task)
    yield CardSource(name=named, kind="questions", licence=run.licences.get("questions", UNKNOWN))
    used = [("student", student.endpoint) for student in run.students if student.arm is None]
    used += [("corrector", name) for name in (run.corrections.endpoints if run.corrections else ())]
    if run.corrections and run.corrections.second:
        used.append(("second teacher", run.corrections.second))
    if run.evolution:
        used += zip(("writer of new questions", "answerer of new questions"), run.evolution.endpoints, strict=True)
    for kind, name in dict.fromkeys(used):
        yield CardSource(name=run.endpoints[name].model, kind=kind, licence=run.licences.get(name, UNKNOWN))
