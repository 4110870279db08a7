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
from runtime.digest import digest
from training.distillation.plan import DistillationPlan


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
    answers = data.teacher_answers
    return {
        "teacher (distill.teacher)": [digest(file) for file in plan.weight_files],
        "mean of several teachers (distill.kd)": plan.mean_of if len(plan.files) > 1 else None,
        "precision of the teacher (distill.teacher_precision)": plan.precision,
        "image size of the teacher (distill.teacher_image_size)": plan.image_size,
        "training file (data)": [len(data.rows("train")), *map(_digest, data.source.depends_on("train"))],
        "teacher's answers to learn (distill.predictions)": None if answers is None else digest(answers.path),
        "choice of columns (data.columns)": {name: data.source.columns.get(name) for name in data.columns},
        "task or settings of it (task)": task,
        "set of allowed ids (criterion.constraint_range, or the answers)": _allowed(plan.criterion.hard, tree),
        "number of ids kept (distill.cache_top_k)": plan.cache.top_k,
        "vocabulary (tokenizer)": tokenizer.digest(),
    }


def _digest(part: Path | str) -> str:
    return digest(part) if isinstance(part, Path) else part


def _allowed(hard: LabelSmoothedCrossEntropy, tree: PrefixTree | None) -> Any:
    if tree is None:
        return None if hard.constraint_range is None else list(hard.constraint_range)
    found = hashlib.sha256()
    for numbers in (tree.tokens, tree.columns, tree.parents):
        found.update(numbers.cpu().numpy().tobytes())
    return found.hexdigest()
