"""Rows of demo files: for each kind of task a function that makes the rows of a `Split` of generated scenes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from data.cells import SEPARATOR
from data.demo import language
from data.demo.language import LABELS, SceneQuestion, pick
from data.demo.scenes import Scene, SceneConfig, draw_scene
from ofa.errors import UserError

TRIES = 1000  # scenes without a possible hypothesis, after which the settings are refused


@dataclass(frozen=True)
class DemoRow:
    """A line of a file, the scene it shows and, for a question, its kind."""

    columns: list[str]
    scene: Scene
    kind: str = ""


@dataclass(frozen=True)
class Split:
    """What the rows of a split are made of."""

    name: str
    place: int  # among the splits of its task
    n_splits: int
    n_rows: int
    config: SceneConfig
    scenes: Iterator[Scene]  # without end
    rng: np.random.Generator

    def name_of(self, row: int) -> str:
        """A name that no other row of the task has."""
        return f"{self.name}{row}"

    def number_of(self, row: int) -> str:
        """A number that no other row of any split of the task has."""
        return str(row * self.n_splits + self.place)


def grounding_rows(split: Split) -> Iterator[DemoRow]:
    """Columns uniq_id, image_id, text, box, image: an expression for one object and its box."""
    for i in range(split.n_rows):
        expressions: list[str] = []
        while not expressions:
            scene = next(split.scenes)
            target = pick(split.rng, scene.objects)
            expressions = language.referring_expressions(scene, target)
        shortest = [text for text in expressions if len(text.split()) == len(expressions[0].split())]
        text = pick(split.rng, shortest)
        box = ",".join(f"{side:.2f}" for side in target.box)
        yield DemoRow([split.name_of(i), image_id(scene), text, box, encode_scene(scene)], scene)


def caption_rows(split: Split, all_captions: bool) -> Iterator[DemoRow]:
    """Columns uniq_id, image_id, caption, objects, image: one caption, or all true ones, as for evaluation.

    Image ids are unique numbers, since captions are evaluated by image.
    """
    for i, scene in enumerate(islice(split.scenes, split.n_rows)):
        texts = language.captions(scene)
        text = SEPARATOR.join(texts) if all_captions else pick(split.rng, texts)
        objects = _shape_names(scene, split.rng)
        yield DemoRow([split.name_of(i), split.number_of(i), text, objects, encode_scene(scene)], scene)


def entailment_rows(split: Split) -> Iterator[DemoRow]:
    """Columns uniq_id, image_id, image, hypothesis, caption, label: as many of each label, in random order."""
    labels = split.rng.permutation([LABELS[i % len(LABELS)] for i in range(split.n_rows)]).tolist()
    for i, label in enumerate(labels):
        subject = language.pick_subject(split.config, split.rng)
        for scene in islice(split.scenes, TRIES):
            claim = language.hypothesis(scene, label, subject, split.config, split.rng)
            if claim:
                break
        else:
            raise UserError(
                f"{TRIES} demo scenes in a row allow no {label}; raise data.scenes.n_colours or data.scenes.n_shapes"
            )
        texts = [claim.hypothesis, claim.caption, label]
        yield DemoRow([split.name_of(i), image_id(scene), encode_scene(scene), *texts], scene)


def question_rows(split: Split) -> Iterator[DemoRow]:
    """Columns uniq_id (the question's number), image_id, question, answers, objects, image."""
    for i, scene in enumerate(islice(split.scenes, split.n_rows)):
        question = _pick_question(language.questions(scene, split.config), split.rng)
        answers = SEPARATOR.join(f"{confidence}|!+{answer}" for confidence, answer in question.answers)
        texts = [question.text, answers, _shape_names(scene, split.rng)]
        yield DemoRow([split.number_of(i), image_id(scene), *texts, encode_scene(scene)], scene, question.kind)


def _pick_question(candidates: list[SceneQuestion], rng: np.random.Generator) -> SceneQuestion:
    """A kind, then an answer, then a question, each uniformly; else "no" would answer most questions about looks."""
    kind = pick(rng, list(dict.fromkeys(question.kind for question in candidates)))
    candidates = [question for question in candidates if question.kind == kind]
    best = pick(rng, list(dict.fromkeys(question.answers[0] for question in candidates)))
    return pick(rng, [question for question in candidates if question.answers[0] == best])


def _shape_names(scene: Scene, rng: np.random.Generator) -> str:
    """What a detector would list, in random order."""
    return SEPARATOR.join(rng.permutation(sorted({o.shape for o in scene.objects})).tolist())


def image_id(scene: Scene) -> str:
    """A number that scenes of different texture do not share."""
    return str(scene.texture_seed)


def encode_scene(scene: Scene) -> str:
    """The image column: base64 of a PNG."""
    file = io.BytesIO()
    draw_scene(scene).save(file, "PNG", compress_level=1)  # small images: speed matters more
    return base64.b64encode(file.getvalue()).decode()
