"""CIDEr-D (arXiv 1411.5726, section 8) of captions, by the document frequencies of their n-grams.

Words and n-grams are numbered, so that NumPy scores all captions together. The key of an n-gram is one int64 of the
number of the (n - 1)-gram it starts with and its last word; its number is the place of its key among all sorted keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ofa.errors import UserError
from ofa.plain_pickle import load_plain_pickle

LONGEST = 4  # words of an n-gram


def with_end(text: str) -> str:
    """A sentence with `<eos>` for a full stop at its end: a caption cut off is not rewarded like a complete one.

    >>> with_end("a dog runs.")
    'a dog runs <eos>'
    """
    return f"{text.strip().removesuffix('.')} <eos>"


@dataclass(frozen=True)
class DocumentFrequencies:
    """The number of images whose references contain each n-gram, as a weight.

    Attributes:
        images: how many there are, N.
        keys: for each n, the sorted keys of the known n-grams.
        weights: for each n, log(N / images whose references contain the n-gram), in the order of the keys.
    """

    images: float
    words: dict[str, int]
    keys: list[np.ndarray]
    weights: list[np.ndarray]

    @classmethod
    def from_references(cls, references: Sequence[Sequence[str]]) -> DocumentFrequencies:
        """Counted in the references, a list for each image.

        Raises:
            UserError: there is no image, or one without references.
        """
        if not references:
            raise UserError("there are no references to count n-grams in")
        texts, image = _flatten(references)
        windows, sentence, words = _windows(texts)
        keys, numbers = _number(windows, len(words))
        weights = []
        for own_keys, number in zip(keys, numbers, strict=True):
            said = number >= 0
            once = np.sort(number[said] * len(references) + image[sentence[said]])
            once = once[np.diff(once, prepend=-1) > 0]  # np.unique would hash, which takes ten times as long
            count = np.bincount(once // len(references), minlength=len(own_keys))
            weights.append(_weights(count, len(references)))
        return cls(len(references), words, keys, weights)

    @classmethod
    def from_file(cls, path: str | Path) -> DocumentFrequencies:
        """Read from a published file, a pickle of {"document_frequency": {n-gram: images}, "ref_len": images in all}.

        Raises:
            UserError: the file cannot be read or holds something else; nothing in it is executed.
        """
        content = load_plain_pickle(path)
        try:
            frequency, images = content["document_frequency"], float(content["ref_len"])
            lengths = np.fromiter(map(len, frequency), np.int64, len(frequency))
            count = np.fromiter(frequency.values(), np.float64, len(frequency))
            valid = set(map(type, frequency)) <= {tuple} and set(map(type, chain.from_iterable(frequency))) <= {str}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(f"{path} holds no document frequencies: {_EXPECTED}") from error
        if not (valid and np.all((1 <= lengths) & (lengths <= LONGEST)) and np.all(count >= 0) and 1 <= images < 1e15):
            raise UserError(f"{path} holds no usable document frequencies: {_EXPECTED}")

        flat, words = _number_words(list(chain.from_iterable(frequency)))
        starts = lengths.cumsum() - lengths
        grams = np.full((LONGEST, len(frequency)), -1)
        for n in range(LONGEST):
            grams[n, lengths > n] = flat[starts[lengths > n] + n]
        keys, numbers = _number(grams, len(words))
        weights = []
        for n in range(LONGEST):
            # What is only the start of longer n-grams stays at 0, which weighs the same as an unknown n-gram.
            own_count = np.zeros(len(keys[n]))
            own_count[numbers[n, lengths == n + 1]] = count[lengths == n + 1]
            weights.append(_weights(own_count, images))
        return cls(images, words, keys, weights)

    def look_up(self, words: Iterable[str], keys: list[np.ndarray]) -> Iterator[np.ndarray]:
        """For each n, the weights [number of keys] of n-grams that others numbered, with `words` in their order."""
        word_here = np.array([self.words.get(word, -1) for word in words], dtype=np.int64)
        number_here = np.zeros(1, dtype=np.int64)  # of the start of an n-gram; a single word starts with nothing
        for known, weights, theirs in zip(self.keys, self.weights, keys, strict=True):
            start, word = np.divmod(theirs, max(len(word_here), 1))
            start, word = number_here[start], word_here[word]
            place, found = _find(np.where((start >= 0) & (word >= 0), start * len(self.words) + word, -1), known)
            result = np.full(len(theirs), math.log(self.images))
            result[found] = weights[place[found]]
            yield result
            number_here = np.where(found, place, -1)


@dataclass(frozen=True)
class CiderD:
    """CIDEr-D by given document frequencies.

    >>> references = [["a dog runs", "a dog"], ["two cats"]]
    >>> CiderD(DocumentFrequencies.from_references(references)).scores(["a dog runs", "a bird"], references).round(2)
    array([5.63, 0.  ])
    """

    frequencies: DocumentFrequencies

    def scores(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        """Scores [N] from 0 to about 10, float64, of N captions and the references of each, split at white space.

        Raises:
            UserError: a caption has no references.
        """
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} captions but {len(references)} lists of references")
        texts, owner = _flatten(references)
        n_hypotheses = len(hypotheses)
        windows, sentence, words = _windows([*hypotheses, *texts])
        keys, numbers = _number(windows, len(words))
        similarity = np.zeros(len(texts))
        for number, weights in zip(numbers, self.frequencies.look_up(words, keys), strict=True):
            similarity += _similarity(number, weights, sentence, owner, n_hypotheses)
        bigrams = np.bincount(sentence[numbers[1] >= 0], minlength=n_hypotheses + len(texts))
        difference = bigrams[:n_hypotheses][owner] - bigrams[n_hypotheses:]
        # 6 is the number of bigrams by which lengths may differ without much of a penalty.
        similarity *= np.exp(-(difference**2) / (2 * 6.0**2)) / LONGEST
        return 10 * np.bincount(owner, similarity, n_hypotheses) / np.bincount(owner, minlength=n_hypotheses)


_EXPECTED = (
    f'expected {{"document_frequency": {{tuple of 1 to {LONGEST} words: number of images}}, "ref_len": images in all}}'
)


def _similarity(
    number: np.ndarray, weights: np.ndarray, sentence: np.ndarray, owner: np.ndarray, n_hypotheses: int
) -> np.ndarray:
    """The clipped cosine of each reference [R] and its hypothesis for n-grams of one length.

    Args:
        number: [words of all sentences], the n-gram (index into `weights`) that starts there, -1 where none does.
        sentence: [words of all sentences], which sentence the word is in; hypotheses come before references.
        owner: [R], the hypothesis each reference is compared with.
    """
    n_grams = max(len(weights), 1)
    n_sentences = n_hypotheses + len(owner)
    said = number >= 0
    pairs, count = np.unique(sentence[said] * n_grams + number[said], return_counts=True)
    who, gram = np.divmod(pairs, n_grams)
    value = count * weights[gram]
    norm = np.sqrt(np.bincount(who, value**2, n_sentences))

    first = np.searchsorted(who, n_hypotheses)  # of the references' pairs
    reference = who[first:] - n_hypotheses
    place, found = _find(owner[reference] * n_grams + gram[first:], pairs[:first])
    theirs = value[first:][found]
    product = np.minimum(value[:first][place[found]], theirs) * theirs
    dot = np.bincount(reference[found], product, len(owner))
    norms = norm[:n_hypotheses][owner] * norm[n_hypotheses:]
    return np.divide(dot, norms, out=np.zeros(len(owner)), where=norms != 0)


def _flatten(references: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All R references in a row, and [R], the index of the list each comes from."""
    counts = np.fromiter(map(len, references), np.int64, len(references))
    if not counts.all():
        raise UserError(f"image {int(np.argmin(counts))} (counted from 0) has no references to compare captions with")
    return list(chain.from_iterable(references)), np.repeat(np.arange(len(references)), counts)


