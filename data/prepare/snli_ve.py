"""SNLI-VE: snli_ve_{train,dev,test}.jsonl and the images of Flickr30k."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from data.layout import ENTAILMENT
from data.prepare.records import Conversion, LeftOut, Record, Sample, find_folder, require_file

_FIELDS = {
    "uniq_id": "pairID",
    "image_id": "Flickr30K_ID",
    "hypothesis": "sentence2",
    "caption": "sentence1",
    "label": "gold_label",
}
_UNDECIDED = "-"  # the label where people did not agree


class SNLIVE:
    """One row per pair; pairs without a majority label are left out, as published."""

    help = "SNLI-VE's jsonl files with the images of Flickr30k"
    makes = "FOLDER"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--snli-ve", type=Path, required=True, metavar="FOLDER", help="that holds snli_ve_{train,dev,test}.jsonl"
        )
        parser.add_argument(
            "--images", type=Path, required=True, metavar="FOLDER", help="of Flickr30k, with flickr30k-images/"
        )

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        images = find_folder(arguments.images, "flickr30k-images", "<Flickr30K_ID>.jpg")
        for split in ("train", "dev", "test"):
            path = require_file(arguments.snli_ve / f"snli_ve_{split}.jsonl", "a file of SNLI-VE")
            yield Conversion(
                arguments.out / f"snli_ve_{split}.tsv", ENTAILMENT, (path,), partial(_samples, path, images)
            )


def _samples(path: Path, images: Path) -> Iterator[Sample]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"line {number} of {path.name}"
            try:
                pair = json.loads(line)
                values = {column: pair[field] for column, field in _FIELDS.items()}
            except (ValueError, KeyError, TypeError) as error:
                yield LeftOut(place, f"it is not a pair of SNLI-VE ({error!r})")
                continue
            if not all(isinstance(value, str) for value in values.values()):
                yield LeftOut(place, f"not all of {', '.join(_FIELDS.values())} are strings")
            elif values["label"] == _UNDECIDED:
                yield LeftOut(place, "people did not agree on a label", expected=True)
            else:
                yield Record(place, values, images / f"{values['image_id']}.jpg")
