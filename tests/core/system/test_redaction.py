"""A key is found in every spelling in which a server may repeat it, and nothing else is taken for it."""

import json
import time

import pytest
from hostile_endpoint import SPELLINGS
from hostile_trials import _holds_key

from lema_core.system.redaction import Redactor, get_redactor, redact_secrets

KEYS = [
    "sk-proj-REALKEY-never+echoed/0987654321&x",
    "abcdefghijklmnop",
    "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8S9t0",
    "odd\"key<with>&every'sign-20\\in/it+=~",
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_every_spelling_is_taken_out_also_inside_json(key, spelling, levels):
    text = f"before {SPELLINGS[spelling](key)} after"
    for _ in range(levels):
        text = json.dumps({"message": text})
    assert _holds_key(text, key)
    redact = Redactor(key).redact
    assert not _holds_key(redact(text), key)
    assert redact(text.encode()) == redact(text).encode()
    assert "before" in redact(text)
    assert "after" in redact(text)


@pytest.mark.parametrize("key", ["EMPTY", "test-key", "token", "none-needed"])
def test_a_place_holder_is_taken_out_only_as_it_is(key):
    text = f"{key.swapcase()} and {key[:3]}\n{key[3:]}"
    assert Redactor(key).redact(text) == text
    assert Redactor(key).redact(f"the key {key} itself") == "the key *** itself"


def test_a_secret_of_a_few_characters_stays():
    assert Redactor("none").redact("none of it") == "none of it"


def test_text_without_the_key_is_unchanged():
    text = json.dumps({"text": "50% of 20 &amp; 5\u00b0, \\frac{1}{2}, sk-proj-, REALKEY, " + "word " * 500})
    assert Redactor(KEYS[0]).redact(text) == text


@pytest.mark.parametrize(
    "piece", ["\\", "%41", "%25", "&amp;", "&#", "s", "sk-pro", "\\u00", "\\n", " ", "sk-proj-REALKEY-", "%0a", "=\r\n"]
)
def test_the_time_is_linear_in_the_text(piece):
    redact = Redactor(KEYS[0]).redact

    def seconds(characters: int) -> float:
        text = ("sk-proj-REALKEY-never" + piece * (characters // len(piece))).encode()
        best = 9.0
        for _ in range(3):
            began = time.process_time()
            redact(text)
            best = min(best, time.process_time() - began)
        return best

    # Twice the time for twice the text; four times would be quadratic.
    assert seconds(400_000) < 3.2 * seconds(200_000) + 0.01


def test_what_a_process_has_read_is_taken_out_of_any_text():
    get_redactor(KEYS[2])
    assert redact_secrets(f"401: {KEYS[2]}") == "401: ***"
