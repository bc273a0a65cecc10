"""Our own prompts (few-shot reasoning paths, corrections with four worked examples, evolution) and training formats.

A prompt set is data (``<name>.toml``): an instruction and worked examples for each part. ``sets`` reads them and puts
them together; ``fingerprint(name, part)`` enters the identity of whatever a prompt made. Nothing here sends anything.
"""

from lema_core.prompts.sets import (
    CREATED,
    CUE,
    GIVEN,
    Messages,
    PromptSet,
    correction_input,
    correction_output,
    correction_prompt,
    evolution_prompt,
    fingerprint,
    load,
    names,
    path_input,
    path_prompt,
    prompt_text,
    question_block,
    set_in_file,
    solution_block,
)

__all__ = [
    "CREATED",
    "CUE",
    "GIVEN",
    "Messages",
    "PromptSet",
    "correction_input",
    "correction_output",
    "correction_prompt",
    "evolution_prompt",
    "fingerprint",
    "load",
    "names",
    "path_input",
    "path_prompt",
    "prompt_text",
    "question_block",
    "set_in_file",
    "solution_block",
]
