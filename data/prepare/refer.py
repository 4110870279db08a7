"""RefCOCO, RefCOCO+ and RefCOCOg in the layout of REFER: refs(SPLITBY).p, instances.json and COCO's train2014 images.

The first is a pickle, of which nothing is executed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.layout import REFERRING
from data.prepare.records import Conversion, LeftOut, Record, Sample, find_folder, of_kind, read_json, require_file
from ofa.errors import UserError
from ofa.images import Box
from ofa.plain_pickle import load_plain_pickle

_SPLITS = ("train", "val", "testA", "testB", "test")


@dataclass(frozen=True)
class Refer:
    """One of the three data sets.

    Attributes:
        task: names the files, <task>_<split>.tsv.
        folder: its name in REFER.
        split_by: author of the default division into splits.
    """

    task: str
    folder: str
    split_by: str

    makes = "FOLDER"

    @property
    def help(self) -> str:
        return f"{self.folder} in the layout of REFER: one row per sentence, its box as x0,y0,x1,y1"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--refer", type=Path, required=True, metavar="FOLDER", help=f"that holds {self.folder}/ of REFER"
        )
        parser.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="COCO's, with train2014/")
        parser.add_argument("--split-by", default=self.split_by, help="as in refs(SPLITBY).p, default %(default)s")

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        folder = find_folder(arguments.refer, self.folder, "refs(...).p and instances.json")
        images = find_folder(arguments.images, "train2014", "COCO_train2014_*.jpg")
        refs_file = folder / f"refs({arguments.split_by}).p"
        if not refs_file.is_file():
            there = ", ".join(sorted(path.name for path in folder.glob("refs(*).p"))) or "none"
            raise UserError(f"{refs_file} does not exist; --split-by chooses one of those there are: {there}")
        instances = require_file(folder / "instances.json", "the boxes of REFER")
        refs = of_kind(list, load_plain_pickle(refs_file), refs_file, "the list of references of REFER")
        boxes, files = _read_instances(instances)
        by_split: dict[str, list[tuple[int, Any]]] = {}
        for number, ref in enumerate(refs):
            by_split.setdefault(str(ref.get("split")) if isinstance(ref, dict) else "?", []).append((number, ref))
        if unknown := by_split.keys() - set(_SPLITS):
            raise UserError(f"{refs_file} has references of split {unknown.pop()!r}, not only of {', '.join(_SPLITS)}")
        for split in filter(by_split.__contains__, _SPLITS):
            samples = list(_samples(by_split[split], refs_file.name, boxes, files, images))
            target = arguments.out / f"{self.task}_{split}.tsv"
            yield Conversion(target, REFERRING, (refs_file, instances), partial(iter, samples), total=len(samples))


def _read_instances(path: Path) -> tuple[dict[int, Box], dict[int, str]]:
    """The box of each annotation and the file of each image."""
    content = of_kind(dict, read_json(path), path, "COCO's instances")
    try:
        files = {image["id"]: image["file_name"] for image in content["images"]}
        boxes = {}
        for annotation in content["annotations"]:
            x, y, width, height = annotation["bbox"]
            boxes[annotation["id"]] = (x, y, x + width, y + height)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not have the layout of COCO's instances.json ({error!r})") from error
    return boxes, files


def _samples(
    refs: list[tuple[int, Any]], name: str, boxes: dict[int, Box], files: dict[int, str], images: Path
) -> Iterator[Sample]:
    for number, ref in refs:
        try:
            box, file = boxes[ref["ann_id"]], files[ref["image_id"]]
            sentences = [(str(sentence["sent_id"]), sentence["sent"]) for sentence in ref["sentences"]]
        except (KeyError, TypeError) as error:
            yield LeftOut(f"reference {number} of {name}", f"it has no part {error} of REFER's layout")
            continue
        for sent_id, text in sentences:
            values = {"uniq_id": sent_id, "image_id": str(ref["image_id"]), "text": text}
            yield Record(f"sentence {sent_id} of {name}", values, images / file, box)
