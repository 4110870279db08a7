"""Truth of the demo's captions, hypotheses and questions, worked out from their words only."""

from collections import Counter
from itertools import pairwise, product

import numpy as np
import pytest
from helpers.demo import demo_files

from data.demo.language import (
    KINDS,
    PROPERTIES,
    Subject,
    captions,
    hypothesis,
    pick_subject,
    possible_answers,
    questions,
)
from data.demo.scenes import COLOURS, SHAPES, SceneConfig, make_scene
from ofa.errors import UserError

CONFIGS = [SceneConfig(difficulty=name, image_size=96, n_colours=6, n_shapes=4) for name in ("easy", "medium", "hard")]
every_difficulty = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.difficulty)


def scenes(config, count=100):
    rng = np.random.default_rng(0)
    return [make_scene(rng, config) for _ in range(count)]


def looks(scene):
    return Counter((o.colour, o.shape) for o in scene.objects)


def looks_named(text):
    """(colour, shape) pairs in the order of the words; each colour must stand right before a shape."""
    words = text.split()
    pairs = [(word, words[i + 1]) for i, word in enumerate(words) if word in COLOURS]
    assert all(shape in SHAPES for _, shape in pairs) and len(pairs) == sum(word in SHAPES for word in words)
    return pairs


@every_difficulty
def test_five_different_captions_name_exactly_the_objects_of_the_scene(config):
    for scene in scenes(config):
        texts = captions(scene)
        assert len(set(texts)) == len(texts) == 5
        for text in texts:
            assert Counter(looks_named(text)) == looks(scene)
            assert text.replace(" ", "").isalpha() and len(text.split()) <= 16
            assert all(
                (word == "an") == (after[0] in "aeiou") for word, after in pairwise(text.split()) if word in ("a", "an")
            )


def test_a_caption_reads_the_scene_from_top_to_bottom_and_left_to_right():
    for scene in scenes(CONFIGS[0]):
        in_order = sorted(scene.objects, key=lambda o: (o.box[1], o.box[0]))
        plain, backwards, *_ = (looks_named(text) for text in captions(scene))
        assert plain == backwards[::-1] == [(o.colour, o.shape) for o in in_order]


SOMETHING = "there is something "


def claims(config, label, count=200):
    rng = np.random.default_rng(1)
    subjects = [Subject(c, *coins) for c in config.colours for coins in product([False, True], repeat=2)]
    made = [
        (s, subject, hypothesis(s, label, subject, config, rng)) for s in scenes(config, count) for subject in subjects
    ]
    return [(scene, subject, claim) for scene, subject, claim in made if claim]


@every_difficulty
@pytest.mark.parametrize("label", ["entailment", "contradiction", "neutral"])
def test_a_hypothesis_has_its_label_by_the_objects_of_the_scene(config, label):
    made = claims(config, label)
    assert len(made) > 100
    for scene, subject, claim in made:
        colour, in_sight = subject.colour, subject.colour in {o.colour for o in scene.objects}
        [shown] = looks_named(claim.caption)
        assert shown in looks(scene) and shown[0] != colour
        if claim.hypothesis.startswith(SOMETHING):
            assert claim.hypothesis == SOMETHING + colour
            assert subject.colour_only and in_sight == (label == "entailment")
            continue
        [named] = looks_named(claim.hypothesis)
        assert named[0] == colour
        assert (named in looks(scene)) == (label != "contradiction")
        assert (claim.hypothesis.split()[-1] in PROPERTIES) == (label == "neutral")
        assert claim.hypothesis.startswith("the " if label == "neutral" else "there is a")
        assert label != "contradiction" or in_sight == subject.in_sight


def rows_of(label, tmp_path):
    """(hypothesis, caption) of the rows of this label that name a colour and a shape to look for."""
    files = demo_files("snli_ve", tmp_path, CONFIGS[0], {"train": 9000, "evaluation": 1})
    rows = [line.rstrip("\n").split("\t")[3:] for line in files["train"].open()]
    return [row[:2] for row in rows if row[2] == label]


