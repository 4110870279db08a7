"""From the composed configuration to the parts of a run; parts that do not fit are refused before any work starts."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from criterions.self_critical import SelfCritical
from data.module import OFADataModule
from data.tsv import RowError
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from ofa.processors import SettingError
from ofa.tokenizer import Tokenizer
from runtime.configuration import instantiate, to_container
from runtime.progress import progress
from tasks.base import Task
from tasks.caption import SelfCriticalCaption
from tasks.metrics.cider import CiderD, DocumentFrequencies, with_end
from training.data_files import answer_list
from training.distillation.cache import TeacherCache
from training.distillation.cache_fingerprint import fingerprint
from training.distillation.cached_teacher import CachedTeacher
from training.distillation.module import DistillationModule
from training.distillation.plan import DistillationPlan, plan_distillation
from training.distillation.teacher import Teacher
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim
from training.self_critical import SelfCriticalModule

log = logging.getLogger(__name__)


def build_tokenizer(config: DictConfig, source: str | Path | None) -> Tokenizer:
    """The vocabulary of a folder or hub id, or the demo's; real data needs a published one."""
    tokenizer = Tokenizer.demo() if source is None else Tokenizer.from_pretrained(source)
    if tokenizer.is_demo and config.data.name != "demo":
        raise UserError(
            f"data={config.data.name} needs the published vocabulary, not the demo's: set tokenizer= to a folder or "
            f"Hugging Face hub id that holds vocab.json and merges.txt (every published OFA model folder does)"
        )
    return tokenizer


def build_task(config: DictConfig, tokenizer: Tokenizer) -> Task:
    settings = {key: value for key, value in to_container(config.task).items() if key != "name"}
    if settings.get("constrained") and settings["answer_list"] is None:
        settings["answer_list"] = answer_list(config)
    try:
        return instantiate(settings, tokenizer=tokenizer)
    except SettingError as error:
        raise error.within("task.") from error


def build_module(
    config: DictConfig,
    data: OFADataModule,
    model: OFAModel,
    task: Task,
    generation: GenerationOptions,
    criterion: LabelSmoothedCrossEntropy | SelfCritical,
    optim: Optim,
    freezing: Freezing,
    distillation: DistillationPlan | None,
    cache: TeacherCache | None,
) -> TrainingModule:
    """What is trained: the model with the criterion's kind of training step."""
    if distillation is not None:
        teacher = build_teacher(distillation, cache)
        parts = (model, task, generation, distillation.criterion, optim, freezing, teacher)
        return DistillationModule(
            *parts, on_policy=distillation.on_policy, seed=config.seed, on_nonfinite=config.on_nonfinite
        )
    parts = (model, task, generation, criterion, optim, freezing)
    if isinstance(criterion, SelfCritical):
        reward = CiderD(reward_frequencies(config, task, data))
        return SelfCriticalModule(*parts, reward, on_nonfinite=config.on_nonfinite)
    return TrainingModule(*parts, on_nonfinite=config.on_nonfinite)


def build_criterion(config: DictConfig, task: Task) -> LabelSmoothedCrossEntropy | SelfCritical:
    """The configured loss, which has to fit the task."""
    target = config.criterion["_target_"].rsplit(".", 1)[-1]
    if (target == "SelfCritical") != isinstance(task, SelfCriticalCaption):
        raise UserError(
            f"criterion={target} and task={config.task.name} do not fit: task=caption_scst is trained with "
            "criterion=self_critical, which is taken by itself, and no other task is"
        )
    settings = [key for key in config.criterion if key != "_target_"]
    if target == "SelfCritical" and settings:
        raise UserError(f"criterion.{settings[0]} has no meaning for criterion=self_critical; remove it")
    criterion = instantiate(config.criterion)
    if task.tree is not None and criterion.constraint_range is not None:
        raise UserError(
            f"criterion.constraint_range={criterion.constraint_range}: task={config.task.name} allows its listed "
            "answers alone; leave it null"
        )
    return criterion


