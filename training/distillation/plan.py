"""The plan of a distillation: all settings checked before any weight is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console

from criterions.base import AllowedIds, Criterion
from criterions.distillation.criterion import DistillationCriterion
from criterions.distillation.layer_mapping import (
    ACTIVATIONS,
    FeatureLossRule,
    layer_mapping_table,
    map_layers,
    read_rules,
)
from criterions.distillation.logits import OnPolicy, Temperature
from data.module import OFADataModule
from ofa.checkpoint import check_vocabulary, find, load_model, read_config, weight_files
from ofa.config import OFAConfig, check_choice, check_number
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from runtime.digest import digest, digests
from runtime.overrides import CONFIGS
from training.distillation.cache import TeacherCache
from training.distillation.student import start_from_teacher, teacher_layers
from training.distillation.teacher import PRECISIONS, Teacher

log = logging.getLogger(__name__)

# Settings that have no effect where the setting before them is null.
OPTIONS_OF = {
    "kd": ("kd_schedule", "temperature", "probability_shift"),
    "feature_losses": ("feature_weight", "feature_schedule", "projection"),
    "cache": ("cache_views", "cache_top_k"),
}


@dataclass(frozen=True)
class CachePlan:
    """How the logits of a teacher are stored."""

    folder: Path
    views: int  # augmentations of each row
    top_k: int | None  # ids stored for each token; None: all allowed ids


@dataclass(frozen=True)
class DistillationPlan:
    """A distillation whose parts are compatible.

    Attributes:
        files: the checkpoint of each teacher, a file or a model folder.
        precision, image_size: of the teacher, as `Teacher` takes them.
        first_layers: the layers of the teacher that the student is initialized from, as `teacher_layers` returns them;
            None: no initialization from the teacher.
        on_policy: the loss on sequences sampled from the student; None: no sampling.
        cache: None: the teacher runs in each step.
    """

    files: list[Path]
    criterion: DistillationCriterion
    allowed: AllowedIds
    precision: str
    image_size: int | None
    first_layers: dict[str, dict[int, int]] | None
    on_policy: OnPolicy | None
    cache: CachePlan | None

    @property
    def weight_files(self) -> list[Path]:
        """The weight files of all teachers."""
        return [part for file in self.files for part in weight_files(file)]

    @property
    def mean_of(self) -> str | None:
        """What is averaged over several teachers, as `Teacher` takes it."""
        return {None: None, "mse": "logits"}.get(self.criterion.kd, "probabilities")

    def load_teacher(self) -> Teacher:
        models = [load_model(file) for file in self.files]
        return Teacher(models, self.criterion.teacher_features, self.mean_of, self.precision, self.image_size)

    def initialize(self, student: OFAModel) -> None:
        """Copy the weights of the teacher into the student, where the plan has `first_layers`."""
        if self.first_layers is not None:
            start_from_teacher(student, load_model(self.files[0]), self.first_layers)

    def fingerprint(self, data: OFADataModule, task: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
        """All that the records of a teacher cache depend on: a JSON value for each part, by the name used in errors.

        The names are stored in the cache: one that is renamed here makes existing caches unusable. `task` is the
        settings `task`.
        """
        predictions = data.teacher_answers
        return {
            "teacher (distill.teacher)": [digest(file) for file in self.weight_files],
            "mean of several teachers (distill.kd)": self.mean_of if len(self.files) > 1 else None,
            "precision of the teacher (distill.teacher_precision)": self.precision,
            "image size of the teacher (distill.teacher_image_size)": self.image_size,
            "training file (data)": [len(data.rows("train")), *digests(data.source.depends_on("train"))],
            "teacher's answers to learn (distill.predictions)": predictions and digest(predictions.path),
            "choice of columns (data.columns)": {name: data.source.columns.get(name) for name in data.columns},
            "task or settings of it (task)": task,
            "set of allowed ids (criterion.constraint_range, or the answers)": self.allowed.digest,
            "number of ids kept (distill.cache_top_k)": self.cache.top_k,
            "vocabulary (tokenizer)": tokenizer.digest(),
        }


def plan_distillation(
    settings: dict[str, Any],
    student: OFAConfig,
    criterion: Criterion,
    allowed: AllowedIds,
    tokenizer: Tokenizer,
    image_size: int | None,
) -> DistillationPlan:
    """The plan of the settings `distill`.

    Args:
        settings: as in configs/distill/_settings.yaml, without `predictions`.
        criterion: the loss of the student on the targets.
        image_size: pixels of a side of its images; None: a task without images.

    Raises:
        UserError: student, teacher and losses are incompatible.
    """
    settings = dict(settings)
    paths, precision, teacher_size = (settings.pop(f"teacher{key}") for key in ("", "_precision", "_image_size"))
    paths = paths if isinstance(paths, list) else [paths]
    if not paths or None in paths:
        raise UserError("distill.teacher names no teacher; give a run, a model folder, a checkpoint, or several")
    check_choice(precision, "distill.teacher_precision", PRECISIONS)
    check_number(settings["feature_weight"], "distill.feature_weight", "1 is the default")
    if settings["projection"] is not None:
        check_choice(settings["projection"], "distill.projection", ACTIVATIONS)
    _check_options(settings)
    rules = read_rules(*(settings.pop(key) for key in ("feature_losses", "feature_weight", "projection")))
    on_policy, init_rule = OnPolicy(**settings.pop("on_policy")), settings.pop("init_from_teacher")
    cache = [settings.pop(f"cache{key}") for key in ("", "_views", "_top_k")]
    settings["temperature"] = Temperature(**settings["temperature"])
    _check_losses(settings["kd"], rules, on_policy, allowed)
    if len(paths) > 1:
        _check_several(len(paths), settings["kd"], rules, init_rule, settings["temperature"])
    if teacher_size is not None and image_size is None:
        raise UserError(f"distill.teacher_image_size={teacher_size} has no effect on a task without images; set null")
    files = [find(str(path)) for path in paths]
    configs = [read_config(file) for file in files]
    for file, config in zip(files, configs, strict=True):
        _check_teacher(file, config, student, tokenizer, teacher_size or image_size)
    pairs = map_layers(rules, student, configs[0])
    for pair in pairs:
        if pair.compares_source and teacher_size not in (None, image_size):
            raise UserError(
                f"distill.teacher_image_size={teacher_size}: {pair.loss}:{pair.stack} compares source positions one by "
                f"one, and {image_size} px give another number of them; leave it null, or compare the decoder only"
            )
    first_layers = None if init_rule is None else teacher_layers(init_rule, student, configs[0])
    criterion = DistillationCriterion(criterion, pairs, student, configs[0], **settings)
    cache = _plan_cache(*cache, criterion, allowed, on_policy)
    return DistillationPlan(
        files, criterion, allowed, precision, teacher_size, first_layers, on_policy if on_policy.weight else None, cache
    )


def _check_options(settings: dict[str, Any]) -> None:
    """Refuse a setting that was changed and has no effect."""
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIGS / "distill/_settings.yaml"))
    for needed, keys in OPTIONS_OF.items():
        for key in keys:
            if not settings[needed] and settings[key] != defaults[key]:
                raise UserError(
                    f"distill.{key} has no effect where distill.{needed} is null; set distill.{needed}, or leave "
                    f"distill.{key} at its default"
                )
    if settings["kd"] is not None and settings["kd_weight"] == 0:
        raise UserError("distill.kd_weight=0 computes a loss on logits that does not count; set distill.kd=null")


def _check_losses(kd: str | None, rules: Sequence[FeatureLossRule], on_policy: OnPolicy, allowed: AllowedIds) -> None:
    if on_policy.weight == 0 and on_policy != OnPolicy(weight=0):
        raise UserError(
            "distill.on_policy.loss and .temperature have no effect without distill.on_policy.weight; set it"
        )
    if kd is None and not rules and on_policy.weight == 0:
        raise UserError(
            "distill.kd=null, no distill.feature_losses and distill.on_policy.weight=0: there is no loss on the "
            "teacher; set one"
        )
    if kd == "ce" and allowed.is_restricted:
        raise UserError(
            f"distill.kd=ce is the published loss over the whole vocabulary, and the ids are restricted to {allowed}; "
            "set distill.kd=ce_with_mask"
        )


def _check_several(
    n_teachers: int, kd: str | None, rules: Sequence[FeatureLossRule], init_rule: object, temperature: Temperature
) -> None:
    """Refuse what needs one teacher."""
    if init_rule is not None:
        needed = f"init_from_teacher={init_rule} copies weights; leave it null"
    elif rules:
        needed = "feature_losses compares features; leave them out"
    elif temperature.schedule == "flsw" and kd != "mse":
        needed = "temperature.schedule=flsw reads logits; take another schedule, distill.kd=mse"
    else:
        return
    raise UserError(
        f"distill.teacher names {n_teachers} teachers, of which probabilities are averaged, and distill.{needed}, or "
        "name one teacher"
    )


def _check_teacher(
    file: Path, teacher: OFAConfig, student: OFAConfig, tokenizer: Tokenizer, image_size: int | None
) -> None:
    if teacher.vocab_size != student.vocab_size:
        raise UserError(
            f"distill.teacher={file} has {teacher.vocab_size} ids and the student {student.vocab_size}, so that their "
            "logits cannot be compared; take a teacher with the vocabulary of the student"
        )
    check_vocabulary(file, tokenizer)
    if image_size is not None and image_size > teacher.max_image_size:
        raise UserError(
            f"distill.teacher={file} has positions for {teacher.max_image_size} px and would see {image_size} px; "
            "set distill.teacher_image_size to less"
        )


def _plan_cache(
    folder: str | None,
    views: int,
    top_k: int,
    criterion: DistillationCriterion,
    allowed: AllowedIds,
    on_policy: OnPolicy,
) -> CachePlan | None:
    """The plan of distill.cache, .cache_views and .cache_top_k; None without a folder."""
    if folder is None:
        return None
    for key, value in (("cache_views", views), ("cache_top_k", top_k)):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"distill.{key}={value} is not a whole number of at least 1")
    if criterion.feature_pairs or on_policy.weight:
        reason = f"distill.on_policy.weight={on_policy.weight} needs logits for sampled sequences"
        if criterion.feature_pairs:
            reason = "distill.feature_losses compares intermediate features"
        raise UserError(
            f"distill.cache={folder} keeps only logits for the targets, and {reason}; leave out one of them"
        )
    if allowed.is_restricted or top_k >= allowed.vocabulary_size:
        return CachePlan(Path(folder), views, None)
    if criterion.kd == "mse" or criterion.temperature.schedule == "flsw":
        setting = "kd=mse" if criterion.kd == "mse" else "temperature.schedule=flsw"
        raise UserError(
            f"distill.{setting} reads the logits of all {allowed.vocabulary_size} ids, of which "
            f"distill.cache_top_k={top_k} keeps the best; choose another, or distill without distill.cache"
        )
    return CachePlan(Path(folder), views, top_k)


@rank_zero_only
def log_distillation(plan: DistillationPlan | None, cache: TeacherCache | None) -> None:
    """Log the teachers, the layer mapping and the state of the cache, if there is a teacher."""
    if plan is None:
        return
    log.info("teachers: %s", ", ".join(map(str, plan.files)))
    if plan.criterion.feature_pairs:
        Console().print(layer_mapping_table(plan.criterion.feature_pairs))
    if cache is not None:
        log_cache(cache, plan.cache.views)


def log_cache(cache: TeacherCache, views: int) -> None:
    """Log how complete a cache is."""
    size = cache.n_bytes / 1e6
    log.info("teacher cache %s: %d of %d samples, %.1f MB; views of each row: %d", cache.folder, len(cache),
             cache.n_keys, size, views)  # fmt: skip
