"""The parts of a run from the composed configuration; incompatible parts are refused before any work starts."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from criterions.base import AllowedIds, Criterion
from data.layout import load_task
from data.module import OFADataModule
from data.source import DataSource
from ofa.checkpoint import check_vocabulary, load_weights
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from ofa.processors import SettingError
from ofa.tokenizer import Tokenizer
from runtime.checks import is_sharded_run
from runtime.configuration import instantiate, to_container
from runtime.resume import ResumePoint
from tasks.base import Task
from training.distillation.cache import TeacherCache
from training.distillation.module import DistillationModule
from training.distillation.plan import DistillationPlan, plan_distillation
from training.distillation.teacher import CachedTeacher, Teacher
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim
from training.self_critical import SelfCriticalModule

log = logging.getLogger(__name__)


def build_tokenizer(
    config: DictConfig, data: DataSource, source: str | Path | None, weights: str | Path | None = None
) -> Tokenizer:
    """The vocabulary of a folder or hub id, or the demo's; it has to fit the data and the weights, if any are given."""
    tokenizer = Tokenizer.demo() if source is None else Tokenizer.from_pretrained(source)
    if tokenizer.is_demo and not data.is_demo:
        raise UserError(
            f"data={config.data.name} needs the published vocabulary, not the demo's: set tokenizer= to a folder or "
            f"Hugging Face hub id that holds vocab.json and merges.txt (every published OFA model folder does)"
        )
    if weights is not None:
        check_vocabulary(weights, tokenizer)
    return tokenizer


def check_task(config: DictConfig) -> None:
    """Check what a task declares about its training.

    Raises:
        UserError: the task needs an initial model, or more than a part of the model in each process.
    """
    task, name = load_task(config.task["_target_"]), config.task.name
    if task.starts_from is not None and config.init is None:
        raise UserError(f"task={name} starts from a trained model: set init=RUN, a run of task={task.starts_from}")
    if task.reward_columns and is_sharded_run(config):
        raise UserError(f"task={name} generates in each step, which trainer=fsdp does not support; set trainer=ddp")


def build_task(config: DictConfig, source: DataSource, tokenizer: Tokenizer) -> Task:
    """The task and its processor with the configured settings.

    Raises:
        UserError: a setting is impossible.
    """
    settings = {key: value for key, value in to_container(config.task).items() if key not in ("name", "_target_")}
    kind = load_task(config.task["_target_"])
    if settings.get("constrained") and settings["answer_list"] is None:
        if source.answer_list is None:
            raise UserError(
                "task.answer_list=FILE is missing: the JSON list of all answers, which the data does not have"
            )
        settings["answer_list"] = source.answer_list
    try:
        return kind.build(tokenizer, **settings)
    except SettingError as error:
        raise error.within("task.") from error


@dataclass(frozen=True)
class Objective:
    """What a run minimizes and how: checked before any data or weight is read."""

    criterion: Criterion
    allowed: AllowedIds  # the ids that targets may have
    optim: Optim
    freezing: Freezing
    distillation: DistillationPlan | None


def build_objective(config: DictConfig, tokenizer: Tokenizer, task: Task) -> Objective:
    """The configured loss, optimizer and distillation.

    Raises:
        UserError: the criterion, the task and the distillation are incompatible.
    """
    settings = to_container(config.criterion)
    vocabulary_size = model_config(config).vocab_size
    allowed = AllowedIds(vocabulary_size, settings.pop("constraint_range", None), task.processor.tree)
    criterion = instantiate(settings)
    name = settings["_target_"]
    if not isinstance(criterion, Criterion):
        raise UserError(f"criterion: {name} lacks attributes of criterions.base.Criterion; make it a subclass of it")
    if criterion.needs_rewards != bool(task.reward_columns):
        given = "rewards; set criterion=self_critical" if task.reward_columns else "targets; take another criterion"
        raise UserError(
            f"criterion: {name} is trained on {'rewards' if criterion.needs_rewards else 'targets'}, and "
            f"task={config.task.name} gives {given}"
        )
    distillation = _build_distillation(config, tokenizer, criterion, allowed)
    return Objective(criterion, allowed, instantiate(config.optim), instantiate(config.freezing), distillation)


def _build_distillation(
    config: DictConfig, tokenizer: Tokenizer, criterion: Criterion, allowed: AllowedIds
) -> DistillationPlan | None:
    settings = to_container(config.distill)
    if not settings:
        return None
    if criterion.needs_rewards:
        raise UserError(f"task={config.task.name} is trained on rewards, not on a teacher; leave distill=none")
    predictions = settings.pop("predictions")  # part of the data
    if not settings:
        if predictions is None:
            raise UserError("distill.predictions names no file: give what evaluate.py wrote, or choose distill=none")
        return None
    if config.init is not None and config.distill.init_from_teacher is not None:
        raise UserError(
            f"init={config.init} and distill.init_from_teacher={config.distill.init_from_teacher} both name initial "
            "weights; set one of them to null"
        )
    return plan_distillation(
        settings, model_config(config), criterion, allowed, tokenizer, config.task.get("image_size")
    )


