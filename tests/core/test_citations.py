"""Each section of the paper that code or docs cite is one of v4's (arXiv 2310.20689v4), and is about what cites it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEADINGS = {
    "1": "introduction",
    "2": "the method",
    "2.1": "generation of correction data: paths, corrections, filter, quality of the corrector",
    "2.2": "correction-centric evolution",
    "2.3": "fine-tuning",
    "3": "set-up",
    "3.1": "tasks",
    "3.2": "data construction: CoT data, majority vote of evolved answers",
    "3.3": "training and evaluation",
    "4": "results",
    "4.1": "main results",
    "4.2": "further analysis: size, tokens, parts, evolution, rounds",
    "5": "related work",
}
SUBJECT = {"evolution": "2.2", "corrections": "2.1", "reasoning_paths": "2.1", "verdicts": "2.1", "training": "2.3"}
"""By a module's name: the section that its first line may cite."""
CITED = re.compile(r"\bsections? (\d(?:\.\d)?)(?:(?:,| and| to) (\d(?:\.\d)?))?")


def sources() -> list[Path]:
    found = [path for folder in ("lema_core", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")]
    return [*found, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]


def test_every_cited_section_exists():
    cited = {
        f"{path.relative_to(ROOT)}: section {number}"
        for path in sources()
        for found in CITED.finditer(path.read_text(encoding="utf-8"))
        for number in found.groups()
        if number and number not in HEADINGS
    }
    assert not cited


def test_a_modules_first_line_cites_its_own_section():
    wrong = {}
    for path in (ROOT / "lema_core").rglob("*.py"):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        subject = path.parent.name if path.stem == "__init__" else path.stem
        numbers = [number for found in CITED.finditer(first) for number in found.groups() if number]
        if subject in SUBJECT and numbers and SUBJECT[subject] not in numbers:
            wrong[str(path.relative_to(ROOT))] = numbers
    assert not wrong