def test_the_texts_without_the_image_do_not_separate_entailment_from_contradiction(tmp_path, monkeypatch):
    monkeypatch.setattr("data.demo.rows.encode_scene", lambda scene: "not drawn")
    shares = {"colour only": [], "colour": [], "shape": [], "same shape as in the caption": []}
    for label in ("entailment", "contradiction"):
        rows = rows_of(label, tmp_path)
        simple = [hypothesis.removeprefix(SOMETHING) for hypothesis, _ in rows if hypothesis.startswith(SOMETHING)]
        texts = [(looks_named(h)[0], looks_named(c)[0]) for h, c in rows if not h.startswith(SOMETHING)]
        values = {
            "colour only": simple,
            "colour": [named[0] for named, _ in texts],
            "shape": [named[1] for named, _ in texts],
            "same shape as in the caption": [named[1] == shown[1] for named, shown in texts],
        }
        assert len(simple) / len(rows) == pytest.approx(0.5, abs=0.03)
        for name, found in values.items():
            shares[name].append({value: count / len(found) for value, count in Counter(found).items()})
    for entailed, contradicted in shares.values():
        assert entailed == pytest.approx(contradicted, abs=0.06)


def test_colours_are_named_with_falling_frequency():
    rng = np.random.default_rng(0)
    named = Counter(pick_subject(CONFIGS[0], rng).colour for _ in range(4000))
    counts = [named[colour] for colour in CONFIGS[0].colours]
    assert counts == sorted(counts, reverse=True) and counts[0] / counts[1] == pytest.approx(2, abs=0.3)


def test_scenes_that_allow_no_hypothesis_are_noticed():
    red = Subject("red", colour_only=True, in_sight=False)
    lonely = SceneConfig(min_objects=1, max_objects=1)
    with pytest.raises(UserError, match=r"data\.scenes\.min_objects=2"):
        hypothesis(scenes(lonely, 1)[0], "neutral", red, lonely, np.random.default_rng(0))
    both = SceneConfig(n_colours=2, n_shapes=1, max_objects=2)
    assert hypothesis(scenes(both, 1)[0], "contradiction", red, both, np.random.default_rng(0)) is None


def answer_by_looking(scene, question):
    """The answer to a question, worked out from its words only; fails where there is not exactly one."""
    words = question.rstrip("?").split()
    if question.startswith("what color"):
        [answer] = [o.colour for o in scene.objects if o.shape == words[-1]]
    elif question.startswith("what shape"):
        [answer] = [o.shape for o in scene.objects if o.colour == words[-2]]
    elif question.startswith("is there"):
        answer = "yes" if tuple(words[-2:]) in looks(scene) else "no"
    elif question.startswith("how many"):
        shape = {"crosses": "cross"}.get(words[2], words[2].removesuffix("s"))
        answer = str(sum(shape in ("object", o.shape) for o in scene.objects))
    else:
        axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[words[-1]]
        first, second, *_ = sorted(scene.objects, key=lambda o: sign * (o.box[axis] + o.box[axis + 2]))
        assert sign * (second.centre[axis] - first.centre[axis]) >= scene.image_size / 8
        answer = f"{first.colour} {first.shape}"
    return answer


@every_difficulty
def test_the_best_answer_is_what_looking_at_the_scene_finds(config):
    kinds = Counter()
    for scene in scenes(config):
        for question in questions(scene, config):
            (confidence, answer), *others = question.answers
            assert answer == answer_by_looking(scene, question.text), question.text
            assert confidence == 1.0 and all(0 < lower < 1 for lower, _ in others)
            assert {text for _, text in question.answers} <= set(possible_answers(config))
            kinds[question.kind] += 1
    assert kinds.keys() == set(KINDS) and min(kinds.values()) > 50


def test_a_count_of_shapes_has_a_neighbouring_number_as_second_answer():
    for scene in scenes(CONFIGS[1]):
        for question in questions(scene, CONFIGS[1]):
            if question.kind == "how many shapes":
                (_, best), (confidence, second) = question.answers
                assert confidence == 0.3 and abs(int(best) - int(second)) == 1


def test_a_single_object_has_five_captions_too_and_no_question_about_its_place():
    config = SceneConfig(min_objects=1, max_objects=1)
    for scene in scenes(config, 5):
        assert len(set(captions(scene))) == 5
        assert all(question.kind != "place" for question in questions(scene, config))