def build_module(
    config: DictConfig,
    objective: Objective,
    data: OFADataModule,
    model: OFAModel,
    task: Task,
    generation: GenerationOptions,
    cache: TeacherCache | None,
) -> TrainingModule:
    """The Lightning module with the training step of the objective."""
    distillation, options = objective.distillation, {"allowed": objective.allowed, "on_nonfinite": config.on_nonfinite}
    criterion = objective.criterion if distillation is None else distillation.criterion
    parts = (model, task, generation, criterion, objective.optim, objective.freezing)
    if distillation is not None:
        teacher = build_teacher(distillation, cache)
        return DistillationModule(
            *parts, teacher=teacher, on_policy=distillation.on_policy, seed=config.seed, **options
        )
    if criterion.needs_rewards:
        rows = data.rows("train", task.reward_columns)
        return SelfCriticalModule(*parts, reward=task.build_reward(rows, config.data.on_error == "skip"), **options)
    return TrainingModule(*parts, **options)


def build_cache(
    config: DictConfig, data: OFADataModule, tokenizer: Tokenizer, distillation: DistillationPlan | None
) -> TeacherCache | None:
    """The configured teacher cache; one of another teacher or other data is refused."""
    if distillation is None or distillation.cache is None:
        return None
    fingerprint = distillation.fingerprint(data, to_container(config.task), tokenizer)
    n_keys = distillation.cache.views * len(data.rows("train"))
    cache = TeacherCache(distillation.cache.folder, n_keys, fingerprint)
    if config.trainer.get("num_nodes", 1) > 1 and len(cache) < n_keys:
        raise UserError(
            f"distill.cache={cache.folder} lacks samples, and it cannot be filled by several machines; fill it on one "
            "first: python -m training.fill_cache"
        )
    return cache


def build_teacher(distillation: DistillationPlan, cache: TeacherCache | None) -> Teacher | CachedTeacher:
    """The teacher; with a cache, its weights are loaded only if a record is missing."""
    if cache is None:
        return distillation.load_teacher()
    return CachedTeacher(cache, distillation.load_teacher, distillation.cache.top_k)


def model_config(config: DictConfig) -> OFAConfig:
    """The configured architecture."""
    settings = to_container(config.model)
    for key in ("name", "gradient_checkpointing", "compile"):
        del settings[key]
    return OFAConfig.from_dict(settings)


def log_recipe(config: DictConfig) -> None:
    """Log the chosen recipe, with a warning where it was made for another model size or initialization."""
    recipe = to_container(config.get("recipe", OmegaConf.create()))
    if "init" not in recipe:
        log.info(
            "no recipe for data=%s task=%s: defaults of the config groups; recipe=scratch is for training from scratch",
            config.data.name,
            config.task.name,
        )
        return
    sizes = recipe.get("sizes", [config.model.name])
    line = (
        f"recipe {HydraConfig.get().runtime.choices.recipe}, for model={' or '.join(sizes)}, weights: {recipe['init']}"
    )
    differs = [] if config.model.name in sizes else [f"model={config.model.name}"]
    from_scratch = config.init is None and OmegaConf.select(config, "distill.init_from_teacher") is None
    if from_scratch and recipe["init"] != "scratch":
        differs.append("random weights (set init=, or recipe=scratch)")
    if differs:
        log.warning("%s; this run has %s", line, " and ".join(differs))
    else:
        log.info(line)


def check_image_size(config: DictConfig, architecture: OFAConfig) -> None:
    """Refuse images larger than a model has positions for."""
    image_size = config.task.get("image_size")
    if image_size is not None and image_size > architecture.max_image_size:
        raise UserError(
            f"task.image_size={image_size} is more than the {architecture.max_image_size} px a model has positions for"
        )


def build_model(
    config: DictConfig, resume_point: ResumePoint | None, distillation: DistillationPlan | None
) -> OFAModel:
    """The model with the weights that training starts from; a resumed run reads them from its checkpoint later."""
    architecture = model_config(config)
    check_image_size(config, architecture)
    model = OFAModel(architecture)
    model.set_gradient_checkpointing(config.model.gradient_checkpointing)
    if config.model.compile:
        model.encoder.compile()
        model.decoder.compile()
    if resume_point is None and config.init is not None:
        load_weights(model, config.init)
    if resume_point is None and distillation is not None:
        distillation.initialize(model)
    return model


def generation_options(config: DictConfig, task: Task) -> GenerationOptions:
    """The task's own way to generate, with what the configuration changes."""
    changes = {key: value for key, value in to_container(config.generation).items() if value is not None}
    for key, value in changes.items():
        if key in task.processor.fixed_generation:
            raise UserError(f"generation.{key}={value}: task={config.task.name} decides this itself; leave it null")
        if key == "softmax_over_tree" and task.processor.tree is None:
            raise UserError(f"generation.{key}={value} has no effect: task={config.task.name} has no list of answers")
        if task.processor.scores_candidates:
            raise UserError(
                f"generation.{key}={value} has no effect where every candidate answer is scored; "
                "leave it null, or set task.inference=beam_search"
            )
        if isinstance(value, str):
            raise UserError(f"generation.{key}={value} is not a number")
    return replace(task.processor.generation, **changes)
