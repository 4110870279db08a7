"""VQA v2: the questions and annotations of visualqa.org and COCO's images; also the list of answers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.layout import QUESTIONS, join_cell
from data.prepare.answers import answers_cell, common_answers, normalise_answer, write_answers
from data.prepare.records import Conversion, LeftOut, Record, Sample, find_folder, of_kind, read_json, require_file
from ofa.errors import UserError

# By split: the name of its images, and whether answers are published.
_SPLITS = {"train": ("train2014", True), "val": ("val2014", True), "test": ("test2015", False)}


@dataclass(frozen=True)
class _Annotation:
    commonest: str
    answers: tuple[str, ...]


class VQA:
    """One row per question. Training keeps only listed answers, and only questions that have one."""

    help = "VQA v2: questions, annotations and COCO's images; makes answers.json, too"
    makes = "FOLDER"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--vqa", type=Path, required=True, metavar="FOLDER", help="of v2_OpenEnded_*_questions.json and annotations"
        )
        parser.add_argument(
            "--images", type=Path, required=True, metavar="FOLDER", help="COCO's: train2014/, val2014/, test2015/"
        )
        parser.add_argument(
            "--min-count", type=int, default=9, help="questions that a listed answer answers, default %(default)s"
        )
        parser.add_argument(
            "--objects", type=Path, metavar="FILE", help='JSON of objects, {"image_id": ["dog", "ball"]}'
        )
        parser.add_argument("--splits", nargs="+", choices=_SPLITS, default=list(_SPLITS), help="default: all")

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        objects = _read_objects(arguments.objects)
        for split in filter(arguments.splits.__contains__, _SPLITS):
            name, has_answers = _SPLITS[split]
            images = find_folder(arguments.images, name, f"COCO_{name}_*.jpg")
            questions = _named(arguments.vqa, f"v2_OpenEnded_mscoco_{name}_questions.json")
            sources = [questions, *([arguments.objects] if arguments.objects else [])]
            annotations, listed = None, None
            if has_answers:
                sources.append(_named(arguments.vqa, f"v2_mscoco_{name}_annotations.json"))
                annotations = _read_annotations(sources[-1])
            if split == "train":
                listed = common_answers((a.commonest for a in annotations.values()), arguments.min_count)
                if not listed:
                    raise UserError(
                        f"no answer in {sources[-1]} is that of {arguments.min_count} questions; lower --min-count"
                    )
            entries = _entries(questions, "questions")
            samples = partial(
                _samples,
                entries,
                questions.name,
                images / f"COCO_{name}_",
                annotations,
                listed and set(listed),
                objects,
            )
            yield Conversion(arguments.out / f"vqa_{split}.tsv", QUESTIONS, tuple(sources), samples, total=len(entries))
            if listed:
                write_answers(listed, arguments.out / "answers.json")


def _named(folder: Path, name: str) -> Path:
    return require_file(folder / name, "a file of visualqa.org, unpacked")


def _entries(path: Path, key: str) -> list[Any]:
    content = of_kind(dict, read_json(path), path, f"a dict with {key}")
    return of_kind(list, content.get(key), path, f"a dict with a list of {key}")


def _read_annotations(path: Path) -> dict[int, _Annotation]:
    """By question."""
    try:
        return {
            entry["question_id"]: _Annotation(
                normalise_answer(str(entry["multiple_choice_answer"])),
                tuple(normalise_answer(str(answer["answer"])) for answer in entry["answers"]),
            )
            for entry in _entries(path, "annotations")
        }
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} does not have the layout of VQA's annotations ({error!r})") from error


def _read_objects(path: Path | None) -> Mapping[str, list[str]]:
    if path is None:
        return {}
    objects = of_kind(dict, read_json(path), path, "objects by image")
    for image, names in objects.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"the objects of image {image} in {path} are not a list of names")
    return objects


def _samples(
    questions: list[Any],
    name: str,
    images: Path,
    annotations: Mapping[int, _Annotation] | None,
    listed: set[str] | None,
    objects: Mapping[str, list[str]],
) -> Iterator[Sample]:
    for number, question in enumerate(questions):
        try:
            question_id, image_id, text = question["question_id"], question["image_id"], question["question"]
            image = images.with_name(f"{images.name}{image_id:012d}.jpg")
        except (KeyError, TypeError, ValueError) as error:
            yield LeftOut(f"question {number} of {name}", f"it does not have the layout of VQA's questions ({error!r})")
            continue
        place = f"question {question_id} of {name}"
        values = {
            "uniq_id": str(question_id),
            "image_id": str(image_id),
            "question": str(text),
            "objects": join_cell(objects.get(str(image_id), [])),
        }
        if annotations is not None:
            if question_id not in annotations:
                yield LeftOut(place, "the annotations have no answer to it")
                continue
            values["answers"] = answers_cell(annotations[question_id].answers, listed)
            if listed is not None and not values["answers"]:
                yield LeftOut(place, "none of its answers is in the list", expected=True)
                continue
        yield Record(place, values, image)
