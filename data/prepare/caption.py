"""COCO's captions in Karpathy's split: dataset_coco.json and the images of train2014 and val2014."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data.layout import CAPTIONS, join_cell
from data.prepare.records import Conversion, LeftOut, Record, Sample, of_kind, read_json, require_file
from ofa.errors import UserError

_TRAIN = ("train", "restval")


class KarpathyCaptions:
    """Stage 1 has one row per caption, the other files one row per image with all its captions."""

    help = "COCO captions in Karpathy's split (dataset_coco.json), for both stages"
    makes = "FOLDER"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--karpathy", type=Path, required=True, metavar="FILE", help="dataset_coco.json")
        parser.add_argument(
            "--images", type=Path, required=True, metavar="FOLDER", help="COCO's, with train2014/ and val2014/"
        )

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        path = require_file(arguments.karpathy, "Karpathy's dataset_coco.json")
        if not arguments.images.is_dir():
            raise UserError(f"{arguments.images} is not a folder; give one with train2014/ and val2014/")
        content = of_kind(dict, read_json(path), path, "Karpathy's split, a dict with images")
        images = of_kind(list, content.get("images"), path, "Karpathy's split, whose images are a list")
        for name, splits, rows_of in (
            ("stage1_train", _TRAIN, _a_row_each),
            ("stage2_train", _TRAIN, _all_in_one),
            ("val", ("val",), _all_in_one),
            ("test", ("test",), _all_in_one),
        ):
            chosen = [(i, image) for i, image in enumerate(images) if _split(image, path, i) in splits]
            yield Conversion(
                arguments.out / f"caption_{name}.tsv",
                CAPTIONS,
                (path,),
                partial(_samples, chosen, path.name, arguments.images, rows_of),
                total=len(chosen) if rows_of is _all_in_one else None,
            )


def _split(image: Any, path: Path, number: int) -> str:
    if not isinstance(image, dict) or not isinstance(image.get("split"), str):
        raise UserError(f"image {number} of {path} names no split, as Karpathy's do")
    return image["split"]


def _samples(
    images: list[tuple[int, Any]], name: str, folder: Path, rows_of: Callable[[str, list[str]], list[tuple[str, str]]]
) -> Iterator[Sample]:
    for number, image in images:
        try:
            image_id, captions = str(image["cocoid"]), [sentence["raw"].lower() for sentence in image["sentences"]]
            file = folder / image.get("filepath", "") / image["filename"]
        except (KeyError, TypeError, AttributeError) as error:
            yield LeftOut(f"image {number} of {name}", f"it does not have the layout of Karpathy's split ({error!r})")
            continue
        for uniq_id, caption in rows_of(image_id, captions):
            values = {"uniq_id": uniq_id, "image_id": image_id, "caption": caption}
            yield Record(f"image {image_id} of {name}", values, file)


def _a_row_each(image_id: str, captions: list[str]) -> list[tuple[str, str]]:
    return [(f"{image_id}_{i}", join_cell([caption])) for i, caption in enumerate(captions)]


def _all_in_one(image_id: str, captions: list[str]) -> list[tuple[str, str]]:
    return [(image_id, join_cell(captions))]
