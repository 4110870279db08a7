"""What guessing scores on demo data: a model that looks and reads must beat the guesses that do only one of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

from data.answers import parse_answers
from data.demo.files import read_scenes
from data.demo.scenes import COLOURS, SHAPES
from data.tsv import TSVFile
from ofa.boxes import Box, box_iou
from tasks.base import Task
from tasks.caption import Caption, SelfCriticalCaption, references
from tasks.metrics.cider import CiderD, DocumentFrequencies
from tasks.refcoco import RefCOCO, RefCOCOg
from tasks.snli_ve import SNLIVE
from tasks.vqa import VQA

_NAMES = {*COLOURS, *SHAPES}


def chance_levels(task: Task, train: Path, test: Path) -> dict[str, float]:
    """What guesses reach by the task's `best` number.

    Args:
        task: whose files these are.
        train: demo file that the guesses know.
        test: demo file to guess on.
    """
    return _GUESSES[type(task)](train, test)


def _boxes(train: Path, test: Path) -> dict[str, float]:
    """Blind, and without reading the words: a random object of the scene, each as likely."""
    commonest, _ = Counter(_true_boxes(train)).most_common(1)[0]
    truths = _true_boxes(test)
    objects = [scene.boxes for scene in read_scenes(test)]
    random_object = [_accuracy(boxes, [truth] * len(boxes)) for boxes, truth in zip(objects, truths, strict=True)]
    return {
        "commonest box": _accuracy([commonest] * len(truths), truths),
        "random object": sum(random_object) / len(random_object),
    }


def _captions(train: Path, test: Path) -> dict[str, float]:
    """Blind, and a true caption of another picture, that of the next row."""
    columns = {"caption": Caption.columns["caption"]}
    commonest, _ = Counter(references(row)[0] for row in TSVFile(train, columns, Caption.n_columns)).most_common(1)[0]
    truths = [list(references(row)) for row in TSVFile(test, columns, Caption.n_columns)]
    scorer = CiderD(DocumentFrequencies.from_references(truths))
    return {
        "commonest caption": float(scorer.scores([commonest] * len(truths), truths).mean()),
        "caption of another picture": float(scorer.scores([t[0] for t in truths[1:] + truths[:1]], truths).mean()),
    }


def _labels(train: Path, test: Path) -> dict[str, float]:
    """The commonest label, and the commonest of hypotheses of the same form, which some labels show in."""

    def read(file: Path) -> list[tuple[str, dict[str, float]]]:
        rows = TSVFile(file, {k: SNLIVE.columns[k] for k in ("hypothesis", "label")}, SNLIVE.n_columns)
        return [(row.values["hypothesis"], {row.values["label"]: 1.0}) for row in rows]

    return _blind_answers(read(train), read(test))


def _answers(train: Path, test: Path) -> dict[str, float]:
    """The commonest answer, and the commonest to questions of the same form."""

    def read(file: Path) -> list[tuple[str, dict[str, float]]]:
        rows = TSVFile(file, {k: VQA.columns[k] for k in ("question", "answers")}, VQA.n_columns)
        return [(row.values["question"], parse_answers(row)) for row in rows]

    return _blind_answers(read(train), read(test))


_GUESSES: dict[type[Task], Callable[[Path, Path], dict[str, float]]] = {
    RefCOCO: _boxes,
    RefCOCOg: _boxes,
    Caption: _captions,
    SelfCriticalCaption: _captions,
    SNLIVE: _labels,
    VQA: _answers,
}


def _blind_answers(
    train: list[tuple[str, dict[str, float]]], test: list[tuple[str, dict[str, float]]]
) -> dict[str, float]:
    """Mean worth of the commonest answer, of all and by the text's form; texts come with the worth of each answer."""
    overall: Counter[str] = Counter()
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    for text, worth in train:
        best = max(worth, key=worth.__getitem__)
        overall[best] += 1
        by_form[_form(text)][best] += 1
    blind = [worth.get(overall.most_common(1)[0][0], 0.0) for _, worth in test]
    reading = [worth.get((by_form.get(_form(text)) or overall).most_common(1)[0][0], 0.0) for text, worth in test]
    return {"commonest answer": sum(blind) / len(blind), "commonest by the words": sum(reading) / len(reading)}


def _form(text: str) -> str:
    """The text without the names of colours and shapes."""
    return " ".join(
        "_" if word.strip("?").removesuffix("s") in _NAMES or word in _NAMES else word for word in text.split()
    )


def _true_boxes(file: Path) -> list[Box]:
    rows = TSVFile(file, {"box": RefCOCO.columns["box"]}, RefCOCO.n_columns)
    return [tuple(map(float, row.values["box"].split(","))) for row in rows]


def _accuracy(guesses: list[Box], truths: list[Box]) -> float:
    return (box_iou(torch.tensor(guesses), torch.tensor(truths)) >= 0.5).float().mean().item()
