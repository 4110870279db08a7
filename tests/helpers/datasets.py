"""Rows, images and small raw data sets in their published layouts."""

import base64
import csv
import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from data.source import Row


def encoded_image(format="PNG", size=(60, 40), colour="orange", alphabet=base64.b64encode):
    """Base64 of an encoded image: noise in shades of one colour."""
    pixels = np.asarray(Image.new("RGB", size, colour), dtype=np.int16)
    noise = np.random.default_rng(0).integers(-40, 40, pixels.shape)
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, format)
    return alphabet(file.getvalue()).decode()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG file of any declared size and content."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + png_chunk(b"IEND", b"")


def make_row(**values):
    """A row of a file `train.tsv` with an id, an image and the given columns."""
    return Row(values={"uniq_id": "7", "image": encoded_image(), **values}, source="train.tsv", number=3)


def write_jpeg(path: Path, size=(60, 40), seed=0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG")
    return path


def write_refer(folder: Path, name="refcoco", split_by="unc") -> list[str]:
    """Two references with three sentences in two splits; returns the arguments of the command that converts them."""
    refs = [
        {"ref_id": 1, "ann_id": 10, "image_id": 7, "category_id": 1, "split": "train", "file_name": "x_10.jpg",
         "sent_ids": [3, 4], "sentences": [{"sent_id": 3, "raw": "The Cup", "sent": "the cup", "tokens": []},
                                           {"sent_id": 4, "raw": "left", "sent": "left\tone", "tokens": []}]},
        {"ref_id": 2, "ann_id": 11, "image_id": 8, "category_id": 1, "split": "val", "file_name": "x_11.jpg",
         "sent_ids": [5], "sentences": [{"sent_id": 5, "raw": "dog", "sent": "dog", "tokens": []}]},
    ]  # fmt: skip
    instances = {
        "images": [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg"} for i in (7, 8)],
        "annotations": [{"id": 10, "bbox": [1.1, 2.2, 30.3, 20]}, {"id": 11, "bbox": [0, 0, 60, 40]}],
    }
    (folder / "refer" / name).mkdir(parents=True)
    (folder / "refer" / name / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=0))
    (folder / "refer" / name / "instances.json").write_text(json.dumps(instances))
    for i in (7, 8):
        write_jpeg(folder / "coco" / "train2014" / f"COCO_train2014_{i:012d}.jpg", seed=i)
    return ["--refer", str(folder / "refer"), "--images", str(folder / "coco")]


def write_karpathy(folder: Path) -> list[str]:
    images = [
        _karpathy(1, "train", "train2014", ["A Dog.", "a dog && a cat\n"]),
        _karpathy(2, "restval", "val2014", ["a bird"]),
        _karpathy(3, "val", "val2014", ["red", "blue"]),
        _karpathy(4, "test", "val2014", ["green"]),
    ]
    for image in images:
        write_jpeg(folder / "coco" / image["filepath"] / image["filename"], seed=image["cocoid"])
    (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": images}))
    return ["--karpathy", str(folder / "dataset_coco.json"), "--images", str(folder / "coco")]


def _karpathy(cocoid, split, filepath, captions):
    sentences = [{"raw": caption, "tokens": [], "sentid": i, "imgid": 0} for i, caption in enumerate(captions)]
    filename = f"COCO_{filepath}_{cocoid:012d}.jpg"
    return {"cocoid": cocoid, "split": split, "filepath": filepath, "filename": filename, "sentences": sentences}


def write_snli_ve(folder: Path) -> list[str]:
    pairs = [_pair("99", "p1", "entailment"), _pair("99", "p2", "-"), _pair("98", "p3", "neutral")]
    for split in ("train", "dev", "test"):
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
        (folder / f"snli_ve_{split}.jsonl").write_text(lines)
    for image_id in ("98", "99"):
        write_jpeg(folder / "flickr30k-images" / f"{image_id}.jpg")
    return ["--snli-ve", str(folder), "--images", str(folder)]


def _pair(image_id, pair_id, label):
    return {"Flickr30K_ID": image_id, "captionID": f"{image_id}.jpg#1", "pairID": pair_id, "gold_label": label,
            "sentence1": "Two men sit.", "sentence2": "Someone sits."}  # fmt: skip


VQA_ANSWERS = [(1, "yes", ["yes"] * 7 + ["No"] * 2 + ["maybe"]), (2, "yes", ["Yes."] * 10), (3, "two", ["two"] * 10)]


def write_vqa(folder: Path) -> list[str]:
    for split, name in (("train", "train2014"), ("val", "val2014"), ("test", "test2015")):
        questions = [{"question_id": q, "image_id": 5, "question": f"Is it {q}?"} for q, *_ in VQA_ANSWERS]
        text = json.dumps({"questions": questions})
        folder.mkdir(exist_ok=True)
        (folder / f"v2_OpenEnded_mscoco_{name}_questions.json").write_text(text)
        write_jpeg(folder / "coco" / name / f"COCO_{name}_{5:012d}.jpg")
        if split != "test":
            annotations = [
                {"question_id": q, "image_id": 5, "multiple_choice_answer": commonest,
                 "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers)]}
                for q, commonest, answers in VQA_ANSWERS
            ]  # fmt: skip
            (folder / f"v2_mscoco_{name}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    return ["--vqa", str(folder), "--images", str(folder / "coco"), "--min-count", "2"]


def write_photos(folder: Path, rows=6, name="photos.csv", size=(60, 40), broken=()) -> Path:
    """A CSV file of boxes in photos; the files of the rows in `broken` (from 0) are truncated."""
    with (folder / name).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "text", "x0", "y0", "x1", "y1"])
        for i in range(rows):
            image = write_jpeg(folder / "photos" / f"{i}.jpg", size, seed=i)
            if i in broken:
                image.write_bytes(image.read_bytes()[:200])
            table.writerow([f"photos/{i}.jpg", f"the thing, number {i}", i, 2, i + 20, 30])
    return folder / name