def build_distillation(
    config: DictConfig, tokenizer: Tokenizer, task: Task, criterion: LabelSmoothedCrossEntropy | SelfCritical
) -> DistillationPlan | None:
    """What the student is to learn from a teacher, if anything; no weights are read yet."""
    settings = to_container(config.distill)
    if not settings:
        return None
    if isinstance(criterion, SelfCritical):
        raise UserError(f"task={config.task.name} learns from rewards alone, not from a teacher; leave distill=none")
    predictions = settings.pop("predictions")  # they are data
    if not settings:
        if predictions is None:
            raise UserError("distill.predictions names no file: give what evaluate.py wrote, or choose distill=none")
        return None
    if config.init is not None and config.distill.init_from_teacher is not None:
        raise UserError(
            f"init={config.init} and distill.init_from_teacher={config.distill.init_from_teacher} both name weights to "
            "start from; set one of them to null"
        )
    return plan_distillation(
        settings, model_config(config), criterion, tokenizer, config.task.get("image_size"), task.tree
    )


def build_cache(
    config: DictConfig, data: OFADataModule, tokenizer: Tokenizer, task: Task, distillation: DistillationPlan | None
) -> TeacherCache | None:
    """What the teacher said so far, where that is kept; one of another teacher or other data is refused."""
    if distillation is None or distillation.cache is None:
        return None
    parts = fingerprint(distillation, data, to_container(config.task), task.tree, tokenizer)
    n_keys = distillation.cache.views * len(data.rows("train"))
    cache = TeacherCache(distillation.cache.folder, n_keys, parts)
    if config.trainer.get("num_nodes", 1) > 1 and len(cache) < n_keys:
        raise UserError(
            f"distill.cache={cache.folder} lacks samples, and several machines cannot fill it together; fill it on one "
            "first: python -m training.fill_cache"
        )
    return cache


def build_teacher(distillation: DistillationPlan, cache: TeacherCache | None) -> Teacher | CachedTeacher:
    """With a cache, one that is loaded when it has to be."""
    if cache is None:
        return distillation.load_teacher()
    vocabulary_size = distillation.criterion.vocabulary_size
    return CachedTeacher(cache, distillation.load_teacher, distillation.cache.top_k, vocabulary_size)


def reward_frequencies(config: DictConfig, task: SelfCriticalCaption, data: OFADataModule) -> DocumentFrequencies:
    """Those of the configured file, else of the training references; broken rows are treated as in training."""
    if task.reward_document_frequencies is not None:
        return DocumentFrequencies.from_file(task.reward_document_frequencies)
    log.info("counting the n-grams of all training references; task.reward_document_frequencies=FILE saves this")
    rows = data.rows("train", ["caption"])
    found = []
    with progress("reading references", len(rows), "rows") as advance:
        for i in range(len(rows)):
            try:
                found.append(task.required_references(rows[i]))
            except RowError:
                if config.data.on_error == "stop":
                    raise
            advance(1)
    return DocumentFrequencies.from_references([[with_end(text) for text in texts] for texts in found])


def model_config(config: DictConfig) -> OFAConfig:
    """The configured shape of the model."""
    settings = to_container(config.model)
    size, *_ = (settings.pop(key) for key in ("name", "gradient_checkpointing", "compile"))
    return OFAConfig.from_name(size, **settings)


def check_image_size(config: DictConfig, architecture: OFAConfig) -> None:
    """Refuse images larger than a model has positions for."""
    image_size = config.task.get("image_size")
    if image_size is not None and image_size > architecture.max_image_size:
        raise UserError(
            f"task.image_size={image_size} is more than the {architecture.max_image_size} px a model has positions for"
        )


def build_model(config: DictConfig) -> OFAModel:
    """A model of the configured size with fresh weights."""
    architecture = model_config(config)
    check_image_size(config, architecture)
    model = OFAModel(architecture)
    model.set_gradient_checkpointing(config.model.gradient_checkpointing)
    if config.model.compile:
        model.encoder.compile()
        model.decoder.compile()
    return model


def generation_options(config: DictConfig, task: Task) -> GenerationOptions:
    """The task's own way to generate, with what the configuration changes."""
    changes = {key: value for key, value in to_container(config.generation).items() if value is not None}
    for key, value in changes.items():
        if key in task.fixed_generation:
            raise UserError(f"generation.{key}={value}: task={config.task.name} decides this itself; leave it null")
        if key == "softmax_over_tree" and task.tree is None:
            raise UserError(f"generation.{key}={value} has no effect: task={config.task.name} has no list of answers")
        if task.scores_candidates:
            raise UserError(
                f"generation.{key}={value} has no effect where every candidate answer is scored; "
                "leave it null, or set task.inference=beam_search"
            )
        if isinstance(value, str):
            raise UserError(f"generation.{key}={value} is not a number")
    return replace(task.generation, **changes)
