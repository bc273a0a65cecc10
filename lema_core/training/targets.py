"""The trained tokens of an example before it is tokenised: what arms of equal tokens are cut by (paper, section 4.2).

Counted as ``training.data`` trains it, without torch: the output with what the chat template writes before it, and the
end of the turn. The input is not counted: the paper's 5.4M tokens of 45k examples are 120 each, and a GSM8K question
alone has 61.
"""

from collections.abc import Callable

from lema_core.llm.costs.tokenizers import need_tokenizer
from lema_core.records import Example
from lema_core.training.chat_format import PROBE, ChatFormat, Vocabulary, check_template, plain_format
from lema_core.training.specs import TrainingSpec


def target_counter(spec: TrainingSpec) -> Callable[[Example], int]:
    """Return what counts the trained tokens of an example, by the tokenizer and the template of the spec's base.

    Raises:
        ConfigError: the tokenizer can neither be found nor fetched, or its template cannot be trained.
    """
    model = need_tokenizer(spec.base)
    form = check_template(spec, spec.base) or _plain(spec, model.special)
    ends = form.closing.lstrip()
    space = form.closing[: len(form.closing) - len(ends)]
    # An end that the tokenizer's files do not name is one token: training's own end-of-sequence token.
    end = model.count(ends) if ends else 1
    asked = form.prompt(PROBE)
    # SentencePiece puts a space before a text, so that an output by itself is not what follows a prompt.
    joined = model.count(asked + form.output("7.")) != model.count(asked) + model.count(form.output("7."))

    def count(said: str, *, stops: bool) -> int:
        whole = said + space * stops
        tokens = model.count(asked + whole) - model.count(asked) if joined else model.count(whole)
        return tokens + end * stops

    def count_example(example: Example) -> int:
        if example.worse is not None:
            return sum(count(side, stops=not side.endswith("\n")) for side in (example.output, example.worse))
        first, stop = getattr(example, "masked", None) or (0, 0)
        said = form.output(example.output, example.thinking)
        return count(said, stops=True) - model.count(example.output[first:stop])

    return count_example


def _plain(spec: TrainingSpec, special: object) -> ChatFormat:
    named = special if isinstance(special, dict) else {}
    vocabulary = Vocabulary({"eos_token": ""} | named, frozenset(), frozenset())
    return plain_format(vocabulary, adds_bos=False, keep_thinking=spec.thinking == "keep")
