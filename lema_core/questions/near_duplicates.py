"""Known questions: the same text, or nearly the same.

``KnownQuestions`` compares texts up to case, white space and punctuation, the signs of formulas excepted: for what must
not be trained on because it is tested on. ``NearDuplicates`` compares sets of word triples by MinHash: for created
questions, which tend to repeat.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasketch import MinHash

NOT_WORDS = re.compile(r"\W+")
SIGNS = r"+\-*/=<>≤≥≠^|!"
NOT_WORDS_OR_SIGNS = re.compile(rf"[^\w{SIGNS}]+")
BESIDE_WORDS = re.compile(rf"(?<=[^\W\d_]{{2}})\s*+[{SIGNS}]++|(?<![{SIGNS}])[{SIGNS}]++\s*+(?=[^\W\d_]{{2}})")
"""Hyphens and exclamation marks: what stands beside a word of two letters or more is punctuation."""
AROUND_SIGNS = re.compile(rf" ?([{SIGNS}]) ?")
ONE_SPELLING = str.maketrans("−–×·÷", "--**/")
SHINGLE = 3
PERMUTATIONS = 128


def normalise(text: str) -> str:
    """Return the text's words and numbers in lower case, one space between."""
    return NOT_WORDS.sub(" ", text.casefold()).strip()


def with_signs(text: str) -> str:
    """Return what ``normalise`` returns, and the signs between numbers and unknowns: 5 - 3 is not 5 + 3."""
    plain = BESIDE_WORDS.sub(" ", text.casefold().translate(ONE_SPELLING))
    return AROUND_SIGNS.sub(r"\1", NOT_WORDS_OR_SIGNS.sub(" ", plain)).strip()


class KnownQuestions:
    """A set of question texts, 8 bytes each."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._keys = {self._key(text) for text in texts}

    def add(self, text: str) -> None:
        """Add a question."""
        self._keys.add(self._key(text))

    def __contains__(self, text: str) -> bool:
        return self._key(text) in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    @staticmethod
    def _key(text: str) -> int:
        return int.from_bytes(hashlib.sha256(with_signs(text).encode("utf-8", "surrogatepass")).digest()[:8])


class NearDuplicates:
    """An index that finds a text whose word triples overlap with a new text's by the threshold or more (Jaccard)."""

    def __init__(self, threshold: float = 0.6) -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        # Bands for recall: a false candidate is sorted out below, a missed one is not. With equal weights the index
        # misses one in five pairs of similarity 0.7 at a threshold of 0.6.
        self._index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._hashes: dict[str, MinHash] = {}

    def add(self, key: str, text: str) -> None:
        """Add a text under a key; a known key keeps its first text."""
        if key not in self._hashes:
            self._hashes[key] = _minhash(text)
            self._index.insert(key, self._hashes[key])

    def like(self, text: str) -> str | None:
        """Return the key of the most similar text at or above the threshold, None if no text is that similar."""
        new = _minhash(text)
        near = [(self._hashes[key].jaccard(new), key) for key in self._index.query(new)]
        similarity, key = max(near, default=(0.0, ""))
        return key if similarity >= self.threshold else None


def _minhash(text: str) -> "MinHash":
    from datasketch import MinHash

    words = normalise(text).split()
    count = max(1, len(words) - SHINGLE + 1)
    shingles = {" ".join(words[start : start + SHINGLE]).encode() for start in range(count)}
    made = MinHash(num_perm=PERMUTATIONS, gpu_mode="disable")
    made.update_batch(sorted(shingles))
    return made
