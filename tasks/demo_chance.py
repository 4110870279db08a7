"""What guessing scores on demo scenes: a model that reads must beat the guess that only looks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from data.demo.files import read_scenes
from data.tsv import TSVFile
from tasks.boxes import Box, box_iou
from tasks.refcoco import RefCOCO


def chance_levels(train: Path, test: Path) -> dict[str, float]:
    """Acc@0.5 of two guesses on the scenes of a referring-expression file: blind, and without reading the words.

    Args:
        train: demo file whose commonest box is the blind guess.
        test: demo file of the scenes to guess on.

    Returns:
        "commonest box" and "random object": of those in the scene, each as likely.
    """
    commonest, _ = Counter(_true_boxes(train)).most_common(1)[0]
    truths = _true_boxes(test)
    objects = [scene.boxes for scene in read_scenes(test)]
    random_object = [_accuracy(boxes, [truth] * len(boxes)) for boxes, truth in zip(objects, truths, strict=True)]
    return {
        "commonest box": _accuracy([commonest] * len(truths), truths),
        "random object": sum(random_object) / len(random_object),
    }


def _true_boxes(file: Path) -> list[Box]:
    rows = TSVFile(file, {"box": RefCOCO.columns["box"]}, RefCOCO.n_columns)
    return [tuple(map(float, row.values["box"].split(","))) for row in rows]


def _accuracy(guesses: list[Box], truths: list[Box]) -> float:
    return (box_iou(torch.tensor(guesses), torch.tensor(truths)) >= 0.5).float().mean().item()
