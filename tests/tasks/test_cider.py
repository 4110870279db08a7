import math
import os
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest
from helpers.golden import load_json

from ofa.errors import UserError
from tasks.metrics.cider import CiderD, DocumentFrequencies, with_end

RECORDED = load_json("fairseq_text.json")
CAPTIONS = RECORDED["cider_d"]


def recorded_captions():
    captions = [result["caption"][0] for result in CAPTIONS["res"]]
    references = [CAPTIONS["gts"][str(result["image_id"])] for result in CAPTIONS["res"]]
    return captions, references


def ngrams(text):
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def count_images(references):
    return Counter(gram for texts in references for gram in set().union(*map(ngrams, texts)))


def cider_d(hypothesis, references, frequency, images):
    """One caption's score by the definition, n-gram by n-gram."""

    def vector(text, n):
        counts = {gram: count for gram, count in ngrams(text).items() if len(gram) == n}
        return {g: c * (math.log(images) - math.log(max(1, frequency.get(g, 0)))) for g, c in counts.items()}

    def bigrams(text):
        return max(0, len(text.split()) - 1)

    total = 0
    for reference in references:
        penalty = math.exp(-((bigrams(hypothesis) - bigrams(reference)) ** 2) / (2 * 6**2))
        for n in range(1, 5):
            ours, theirs = vector(hypothesis, n), vector(reference, n)
            norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
            dot = sum(min(ours[gram], theirs.get(gram, 0)) * theirs.get(gram, 0) for gram in ours)
            total += penalty * dot / norms if norms else 0
    return 10 * total / 4 / len(references)


def write_frequencies(path, frequency, images, protocol=2):
    path.write_bytes(pickle.dumps({"document_frequency": defaultdict(float, frequency), "ref_len": images}, protocol))
    return path


def test_recorded_scores_with_frequencies_of_the_references_and_of_a_file(tmp_path):
    captions, references = recorded_captions()
    scores = CiderD(DocumentFrequencies.from_references(references)).scores(captions, references)
    np.testing.assert_allclose(scores, CAPTIONS["corpus"]["scores"], rtol=0, atol=1e-6)
    assert scores.mean() == pytest.approx(CAPTIONS["corpus"]["score"], abs=1e-6)
    path = write_frequencies(tmp_path / "words.p", count_images(references), CAPTIONS["cached"]["ref_len"])
    scores = CiderD(DocumentFrequencies.from_file(path)).scores(captions, references)
    np.testing.assert_allclose(scores, CAPTIONS["cached"]["scores"], rtol=0, atol=1e-6)


def test_recorded_scores_of_self_critical_training(tmp_path):
    recorded = RECORDED["scst"]
    frequency = {tuple(gram.split()): n for gram, n in recorded["cached"]["document_frequency"].items()}
    path = write_frequencies(tmp_path / "words.p", frequency, recorded["cached"]["ref_len"])
    references = [[with_end(text) for text in texts] for texts in recorded["gt_res"] for _ in range(4)]
    captions = [with_end(text) for text in recorded["gen_res"]]
    scores = CiderD(DocumentFrequencies.from_file(path)).scores(captions, references)
    np.testing.assert_allclose(scores, recorded["scores"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_scores_follow_the_definition(tmp_path, seed):
    rng = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(rng.integers(1, 12))]

    def text():
        return " ".join(rng.choice(vocabulary, rng.integers(0, 9)))

    references = [[text() for _ in range(rng.integers(1, 4))] for _ in range(rng.integers(1, 8))]
    captions = [text() if rng.random() < 0.7 else f"new {texts[0]} word" for texts in references]
    frequency, images = count_images(references), len(references)
    expected = [cider_d(caption, own, frequency, images) for caption, own in zip(captions, references, strict=True)]
    scores = CiderD(DocumentFrequencies.from_references(references)).scores(captions, references)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)

    # A file that lacks many n-grams, counts some at no image, and one at more images than there are.
    partial = {gram: n * float(rng.integers(0, 3)) for gram, n in frequency.items() if rng.random() < 0.6}
    expected = [cider_d(caption, own, partial, 2.5) for caption, own in zip(captions, references, strict=True)]
    from_file = DocumentFrequencies.from_file(write_frequencies(tmp_path / "words.p", partial, 2.5))
    np.testing.assert_allclose(CiderD(from_file).scores(captions, references), expected, rtol=0, atol=1e-9)


def test_a_score_does_not_depend_on_the_captions_next_to_it():
    captions, references = recorded_captions()
    metric = CiderD(DocumentFrequencies.from_references(references))
    together = metric.scores(captions, references)
    alone = [metric.scores([caption], [own])[0] for caption, own in zip(captions, references, strict=True)]
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-12)


def test_a_caption_without_words_scores_nothing_and_no_captions_make_no_scores():
    metric = CiderD(DocumentFrequencies.from_references([["a dog"], ["a cat"]]))
    assert metric.scores(["", " "], [["a dog"], [""]]).tolist() == [0, 0]
    assert metric.scores([], []).shape == (0,)


def test_the_end_replaces_one_full_stop():
    ended = [" ".join(with_end(text).split()) for text in ("a dog.", " a dog . ", "a dog..", "")]
    assert ended == ["a dog <eos>", "a dog <eos>", "a dog. <eos>", "<eos>"]


def test_an_image_without_references_is_named():
    metric = CiderD(DocumentFrequencies.from_references([["a dog"]]))
    with pytest.raises(UserError, match="image 1 .* has no references"):
        metric.scores(["a", "b"], [["a"], []])
    with pytest.raises(UserError, match="image 0 .* has no references"):
        DocumentFrequencies.from_references([[]])
    with pytest.raises(UserError, match="no references"):
        DocumentFrequencies.from_references([])


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"ref_len": 5},
        {"document_frequency": {("a",): 1.0}},
        {"document_frequency": [("a",)], "ref_len": 5},
        *({"document_frequency": {gram: 1.0}, "ref_len": 5} for gram in ("a dog", ("a", 1), (), tuple("abcde"))),
        *({"document_frequency": {("a",): count}, "ref_len": 5} for count in ("many", -1.0, math.nan)),
        *({"document_frequency": {("a",): 1.0}, "ref_len": images} for images in (0, math.inf)),
    ],
)
def test_a_file_of_something_else_is_an_error_with_its_name(tmp_path, content):
    (tmp_path / "words.p").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="words.p holds no .*document frequencies"):
        DocumentFrequencies.from_file(tmp_path / "words.p")


def test_a_file_that_could_execute_code_is_not_read(tmp_path):
    (tmp_path / "words.p").write_bytes(pickle.dumps({"document_frequency": os.system, "ref_len": 5}))
    with pytest.raises(UserError, match="could execute code"):
        DocumentFrequencies.from_file(tmp_path / "words.p")
