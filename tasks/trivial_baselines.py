"""What guessing scores on demo data: a model that looks and reads must beat the guesses that do only one of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from data.answers import parse_answers
from data.boxes import parse_box
from data.demo.files import read_scenes
from data.demo.scenes import COLOURS, SHAPES
from data.tsv import Row, RowError, TSVFile
from ofa.boxes import Box, box_iou
from tasks.base import Task
from tasks.caption import Caption, SelfCriticalCaption, references
from tasks.metrics.cider import CiderD, DocumentFrequencies
from tasks.refcoco import RefCOCO, RefCOCOg
from tasks.snli_ve import SNLIVE
from tasks.vqa import VQA

_NAMES = {*COLOURS, *SHAPES}
T = TypeVar("T")


def trivial_baselines(task: Task, train: Path, test: Path) -> dict[str, float]:
    """What guesses reach by the task's `best` number on the rows whose truth can be read.

    Args:
        task: whose files these are.
        train: demo file that the guesses know.
        test: demo file to guess on.
    """
    return _GUESSES[type(task)](train, test)


def _boxes(train: Path, test: Path) -> dict[str, float]:
    """Blind, and without reading the words: a random object of the scene, each as likely."""
    commonest, _ = Counter(_true_boxes(train).values()).most_common(1)[0]
    truths = _true_boxes(test)
    scenes = read_scenes(test)
    random_object = [_accuracy(scenes[i].boxes, [truth] * len(scenes[i].boxes)) for i, truth in truths.items()]
    return {
        "commonest box": _accuracy([commonest] * len(truths), list(truths.values())),
        "random object": sum(random_object) / len(random_object),
    }


def _captions(train: Path, test: Path) -> dict[str, float]:
    """Blind, and a true caption of another picture, that of the next row."""

    def read(file: Path) -> list[list[str]]:
        rows = TSVFile(file, {"caption": Caption.columns["caption"]}, Caption.n_columns)
        return [list(found) for found in _readable(rows, references).values() if found]

    commonest, _ = Counter(captions[0] for captions in read(train)).most_common(1)[0]
    truths = read(test)
    scorer = CiderD(DocumentFrequencies.from_references(truths))
    return {
        "commonest caption": float(scorer.scores([commonest] * len(truths), truths).mean()),
        "caption of another picture": float(scorer.scores([t[0] for t in truths[1:] + truths[:1]], truths).mean()),
    }


def _labels(train: Path, test: Path) -> dict[str, float]:
    """The commonest label, and the commonest of hypotheses of the same form, which some labels show in."""

    def read(file: Path) -> list[tuple[str, dict[str, float]]]:
        rows = TSVFile(file, {k: SNLIVE.columns[k] for k in ("hypothesis", "label")}, SNLIVE.n_columns)
        return list(_readable(rows, lambda row: (row.values["hypothesis"], {row.values["label"]: 1.0})).values())

    return _blind_answers(read(train), read(test))


def _answers(train: Path, test: Path) -> dict[str, float]:
    """The commonest answer, and the commonest to questions of the same form."""

    def read(file: Path) -> list[tuple[str, dict[str, float]]]:
        rows = TSVFile(file, {k: VQA.columns[k] for k in ("question", "answers")}, VQA.n_columns)
        found = _readable(rows, lambda row: (row.values["question"], parse_answers(row)))
        return [(question, worth) for question, worth in found.values() if worth]

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


def _true_boxes(file: Path) -> dict[int, Box]:
    """By the row, from 0."""
    rows = TSVFile(file, {"box": RefCOCO.columns["box"]}, RefCOCO.n_columns)
    return _readable(rows, lambda row: parse_box(row.values["box"], row))


def _readable(rows: TSVFile, read: Callable[[Row], T]) -> dict[int, T]:
    """What `read` finds in each row, by the row; broken ones, which the run has reported or refused, are left out."""
    found = {}
    for i in range(len(rows)):
        try:
            found[i] = read(rows[i])
        except RowError:
            continue
    return found


def _accuracy(guesses: list[Box], truths: list[Box]) -> float:
    return (box_iou(torch.tensor(guesses), torch.tensor(truths)) >= 0.5).float().mean().item()
