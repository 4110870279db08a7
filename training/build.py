"""From the composed configuration to the parts of a run; what cannot work is refused here, before any work starts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor, RichProgressBar
from pytorch_lightning.loggers import Logger
from tqdm import tqdm

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from criterions.self_critical import SelfCritical
from data.module import OFADataModule
from data.tsv import RowError
from ofa.checkpoint import BEST, LAST
from ofa.config import OFAConfig, typed
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from ofa.processors import SettingError
from ofa.tokenizer import Tokenizer
from tasks.base import Task
from tasks.caption import SelfCriticalCaption
from tasks.metrics.cider import CiderD, DocumentFrequencies, with_end
from training.callbacks import ReportNotes, WriteAnswers
from training.checkpoint_io import CheckpointFiles
from training.checkpoints import BestCheckpoint, LastCheckpoint, SaveAtEnd
from training.composed import make, plain
from training.data_files import answer_list
from training.distillation.cache import TeacherCache
from training.distillation.cache_fingerprint import fingerprint
from training.distillation.cached_teacher import CachedTeacher
from training.distillation.module import DistillationModule
from training.distillation.plan import DistillationPlan, plan_distillation
from training.distillation.teacher import Teacher
from training.freezing import Freezing
from training.interruption import StopOnSignal, signals_of
from training.launching import Environment, devices_of
from training.module import TrainingModule
from training.optim import Optim
from training.pictures import SampleAnswers
from training.processes import rank
from training.resume import RestOfState
from training.self_critical import SelfCriticalModule
from training.sharding import check_sharding
from training.tracking import Tracking

log = logging.getLogger(__name__)

# The least value of settings that are numbers.
AT_LEAST = {
    "data.batch_size": 1,
    "data.eval_batch_size": 1,
    "data.num_workers": 0,
    "data.worker_timeout": 0,
    "data.train_limit": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.num_nodes": 1,
    "trainer.max_steps": -1,
    "trainer.max_epochs": 1,
    "validate_every": 1,
    "save_every": 1,
    "pictures": 0,
    "distill.teacher_image_size": 16,
}


def check(config: DictConfig) -> None:
    """What can be seen to be wrong without opening a file.

    Raises:
        UserError: the first thing that is.
    """
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(config, key)
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{key}={value} is not a whole number of at least {least}")
    decay = OmegaConf.select(config, "ema.decay")
    if decay is not None and not (isinstance(decay, float) and 0 < decay < 1):
        raise UserError(f"ema.decay={decay} is not a number between 0 and 1")
    without_gpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    precision = str(config.trainer.precision)
    if precision.startswith("16") and without_gpu:
        raise UserError(f"trainer.precision={precision} needs a GPU; on a CPU use 32-true or bf16-mixed")
    if OmegaConf.select(config, "task.name") == "caption_scst" and config.get("init", "") is None:
        raise UserError("task=caption_scst goes on from a captioning model: set init=RUN, a run of task=caption")
    if str(OmegaConf.select(config, "distill.teacher_precision")).startswith("16") and without_gpu:
        raise UserError("distill.teacher_precision=16-true needs a GPU; on a CPU use 32-true or bf16-true")
    if config.trainer.get("max_steps") == 0:
        raise UserError("trainer.max_steps=0 is a run of no length; set at least 1, or -1 for no limit")
    for key in ("sync_batchnorm", "strategy.gradient_compression"):
        value = OmegaConf.select(config.trainer, key)
        if value and without_gpu:
            raise UserError(f"trainer.{key}={typed(value)} needs GPUs; leave it {'false' if value is True else 'null'}")
    check_sharding(config)


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
    settings = {key: value for key, value in plain(config.task).items() if key != "name"}
    if settings.get("constrained") and settings["answer_list"] is None:
        settings["answer_list"] = answer_list(config)
    try:
        return make(settings, tokenizer=tokenizer)
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
    criterion = make(config.criterion)
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
    settings = plain(config.distill)
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
    parts = fingerprint(distillation, data, plain(config.task), task.tree, tokenizer)
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
    for i in tqdm(range(len(rows)), "reading references", leave=False, disable=rank() > 0):
        try:
            found.append(task.required_references(rows[i]))
        except RowError:
            if config.data.on_error == "stop":
                raise
    return DocumentFrequencies.from_references([[with_end(text) for text in texts] for texts in found])


def model_config(config: DictConfig) -> OFAConfig:
    """The configured shape of the model."""
    settings = plain(config.model)
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
    changes = {key: value for key, value in plain(config.generation).items() if value is not None}
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


def test_callbacks(config: DictConfig, task: Task, folder: Path) -> list[pl.Callback]:
    callbacks = [RichProgressBar(), ReportNotes(), WriteAnswers(folder, task)]
    return [*callbacks, SampleAnswers(folder, task, config.pictures)] if config.pictures else callbacks


def learnt_files(data: OFADataModule, distillation: DistillationPlan | None) -> dict[str, list[Path]]:
    """What training learns from, for RestOfState."""
    files = {"training file (data)": [data.files["train"]]}
    if data.teacher_answers is not None:
        files["file of answers (distill.predictions)"] = [data.teacher_answers.path]
    if distillation is not None:
        files["teacher (distill.teacher)"] = distillation.weight_files
    return files


def training_callbacks(
    config: DictConfig, task: Task, folder: Path, files: Mapping[str, Sequence[Path]]
) -> list[pl.Callback]:
    """Those of a test, and what a training run keeps: its best and its last checkpoint, its learning rates.

    Args:
        folder: of the run.
        files: what it learns from, as `learnt_files` returns it.
    """
    last = LastCheckpoint(folder / LAST, config.save_every)
    callbacks = [
        *test_callbacks(config, task, folder),
        LearningRateMonitor("step"),
        Tracking(plain(config)),
        RestOfState(files),
        BestCheckpoint(folder / BEST, f"val/{task.best}"),
        last,
        SaveAtEnd(last),
    ]
    if config.ema.decay is not None:
        # Behind SaveAtEnd: at the end of training it replaces the weights by their average.
        callbacks.append(EMAWeightAveraging(decay=config.ema.decay))
    # Behind the average, too, which changes at the end of each update.
    return [*callbacks, StopOnSignal(signals_of(config.signals), last)]


def build_loggers(config: DictConfig, step: int | None = None) -> list[Logger]:
    """The chosen loggers; none of them has written anything yet.

    Args:
        step: number of updates behind which they go on in the files of their run; None: there are none.
    """
    loggers = config.get("logger")  # Hydra leaves the group out where none is chosen
    if not loggers:
        raise UserError("logger=[] names no logger; choose one or several of csv, tensorboard, wandb, mlflow")
    if "mlflow" in loggers and find_spec("mlflow") is None:
        raise UserError('logger=mlflow needs a package that is not installed: pip install -e ".[mlflow]"')
    more = {}
    if step is not None:
        more["tensorboard"] = {"purge_step": step}  # what older files show from there on is no longer shown
    return [make(settings, **more.get(name, {})) for name, settings in loggers.items()]


def build_trainer(config: DictConfig, callbacks: list[pl.Callback], folder: Path, **settings: Any) -> pl.Trainer:
    """Lightning's trainer with the configured arguments and `settings`."""
    plugins = [CheckpointFiles(), Environment(devices_of(config.trainer))]  # not that which Lightning has for SLURM
    return make(
        plain(config.trainer),
        callbacks=callbacks,
        plugins=plugins,
        use_distributed_sampler=False,
        default_root_dir=folder,
        **settings,
    )


def validation_settings(config: DictConfig, batches: int) -> dict[str, Any]:
    """The trainer's arguments for a validation every `validate_every` updates, whatever the length of an epoch.

    Args:
        batches: training batches of an epoch. A run too short for a validation has one at its end, so that every run
            has a best checkpoint.

    Raises:
        UserError: the length of the run is not set, or batches would be left out that are counted here.
    """
    if config.trainer.get("limit_train_batches") is not None:
        raise UserError("trainer.limit_train_batches may leave out every validation; set data.train_limit, in rows")
    steps, epochs = config.trainer.max_steps, config.trainer.max_epochs
    accumulate = config.trainer.accumulate_grad_batches
    if steps < 0 and epochs is None:
        raise UserError("set trainer.max_steps or trainer.max_epochs, the length of the run")
    intervals = [config.validate_every * accumulate]
    if steps >= 0:
        whole_epochs, rest = divmod(steps, -(-batches // accumulate))
        intervals.append(whole_epochs * batches + rest * accumulate)
    if epochs is not None:
        intervals.append(epochs * batches)
    return {"val_check_interval": min(intervals), "check_val_every_n_epoch": None}
