"""A reasoning path's text as numbered steps, and back (paper, section 2.1: paths are read step by step).

Reads what students really write: ``Step 1:`` labels (also bold, as headings, several on one line), numbered lists,
unlabelled lines (GSM8K's own solutions: one sentence a line, ``<<3*4=12>>`` calculator marks, ``#### 12`` or ``A: 12``
at the end), paragraphs, and a single line of several sentences. The final answer line is kept apart from the steps.
All functions take time linear in the text. Nothing is judged here.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_MARK = re.compile(r"<<[^<>\n]*>>")
# ``Step 3:``, ``**Step 3.**``, ``### Step 3 -``, ``> step #3)``
_LABEL = re.compile(r"^[#>*_\-\s]{0,12}step\s{0,3}#?(\d{1,4})\b[*_\s]{0,4}[:.)\-–—]?[*_]{0,2}\s*", re.IGNORECASE)
# A further label on a line: ``Step 1: 3 + 4 = 7. Step 2: ...``
_INLINE_LABEL = re.compile(r"(?<=[\s.;!?}])[*_]{0,2}Step (\d{1,4})[*_]{0,2}:[*_]{0,2}\s*")
# ``3. ...`` and ``3) ...``: labels only where they count up from 1, for a line may begin with a number
_LIST_LABEL = re.compile(r"^[*_]{0,2}(\d{1,3})[.)]\s+")
# A line that only announces: "Let's think step by step.", "**Solution:**"
_CUE = re.compile(
    r"^[*_#\s]*(?:answer:\s*)?(?:let['’]s think step by step\.?|(?:original )?solution:|answer:)[*_\s]*$", re.IGNORECASE
)
_ANSWER = re.compile(
    r"^[*_#>\s]*(?:(?:so|thus|therefore|hence)\b[,:]?\s+)?(?:"
    r"(?:the\s+)?(?:final\s+)?(?:correct\s+)?answer\b(?:[^\n.=:]{0,80}?\bis\b|\s*[*_]*[:=])\s*(?P<said>.*)"
    r"|A:\s*(?P<gsm>\S.*))$",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^\s*####\s*(?P<gsm>\S.*)$")
_TRAILING_ANSWER = re.compile(
    r"(?<=[.!?])\s+(?=(?:(?:So|Thus|Therefore|Hence),?\s+)?[Tt]he\s+(?:final\s+)?answer\s+is\b)"
)
# "Mr. Smith" and "3 vs. 4" are one sentence each; a sentence begins with a capital, a quote, a bracket or a formula
_SENTENCE_END = re.compile(
    r"(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bMrs\.)(?<!\bvs\.)(?<=[.!?])\s+(?=[\"“(A-Z$\\])"
)
# A dollar sign before a digit alone is money: "$5 for $2 each"; before anything else it opens or closes LaTeX.
_LATEX = re.compile(r"\\[a-zA-Z]|\$[^$\d\s]")
_OPENED = re.compile(r"\\\[|\\begin\{")
_CLOSED = re.compile(r"\\\]|\\end\{")


@dataclass(frozen=True, slots=True)
class StepPath:
    """A path split: its steps without labels, each on one line, and its final answer line (None if it has none)."""

    steps: tuple[str, ...]
    answer_line: str | None


def strip_marks(text: str) -> str:
    """Return the text without GSM8K's calculator marks (``<<3*4=12>>``)."""
    return _MARK.sub("", text)


def split_path(text: str, *, keep_marks: bool = False) -> StepPath:
    """Split a path's text into its steps and its final answer line.

    A path that consists of nothing but an answer line has that line as its only step, so that every path with text has
    a step that can be wrong. An answer in GSM8K's form (``#### 5``, ``A: 5``) becomes ``The answer is 5.``.
    """
    cleaned = text if keep_marks else strip_marks(text)
    lines = [line.strip() for line in cleaned.replace("\r\n", "\n").split("\n")]
    lines = [line for line in lines if not _CUE.match(line)]
    lines, answer_line = _part_answer(lines)
    steps = [step for step in (_one_line(step) for step in _steps_of(lines)) if step]
    # A single paragraph is split into sentences only now: its last sentence may be the answer line
    if steps and answer_line is None and (said := _said_answer(steps[-1])) is not None:
        steps, answer_line = steps[:-1], said
    if not steps and answer_line is not None:
        return StepPath((answer_line,), None)
    return StepPath(tuple(steps), answer_line)


def number_steps(steps: Iterable[str], first: int = 1) -> str:
    """Return the steps labelled ``Step <first>: ...`` and so on, one per line."""
    return "\n".join(f"Step {first + offset}: {step}" for offset, step in enumerate(steps))


def render_path(steps: Sequence[str], answer_line: str | None) -> str:
    """Return a path in our own text form: numbered steps, one per line, and the final answer line."""
    return "\n".join(part for part in (number_steps(steps), answer_line) if part)


def numbered_path(path_text: str) -> str:
    """Return any path's text in our own form: numbered steps, calculator marks gone, the answer line last."""
    split = split_path(path_text)
    return render_path(split.steps, split.answer_line)


