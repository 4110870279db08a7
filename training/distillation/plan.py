"""What is to be distilled, from the configuration: decided, and refused, before any weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from criterions.distillation.criterion import DistillationCriterion
from criterions.distillation.matching import Match, MatchRule, compose, read_rules
from criterions.distillation.on_policy import OnPolicy
from criterions.distillation.projections import ACTIVATIONS
from criterions.distillation.temperature import Temperature
from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.checkpoint import check_vocabulary, find, load_model, read_config, weight_files
from ofa.config import OFAConfig, check_choice, check_number
from ofa.errors import UserError
from ofa.generation import PrefixTree
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from runtime.overrides import CONFIGS
from training.distillation.cache_plan import CachePlan, plan_cache
from training.distillation.student import start_from_teacher, teacher_layers
from training.distillation.teacher import PRECISIONS, Teacher

# By a setting, those that mean nothing where it is left out.
OPTIONS_OF = {
    "kd": ("kd_schedule", "temperature", "probability_shift"),
    "matches": ("match_weight", "match_schedule", "projection"),
    "cache": ("cache_views", "cache_top_k"),
}


@dataclass(frozen=True)
class DistillationPlan:
    """A distillation whose parts fit each other.

    Attributes:
        files: the checkpoint of each teacher, a file or a model folder.
        criterion: the loss, with its matches.
        precision, image_size: of the teacher, as it takes them.
        first_layers: the teacher's layers that the student starts from, as `teacher_layers` returns them; None: it
            does not start from the teacher.
        on_policy: how the student's own sequences count; None: it samples none.
        cache: where the teacher's logits are kept; None: it is asked each time.
    """

    files: list[Path]
    criterion: DistillationCriterion
    precision: str
    image_size: int | None
    first_layers: dict[str, dict[int, int]] | None
    on_policy: OnPolicy | None
    cache: CachePlan | None

    @property
    def matches(self) -> tuple[Match, ...]:
        return self.criterion.matches

    @property
    def weight_files(self) -> list[Path]:
        """The files of all teachers' weights."""
        return [part for file in self.files for part in weight_files(file)]

    @property
    def mean_of(self) -> str | None:
        """What is averaged of several teachers, as `Teacher` takes it."""
        return {None: None, "mse": "logits"}.get(self.criterion.kd, "probabilities")

    def load_teacher(self) -> Teacher:
        models = [load_model(file) for file in self.files]
        return Teacher(models, self.criterion.teacher_features, self.mean_of, self.precision, self.image_size)

    def start(self, student: OFAModel) -> None:
        """A student that is to start from its teacher's weights receives them."""
        if self.first_layers is not None:
            start_from_teacher(student, load_model(self.files[0]), self.first_layers)


def plan_distillation(
    settings: dict[str, Any],
    student: OFAConfig,
    hard: LabelSmoothedCrossEntropy,
    tokenizer: Tokenizer,
    image_size: int | None,
    tree: PrefixTree | None = None,
) -> DistillationPlan:
    """The plan of the settings `distill`.

    Args:
        settings: as in configs/distill/_settings.yaml.
        student: the shape of the model that is trained.
        hard: its loss on the targets.
        tokenizer: its vocabulary.
        image_size: pixels of a side of its images; None where the task has none.
        tree: the task's answers, where it has a closed set of them.

    Raises:
        UserError: where student, teacher and losses do not fit.
    """
    settings = dict(settings)
    paths, precision, seen = (settings.pop(f"teacher{key}") for key in ("", "_precision", "_image_size"))
    paths = paths if isinstance(paths, list) else [paths]
    if not paths or None in paths:
        raise UserError("distill.teacher names no teacher; give a run, a model folder, a checkpoint, or several")
    check_choice(precision, "distill.teacher_precision", PRECISIONS)
    check_number(settings["match_weight"], "distill.match_weight", "1 is the default")
    if settings["projection"] is not None:
        check_choice(settings["projection"], "distill.projection", ACTIVATIONS)
    _check_options(settings)
    rules = read_rules(*(settings.pop(key) for key in ("matches", "match_weight", "projection")))
    on_policy = _on_policy(settings.pop("on_policy"))
    init_rule = settings.pop("init_from_teacher")
    cache = [settings.pop(f"cache{key}") for key in ("", "_views", "_top_k")]
    settings["temperature"] = Temperature(**settings["temperature"])
    _check_losses(settings["kd"], rules, on_policy, hard, tree)
    if len(paths) > 1:
        _check_several(len(paths), settings["kd"], rules, init_rule, settings["temperature"])
    if seen is not None and image_size is None:
        raise UserError(f"distill.teacher_image_size={seen} has no effect on a task without images; leave it null")
    files = [find(str(path)) for path in paths]
    configs = [read_config(file) for file in files]
    for file, config in zip(files, configs, strict=True):
        _check_teacher(file, config, student, tokenizer, seen or image_size)
    matches = compose(rules, student, configs[0])
    _check_image_sizes(matches, seen, image_size)
    criterion = DistillationCriterion(hard, matches, student, configs[0], **settings)
    first_layers = None if init_rule is None else teacher_layers(init_rule, student, configs[0])
    cache = plan_cache(*cache, criterion, tree)
    if cache is not None and on_policy is not None:
        raise UserError(
            f"distill.cache={cache.folder} keeps what the teacher says to the targets, and distill.on_policy.weight="
            f"{on_policy.weight} asks about sequences that are not known before; leave out one of them"
        )
    return DistillationPlan(files, criterion, precision, seen, first_layers, on_policy, cache)


