"""Rows of the demo files: `TASKS` names, for each task, its splits and the function that makes a split's rows."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from PIL import Image

from data.demo.captions import captions
from data.demo.hypotheses import LABELS, hypothesis, pick_subject
from data.demo.language import pick, referring_expressions
from data.demo.questions import Question, possible_answers, questions
from data.demo.scenes import Scene, SceneConfig, draw_scene
from ofa.errors import UserError

SEPARATOR = "&&"  # between the entries of a column
TRIES = 1000  # scenes in a row that may allow no hypothesis before the settings are blamed


@dataclass(frozen=True)
class Row:
    """A line of a file, the scene it shows and, of a question, which kind it is."""

    columns: list[str]
    scene: Scene
    kind: str = ""


@dataclass(frozen=True)
class Split:
    """What a split's rows are made of."""

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


@dataclass(frozen=True)
class DemoTask:
    """The splits of a task, as in its published files, and how their rows are made."""

    splits: tuple[str, ...]
    rows: Callable[[Split], Iterator[Row]]
    answers: Callable[[SceneConfig], list[str]] | None = None  # what answers.json lists; None: no such file


def _refcoco_rows(split: Split) -> Iterator[Row]:
    """Columns uniq_id, image_id, text, box, image: an expression for one object and its box."""
    for i in range(split.n_rows):
        expressions: list[str] = []
        while not expressions:
            scene = next(split.scenes)
            target = pick(split.rng, scene.objects)
            expressions = referring_expressions(scene, target)
        shortest = [text for text in expressions if len(text.split()) == len(expressions[0].split())]
        text = pick(split.rng, shortest)
        box = ",".join(f"{side:.2f}" for side in target.box)
        yield Row([split.name_of(i), _image_id(scene), text, box, _picture(scene)], scene)


def _caption_rows(split: Split) -> Iterator[Row]:
    """Columns uniq_id, image_id, caption, objects, image: for training one caption, else all that count as right."""
    return _rows_with_captions(split, all_captions=split.name != "train")


def _caption_scst_rows(split: Split) -> Iterator[Row]:
    """The columns of caption: all captions in training too, which the reward compares with."""
    return _rows_with_captions(split, all_captions=True)


def _rows_with_captions(split: Split, all_captions: bool) -> Iterator[Row]:
    """Image ids are numbers and unique, since captions are evaluated by image."""
    for i, scene in enumerate(islice(split.scenes, split.n_rows)):
        texts = captions(scene)
        text = SEPARATOR.join(texts) if all_captions else pick(split.rng, texts)
        objects = _shape_names(scene, split.rng)
        yield Row([split.name_of(i), split.number_of(i), text, objects, _picture(scene)], scene)


def _snli_ve_rows(split: Split) -> Iterator[Row]:
    """Columns uniq_id, image_id, image, hypothesis, caption, label: as many of each label, in random order."""
    labels = split.rng.permutation([LABELS[i % len(LABELS)] for i in range(split.n_rows)]).tolist()
    for i, label in enumerate(labels):
        subject = pick_subject(split.config, split.rng)
        for scene in islice(split.scenes, TRIES):
            claim = hypothesis(scene, label, subject, split.config, split.rng)
            if claim:
                break
        else:
            raise UserError(
                f"{TRIES} demo scenes in a row allow no {label}; raise data.scenes.n_colours or data.scenes.n_shapes"
            )
        texts = [claim.hypothesis, claim.caption, label]
        yield Row([split.name_of(i), _image_id(scene), _picture(scene), *texts], scene)


def _vqa_rows(split: Split) -> Iterator[Row]:
    """Columns uniq_id (the question's number), image_id, question, answers, objects, image."""
    for i, scene in enumerate(islice(split.scenes, split.n_rows)):
        question = _pick_question(questions(scene, split.config), split.rng)
        answers = SEPARATOR.join(f"{confidence}|!+{answer}" for confidence, answer in question.answers)
        texts = [question.text, answers, _shape_names(scene, split.rng)]
        yield Row([split.number_of(i), _image_id(scene), *texts, _picture(scene)], scene, question.kind)


# By the names of configs/task.
TASKS = {
    "refcoco": DemoTask(("train", "val", "testA", "testB"), _refcoco_rows),
    "refcocoplus": DemoTask(("train", "val", "testA", "testB"), _refcoco_rows),
    "refcocog": DemoTask(("train", "val", "test"), _refcoco_rows),
    "caption": DemoTask(("train", "val", "test"), _caption_rows),
    "caption_scst": DemoTask(("train", "val", "test"), _caption_scst_rows),
    "snli_ve": DemoTask(("train", "val", "test"), _snli_ve_rows),
    "vqa": DemoTask(("train", "val", "test"), _vqa_rows, possible_answers),
}


def _pick_question(asked: list[Question], rng: np.random.Generator) -> Question:
    """A kind, then an answer, then a question, each evenly: else "no" would be right of most that ask for a look."""
    kind = pick(rng, list(dict.fromkeys(question.kind for question in asked)))
    asked = [question for question in asked if question.kind == kind]
    best = pick(rng, list(dict.fromkeys(question.answers[0] for question in asked)))
    return pick(rng, [question for question in asked if question.answers[0] == best])


def _shape_names(scene: Scene, rng: np.random.Generator) -> str:
    """What a detector would list of the scene, in no order."""
    return SEPARATOR.join(rng.permutation(sorted({o.shape for o in scene.objects})).tolist())


def _image_id(scene: Scene) -> str:
    return str(scene.texture_seed)


def _picture(scene: Scene) -> str:
    return _encoded(draw_scene(scene))


def _encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # small pictures: speed matters more
    return base64.b64encode(file.getvalue()).decode()
