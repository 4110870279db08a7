"""All that the records of a teacher cache depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from data.module import OFADataModule
from ofa.generation import PrefixTree
from ofa.tokenizer import Tokenizer
from training.distillation.plan import DistillationPlan

CHUNK = 1 << 20  # bytes read at a time
WHOLE = 1 << 30  # a training file of more bytes is known by its size ...
END = 64 << 20  # ... and by so many bytes of its beginning and of its end


def fingerprint(
    plan: DistillationPlan,
    data: OFADataModule,
    task: Mapping[str, Any],
    tree: PrefixTree | None,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """A JSON value for each part, under the name by which an error is to call it.

    Args:
        plan: a distillation with a cache.
        data: with the training file.
        task: the settings `task`.
        tree: the task's answers, where it has a closed set of them.
        tokenizer: its vocabulary.
    """
    return {
        "teacher (distill.teacher)": [_hash_of_ends(file, file.stat().st_size) for file in plan.files],
        "mean of several teachers (distill.kd)": plan.mean_of if len(plan.files) > 1 else None,
        "precision of the teacher (distill.teacher_precision)": plan.precision,
        "image size of the teacher (distill.teacher_image_size)": plan.image_size,
        "training file (data)": _training_file(data),
        "teacher's answers to learn (distill.predictions)": _predictions(data),
        "choice of columns (data.columns)": dict(data.columns),
        "task or settings of it (task)": task,
        "set of allowed ids (criterion.constraint_range, or the answers)": _allowed(plan.criterion.hard, tree),
        "number of ids kept (distill.cache_top_k)": plan.cache.top_k,
        "vocabulary (tokenizer)": tokenizer.digest(),
    }


def _training_file(data: OFADataModule) -> list[Any]:
    """Rows, size and content."""
    file, size = data.files["train"], data.files["train"].stat().st_size
    return [len(data.rows("train")), size, _hash_of_ends(file, size if size <= WHOLE else END)]


def _predictions(data: OFADataModule) -> str | None:
    if data.teacher_answers is None:
        return None
    file = data.teacher_answers.path
    return _hash_of_ends(file, file.stat().st_size)


def _hash_of_ends(file: Path, length: int) -> str:
    """Of the first and the last `length` bytes, which may be the same."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        for start in sorted({0, file.stat().st_size - length}):
            opened.seek(start)
            end = start + length
            while chunk := opened.read(min(CHUNK, end - opened.tell())):
                digest.update(chunk)
    return digest.hexdigest()


def _allowed(hard: LabelSmoothedCrossEntropy, tree: PrefixTree | None) -> Any:
    if tree is None:
        return None if hard.constraint_range is None else list(hard.constraint_range)
    digest = hashlib.sha256()
    for numbers in (tree.tokens, tree.columns, tree.parents):
        digest.update(numbers.cpu().numpy().tobytes())
    return digest.hexdigest()