def _windows(sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """The number of each of all T words with those of the next three, -1 after a sentence's end, [4, T]; the index [T]
    of its sentence; and the number of each word.
    """
    split = [sentence.split() for sentence in sentences]
    lengths = np.fromiter(map(len, split), np.int64, len(split))
    flat, words = _number_words(list(chain.from_iterable(split)))
    sentence = np.repeat(np.arange(len(split)), lengths)
    windows = np.full((LONGEST, len(flat)), -1)
    windows[0] = flat
    for n in range(1, LONGEST):
        windows[n, :-n] = np.where(sentence[n:] == sentence[:-n], flat[n:], -1)
    return windows, sentence, words


def _number_words(text: list[str]) -> tuple[np.ndarray, dict[str, int]]:
    """Each word's number, in the order in which words first occur, and the number of each word."""
    words = {word: number for number, word in enumerate(dict.fromkeys(text))}
    return np.fromiter(map(words.__getitem__, text), np.int64, len(text)), words


def _number(rows: np.ndarray, n_words: int) -> tuple[list[np.ndarray], np.ndarray]:
    """For each n, the sorted keys of the n-grams that columns of rows [4, R], filled up with -1, start with.

    Also, [4, R], the number of the one that a column starts with, -1 for none.
    """
    keys, numbers = [], np.full(rows.shape, -1)
    start = np.zeros(rows.shape[1], dtype=np.int64)
    for n, words in enumerate(rows):
        there = words >= 0
        own_keys, numbers[n, there] = np.unique(start[there] * n_words + words[there], return_inverse=True)
        keys.append(own_keys)
        start = numbers[n]
    return keys, numbers


def _weights(count: np.ndarray, images: float) -> np.ndarray:
    return math.log(images) - np.log(np.maximum(count, 1))


def _find(wanted: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the sorted `known` each wanted key is, and whether it is there at all."""
    place = np.searchsorted(known, wanted)
    found = place < len(known)
    found[found] = known[place[found]] == wanted[found]
    return place, found