def splice(original: StepPath, step: int, corrected: Sequence[str], answer_line: str | None) -> str:
    """Return a whole solution: the original's steps before ``step`` (1-based), then the corrected steps.

    Raises:
        ValueError: ``step`` is not one of the original's steps.
    """
    if not 1 <= step <= len(original.steps):
        raise ValueError(f"step {step} is not in 1..{len(original.steps)}: name a step that the original has")
    return render_path([*original.steps[: step - 1], *corrected], answer_line)


def same_step(left: str, right: str) -> bool:
    """Whether two steps are the same text, up to labels, marks, white space, case and the full stop."""
    return _comparable(left) == _comparable(right)


def same_steps(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether two runs of steps are the same, step for step."""
    return len(left) == len(right) and all(map(same_step, left, right))


def step_label(line: str) -> tuple[int, str] | None:
    """Return the number and the text of a line that begins with ``Step k:``, or None."""
    label = _LABEL.match(line)
    return (int(label[1]), line[label.end() :].strip()) if label else None


def sentences(text: str) -> list[str]:
    """Split running text into sentences, never inside ``$...$`` where the text is LaTeX (MATH's solutions)."""
    in_latex = _LATEX.search(text) is not None
    found, start, dollars, seen = [], 0, 0, 0
    for end in _SENTENCE_END.finditer(text):
        dollars += text.count("$", seen, end.start()) - text.count("\\$", seen, end.start())
        seen = end.start()
        if not (in_latex and dollars % 2):
            found.append(text[start : end.start()])
            start = end.end()
    return [*found, text[start:]]


def _comparable(step: str) -> str:
    text = strip_marks(step)
    label = _LABEL.match(text)
    text = text[label.end() :] if label else text
    return "".join(text.casefold().replace("*", "×").split()).rstrip(".")


def _one_line(step: str) -> str:
    return " ".join(step.split())


def _said_answer(line: str) -> str | None:
    """Return the answer line in our form if this line is one, else None."""
    found = _HASHES.match(line) or _ANSWER.match(line)
    if found is None:
        return None
    short = found["gsm"]
    return _one_line(line) if short is None else f"The answer is {_one_line(short).rstrip('.')}."


def _part_answer(lines: list[str]) -> tuple[list[str], str | None]:
    """Take the final answer off the last line, which may hold a step before it."""
    end = len(lines)
    while end and not lines[end - 1]:
        end -= 1
    if not end:
        return [], None
    last = lines[end - 1]
    if (said := _said_answer(last)) is not None:
        return lines[: end - 1], said
    parts = _TRAILING_ANSWER.split(last)
    if len(parts) > 1:
        return [*lines[: end - 1], " ".join(parts[:-1])], _one_line(parts[-1])
    return lines[:end], None


def _steps_of(lines: list[str]) -> list[str]:
    filled = [line for line in lines if line]
    if any(_labelled(line) for line in filled):
        pieces = [piece for line in filled for piece in _inline_pieces(line)]
        return _group(pieces, lambda line: _LABEL.match(line) if _labelled(line) else None)
    numbers = [int(label[1]) for label in map(_LIST_LABEL.match, filled) if label]
    counts_up = len(numbers) > 1 and numbers == list(range(1, len(numbers) + 1))
    if counts_up and _LIST_LABEL.match(filled[0]):
        return _group(filled, _LIST_LABEL.match)
    blocks = _blocks(lines)
    return sentences(blocks[0]) if len(blocks) == 1 else blocks


def _labelled(line: str) -> bool:
    label = _LABEL.match(line)
    # "Step 2 of the recipe takes ..." is a sentence; a label ends in a colon or the like, or stands alone.
    return label is not None and (label.end() == len(line) or any(sign in label[0] for sign in ":.)-–—"))


def _inline_pieces(line: str) -> Iterator[str]:
    """Cut ``Step 1: a. Step 2: b.`` before each label that carries the next number; a mere mention does not count."""
    label = _LABEL.match(line)
    number, start = (int(label[1]) if label else 0), 0
    for found in _INLINE_LABEL.finditer(line):
        if int(found[1]) == number + 1:
            yield line[start : found.start()]
            number, start = number + 1, found.start()
    yield line[start:]


def _group(lines: list[str], label_of: Callable[[str], re.Match[str] | None]) -> list[str]:
    """Join each labelled line with the unlabelled ones after it; lines before the first go with the first step."""
    groups: list[list[str]] = []
    preamble: list[str] = []
    for line in lines:
        if (label := label_of(line)) is not None:
            groups.append([*preamble, line[label.end() :]])
            preamble = []
        else:
            (groups[-1] if groups else preamble).append(line)
    return [" ".join(group) for group in groups]


def _blocks(lines: list[str]) -> list[str]:
    """Cut unlabelled text: at blank lines if some paragraph has several lines, else at lines; never inside LaTeX."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line:
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    paragraphs = [paragraph for paragraph in paragraphs if paragraph]
    if len(paragraphs) > 1 and any(len(paragraph) > 1 for paragraph in paragraphs):
        return [" ".join(paragraph) for paragraph in paragraphs]
    blocks: list[list[str]] = []
    depth = 0
    for line in (line for paragraph in paragraphs for line in paragraph):
        if depth > 0:
            blocks[-1].append(line)
        else:
            blocks.append([line])
        depth = max(0, depth + len(_OPENED.findall(line)) - len(_CLOSED.findall(line)))
    return [" ".join(block) for block in blocks]
