"""Published data sets: RefCOCO, COCO captions in Karpathy's split, SNLI-VE, VQA v2."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data.layout import CAPTIONS, ENTAILMENT, QUESTIONS, REFERRING, join_cell
from data.prepare.answers import answers_cell, common_answers, normalise_answer, write_answers
from data.prepare.records import Conversion, LeftOut, Record, Sample, find_folder, of_kind, read_json, require_file
from ofa.errors import UserError
from ofa.images import Box
from ofa.plain_pickle import load_plain_pickle


def _add_folder(parser: argparse.ArgumentParser, option: str, content: str) -> None:
    parser.add_argument(option, type=Path, required=True, metavar="FOLDER", help=content)


_REFER_SPLITS = ("train", "val", "testA", "testB", "test")


@dataclass(frozen=True)
class Refer:
    """RefCOCO, RefCOCO+ or RefCOCOg in the layout of REFER: refs(SPLITBY).p, a pickle of which nothing is executed."""

    task: str  # names the files, <task>_<split>.tsv
    folder: str  # of REFER
    split_by: str  # author of the default division into splits

    makes = "FOLDER"

    @property
    def help(self) -> str:
        return f"{self.folder} in the layout of REFER: one row per sentence, its box as x0,y0,x1,y1"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_folder(parser, "--refer", f"that holds {self.folder}/ of REFER")
        _add_folder(parser, "--images", "COCO's, with train2014/")
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
        if unknown := by_split.keys() - set(_REFER_SPLITS):
            raise UserError(
                f"{refs_file} has references of split {unknown.pop()!r}, not only of {', '.join(_REFER_SPLITS)}"
            )
        for split in filter(by_split.__contains__, _REFER_SPLITS):
            samples = list(_refer_samples(by_split[split], refs_file.name, boxes, files, images))
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


def _refer_samples(
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


class KarpathyCaptions:
    """COCO captions, dataset_coco.json: one row per caption for stage 1, else one per image with all its captions."""

    help = "COCO captions in Karpathy's split (dataset_coco.json), for both stages"
    makes = "FOLDER"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--karpathy", type=Path, required=True, metavar="FILE", help="dataset_coco.json")
        _add_folder(parser, "--images", "COCO's, with train2014/ and val2014/")

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        path = require_file(arguments.karpathy, "Karpathy's dataset_coco.json")
        if not arguments.images.is_dir():
            raise UserError(f"{arguments.images} is not a folder; give one with train2014/ and val2014/")
        content = of_kind(dict, read_json(path), path, "Karpathy's split, a dict with images")
        images = of_kind(list, content.get("images"), path, "Karpathy's split, whose images are a list")
        for number, image in enumerate(images):
            if not isinstance(image, dict) or not isinstance(image.get("split"), str):
                raise UserError(f"image {number} of {path} names no split, as Karpathy's do")
        train = ("train", "restval")
        for name, splits in {"stage1_train": train, "stage2_train": train, "val": ("val",), "test": ("test",)}.items():
            chosen = [(i, image) for i, image in enumerate(images) if image["split"] in splits]
            a_row_each = name == "stage1_train"
            samples = partial(_caption_samples, chosen, path.name, arguments.images, a_row_each)
            target = arguments.out / f"caption_{name}.tsv"
            yield Conversion(target, CAPTIONS, (path,), samples, total=None if a_row_each else len(chosen))


def _caption_samples(images: list[tuple[int, Any]], name: str, folder: Path, a_row_each: bool) -> Iterator[Sample]:
    for number, image in images:
        try:
            image_id, captions = str(image["cocoid"]), [sentence["raw"].lower() for sentence in image["sentences"]]
            file = folder / image.get("filepath", "") / image["filename"]
        except (KeyError, TypeError, AttributeError) as error:
            yield LeftOut(f"image {number} of {name}", f"it does not have the layout of Karpathy's split ({error!r})")
            continue
        rows = {f"{image_id}_{i}": [text] for i, text in enumerate(captions)} if a_row_each else {image_id: captions}
        for uniq_id, texts in rows.items():
            values = {"uniq_id": uniq_id, "image_id": image_id, "caption": join_cell(texts)}
            yield Record(f"image {image_id} of {name}", values, file)


_SNLI_VE_FIELDS = {
    "uniq_id": "pairID",
    "image_id": "Flickr30K_ID",
    "hypothesis": "sentence2",
    "caption": "sentence1",
    "label": "gold_label",
}


class SNLIVE:
    """snli_ve_{train,dev,test}.jsonl: one row per pair; pairs without a majority label are left out, as published."""

    help = "SNLI-VE's jsonl files with the images of Flickr30k"
    makes = "FOLDER"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_folder(parser, "--snli-ve", "that holds snli_ve_{train,dev,test}.jsonl")
        _add_folder(parser, "--images", "of Flickr30k, with flickr30k-images/")

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        images = find_folder(arguments.images, "flickr30k-images", "<Flickr30K_ID>.jpg")
        for split in ("train", "dev", "test"):
            path = require_file(arguments.snli_ve / f"snli_ve_{split}.jsonl", "a file of SNLI-VE")
            target = arguments.out / f"snli_ve_{split}.tsv"
            yield Conversion(target, ENTAILMENT, (path,), partial(_snli_ve_samples, path, images))


def _snli_ve_samples(path: Path, images: Path) -> Iterator[Sample]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"line {number} of {path.name}"
            try:
                pair = json.loads(line)
                values = {column: pair[field] for column, field in _SNLI_VE_FIELDS.items()}
            except (ValueError, KeyError, TypeError) as error:
                yield LeftOut(place, f"it is not a pair of SNLI-VE ({error!r})")
                continue
            if not all(isinstance(value, str) for value in values.values()):
                yield LeftOut(place, f"not all of {', '.join(_SNLI_VE_FIELDS.values())} are strings")
            elif values["label"] == "-":
                yield LeftOut(place, "people did not agree on a label", expected=True)
            else:
                yield Record(place, values, images / f"{values['image_id']}.jpg")


# By split: the name of its images, and whether answers are published.
_VQA_SPLITS = {"train": ("train2014", True), "val": ("val2014", True), "test": ("test2015", False)}


class VQA:
    """VQA v2 of visualqa.org: one row per question; training keeps listed answers and the questions that have one."""

    help = "VQA v2: questions, annotations and COCO's images; makes answers.json, too"
    makes = "FOLDER"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        _add_folder(parser, "--vqa", "of v2_OpenEnded_*_questions.json and annotations")
        _add_folder(parser, "--images", "COCO's: train2014/, val2014/, test2015/")
        parser.add_argument(
            "--min-count", type=int, default=9, help="questions that a listed answer answers, default %(default)s"
        )
        parser.add_argument(
            "--objects", type=Path, metavar="FILE", help='JSON of objects, {"image_id": ["dog", "ball"]}'
        )
        parser.add_argument("--splits", nargs="+", choices=_VQA_SPLITS, default=list(_VQA_SPLITS), help="default: all")

    def conversions(self, arguments: argparse.Namespace) -> Iterator[Conversion]:
        objects = _read_objects(arguments.objects)
        for split in filter(arguments.splits.__contains__, _VQA_SPLITS):
            name, has_answers = _VQA_SPLITS[split]
            images = find_folder(arguments.images, name, f"COCO_{name}_*.jpg")
            questions = _named(arguments.vqa, f"v2_OpenEnded_mscoco_{name}_questions.json")
            sources = [questions, *([arguments.objects] if arguments.objects else [])]
            annotations, listed = None, None
            if has_answers:
                sources.append(_named(arguments.vqa, f"v2_mscoco_{name}_annotations.json"))
                annotations = _read_annotations(sources[-1])
            if split == "train":
                listed = common_answers((commonest for commonest, _ in annotations.values()), arguments.min_count)
                if not listed:
                    raise UserError(
                        f"no answer in {sources[-1]} is that of {arguments.min_count} questions; lower --min-count"
                    )
            entries = _entries(questions, "questions")
            prefix, allowed = images / f"COCO_{name}_", listed and set(listed)
            samples = partial(_vqa_samples, entries, questions.name, prefix, annotations, allowed, objects)
            yield Conversion(arguments.out / f"vqa_{split}.tsv", QUESTIONS, tuple(sources), samples, total=len(entries))
            if listed:
                write_answers(listed, arguments.out / "answers.json")


def _named(folder: Path, name: str) -> Path:
    return require_file(folder / name, "a file of visualqa.org, unpacked")


def _entries(path: Path, key: str) -> list[Any]:
    content = of_kind(dict, read_json(path), path, f"a dict with {key}")
    return of_kind(list, content.get(key), path, f"a dict with a list of {key}")


def _read_annotations(path: Path) -> dict[int, tuple[str, list[str]]]:
    """The most common answer and all answers of each question."""
    try:
        return {
            entry["question_id"]: (
                normalise_answer(str(entry["multiple_choice_answer"])),
                [normalise_answer(str(answer["answer"])) for answer in entry["answers"]],
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


def _vqa_samples(
    questions: list[Any],
    name: str,
    images: Path,
    annotations: Mapping[int, tuple[str, list[str]]] | None,
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
            values["answers"] = answers_cell(annotations[question_id][1], listed)
            if listed is not None and not values["answers"]:
                yield LeftOut(place, "none of its answers is in the list", expected=True)
                continue
        yield Record(place, values, image)
