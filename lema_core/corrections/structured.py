"""Corrections as JSON: the schema that an endpoint is sent, the chat that asks for it, and the reading of the answer.

The parts are those of the text form, and so are the reason codes. An answer that is no such object goes to the text
parser: an endpoint may ignore or refuse the field. What is fixed (instruction, form, examples) stands first in the chat
and the mistake last, so that a server's prefix cache holds all but the mistake.
"""

import json
from collections.abc import Mapping
from typing import Any

from lema_core.answers import MAX_TEXT_CHARS
from lema_core.corrections.parsing import Fault, ParsedCorrection, Shape, parse_correction
from lema_core.prompts import load
from lema_core.prompts.sets import Messages, solution_block
from lema_core.steps import split_path, step_label

FORM_VERSION = 1
"""Raised when the schema or the chat changes: part of the identity of structured corrections."""
MOST_STEPS = 200
_TEXT = {"type": "string"}
_FIELDS: Mapping[Shape, Mapping[str, Any]] = {
    "steps": {
        "step": {"type": "integer"},
        "explanation": _TEXT,
        "corrected_steps": {"type": "array", "items": _TEXT},
        "answer_line": _TEXT,
    },
    "choice": {"mistakes": _TEXT, "corrected_answer": _TEXT},
    "whole": {"mistakes": _TEXT, "corrected_answer": _TEXT},
}
_WISH: Mapping[Shape, str] = {
    "steps": 'Answer with one JSON object: "step" (the number of the first incorrect step), "explanation" (what is '
    'wrong there), "corrected_steps" (the correct steps from that one on, a text each, without numbers) and '
    '"answer_line" ("The answer is X.").',
    "choice": 'Answer with one JSON object: "mistakes" (what is wrong) and "corrected_answer" (the corrected answer).',
    "whole": 'Answer with one JSON object: "mistakes" (what is wrong) and "corrected_answer" (the whole one).',
}


def response_format(shape: Shape) -> dict[str, Any]:
    """Return the field that asks OpenAI, vLLM and llama.cpp for a correction as JSON."""
    fields = _FIELDS[shape]
    # Strict mode needs every field required and no others (OpenAI, Structured Outputs).
    schema = {
        "type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False,
    }  # fmt: skip
    return {"type": "json_schema", "json_schema": {"name": "correction", "strict": True, "schema": schema}}


def structured_prompt(
    prompts: str, question: str, original: str, candidates: tuple[str, ...] | None = None, shape: Shape = "steps"
) -> Messages:
    """Return the chat that asks for a correction as JSON: instruction, form and examples first, the mistake last."""
    part = load(prompts).correction
    messages: list[Mapping[str, str]] = []
    for example in part.examples:
        asked = solution_block(example.question, example.original, example.candidates, shape)
        answer = render_structured(example.correction, shape)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": solution_block(question, original, candidates, shape)})
    first = {"role": "user", "content": f"{part.instruction}\n{_WISH[shape]}\n\n{messages[0]['content']}"}
    return (first, *messages[1:])


def render_structured(text: str, shape: Shape) -> str:
    """Return a correction in the text form as the JSON object of its parts; other text stays as it is."""
    parsed = parse_correction(text, shape)
    if isinstance(parsed, Fault):
        return text
    if shape == "steps":
        value: dict[str, Any] = {
            "step": parsed.step, "explanation": parsed.explanation, "corrected_steps": list(parsed.steps),
            "answer_line": parsed.answer_line or "",
        }  # fmt: skip
    else:
        value = {"mistakes": parsed.explanation, "corrected_answer": "\n".join(parsed.steps)}
    return json.dumps(value, ensure_ascii=False)


def parse_structured(text: str, shape: Shape = "steps") -> ParsedCorrection | Fault:
    """Read a teacher's answer as JSON, else as text. What cannot be read comes back as a fault, never an exception."""
    value = _object_in(text, shape)
    if value is None:
        return parse_correction(text, shape)
    if missing := [name for name in _FIELDS[shape] if name != "step" and name not in value]:
        return Fault("unparsable", f"expected the fields {', '.join(_FIELDS[shape])}; {missing[0]} is missing")
    if shape != "steps":
        mistakes, answer = value["mistakes"], value["corrected_answer"]
        if not isinstance(mistakes, str) or not isinstance(answer, str):
            return Fault("unparsable", "expected mistakes and corrected_answer as texts")
        body = answer.strip("\r\n").rstrip() if shape == "whole" else answer.strip()
        return ParsedCorrection(0, _one_line(mistakes), (body,) if body else (), None, None, elided=False)
    return _steps_of(value)


def _steps_of(value: Mapping[str, Any]) -> ParsedCorrection | Fault:
    step, steps = _number(value.get("step")), value["corrected_steps"]
    if step is None:
        return Fault("step_missing", f"expected a step's number, found {str(value.get('step'))[:80]!r}")
    if not isinstance(steps, list) or len(steps) > MOST_STEPS or not all(isinstance(line, str) for line in steps):
        return Fault("unparsable", f"expected corrected_steps as a list of up to {MOST_STEPS} texts")
    if not isinstance(value["explanation"], str) or not isinstance(value["answer_line"], str):
        return Fault("unparsable", "expected explanation and answer_line as texts")
    lines = [line for line in map(_one_line, steps) if line.strip(". …")]
    if not lines:
        return Fault("unparsable", "the correct solution has no steps")
    answer = _one_line(value["answer_line"])
    if answer and "answer is" not in answer.lower():
        answer = f"The answer is {answer.removesuffix('.')}."
    # One reader for both forms: what a step and an answer line is, the text form says.
    split = split_path("\n".join([*lines, answer] if answer else lines))
    if not split.steps:
        return Fault("unparsable", "the correct solution has no steps")
    label = next((label[0] for label in map(step_label, lines) if label), None)
    return ParsedCorrection(step, _one_line(value["explanation"]), split.steps, split.answer_line, label, step > 1)


def _object_in(text: str, shape: Shape) -> Mapping[str, Any] | None:
    """Return the JSON object that an answer is, with or without a fence around it; None if it is no correction."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```"):
        body = body[3:-3].removeprefix("json").strip()
    if not body.startswith("{") or len(body) > MAX_TEXT_CHARS:
        return None
    try:
        value = json.loads(body)
    # Nested too deep, or a number of thousands of digits.
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value.keys() & _FIELDS[shape].keys() else None


def _number(value: object) -> int | None:
    """Return a step's number; some models write it as a text, or as 3.0."""
    if isinstance(value, str):
        digits = value.strip().lower().removeprefix("step").strip(" .#")
        return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 6 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if abs(value) < 1e6 and value == int(value) else None


def _one_line(text: str) -> str:
    return " ".join(text.split())