def _on_policy(settings: dict[str, Any]) -> OnPolicy | None:
    on_policy = OnPolicy(**settings)
    if on_policy.weight == 0 and on_policy != OnPolicy(weight=0):
        raise UserError(
            "distill.on_policy.loss and .temperature have no effect without distill.on_policy.weight; set it"
        )
    return on_policy if on_policy.weight > 0 else None


def _check_losses(
    kd: str | None,
    rules: Sequence[MatchRule],
    on_policy: OnPolicy | None,
    hard: LabelSmoothedCrossEntropy,
    tree: PrefixTree | None,
) -> None:
    if kd is None and not rules and on_policy is None:
        raise UserError(
            "distill.kd=null, no distill.matches and distill.on_policy.weight=0: nothing is learnt from the teacher; "
            "set one"
        )
    if kd == "ce" and (tree is not None or hard.constraint_range is not None):
        what = "the task's answers" if tree is not None else f"criterion.constraint_range={hard.constraint_range}"
        raise UserError(
            f"distill.kd=ce is the published loss over all ids, and {what} allows some alone; "
            "set distill.kd=ce_with_mask"
        )


def _check_several(
    n_teachers: int, kd: str | None, rules: Sequence[MatchRule], init_rule: object, temperature: Temperature
) -> None:
    """Refuse what needs one teacher."""
    if init_rule is not None:
        raise UserError(
            f"distill.init_from_teacher={init_rule} and distill.teacher names {n_teachers} teachers; start from one by "
            "a run with that one, or leave it null"
        )
    if rules:
        raise UserError(
            f"distill.matches compares intermediate states with one teacher's, and distill.teacher names {n_teachers}; "
            "several are averaged on logits only: leave the matches out, or all teachers but one"
        )
    if temperature.schedule == "flsw" and kd != "mse":
        raise UserError(
            f"distill.temperature.schedule=flsw reads a teacher's logits, and of the {n_teachers} in distill.teacher "
            "the probabilities are averaged; take another schedule, one teacher, or distill.kd=mse"
        )


def _check_options(settings: dict[str, Any]) -> None:
    """Refuse a setting that was changed and has no effect."""
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIGS / "distill/_settings.yaml"))
    for needed, keys in OPTIONS_OF.items():
        for key in keys:
            if not settings[needed] and settings[key] != defaults[key]:
                raise UserError(
                    f"distill.{key} has no effect where distill.{needed} is null; set distill.{needed}, or leave "
                    f"distill.{key} as it was"
                )
    if settings["kd"] is not None and settings["kd_weight"] == 0:
        raise UserError(
            "distill.kd_weight=0 asks the teacher for logits that do not count; set distill.kd=null instead"
        )


def _check_teacher(
    file: Path, teacher: OFAConfig, student: OFAConfig, tokenizer: Tokenizer, image_size: int | None
) -> None:
    if teacher.vocab_size != student.vocab_size:
        raise UserError(
            f"distill.teacher={file} has {teacher.vocab_size} ids and the student {student.vocab_size}, so that their "
            "logits cannot be compared; take a teacher with the student's vocabulary"
        )
    check_vocabulary(file, tokenizer)
    if image_size is not None and image_size > teacher.max_image_size:
        raise UserError(
            f"distill.teacher={file} has positions for {teacher.max_image_size} px and would see {image_size} px; "
            "set distill.teacher_image_size to less"
        )


def _check_image_sizes(matches: list[Match], teacher: int | None, student: int | None) -> None:
    if teacher in (None, student):
        return
    for match in matches:
        if match.compares_source:
            raise UserError(
                f"distill.teacher_image_size={teacher}: {match.loss}:{match.stack} compares source positions one by "
                f"one, of which {student} px give another number; leave it null, or match the decoder only"
            )
