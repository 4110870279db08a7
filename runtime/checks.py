"""Checks of a composed configuration, before any work starts."""

from __future__ import annotations

from functools import partial

import torch
from omegaconf import DictConfig, OmegaConf

from ofa.config import typed
from ofa.errors import UserError
from runtime.sharding import WORKS_ON_CPUS, FullySharded

# Lower bounds of whole numbers.
MINIMUM = {
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
    """Refuse settings that cannot work, without opening a file.

    Raises:
        UserError: for the first of them.
    """
    select = partial(OmegaConf.select, config)
    for key, minimum in MINIMUM.items():
        value = select(key)
        if value is not None and (not isinstance(value, int) or value < minimum):
            raise UserError(f"{key}={value} is not a whole number of at least {minimum}")
    log_every = config.get("log_every", 1)  # not a setting of every command
    if not isinstance(log_every, int | float) or log_every <= 0:
        raise UserError(f"log_every={log_every} is not a number of seconds above 0")
    decay = select("ema.decay")
    if decay is not None and not (isinstance(decay, float) and 0 < decay < 1):
        raise UserError(f"ema.decay={decay} is not a number between 0 and 1")
    no_gpu = config.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    precision = str(config.trainer.precision)
    if precision.startswith("16") and no_gpu:
        raise UserError(f"trainer.precision={precision} needs a GPU; on a CPU use 32-true or bf16-mixed")
    if str(select("distill.teacher_precision")).startswith("16") and no_gpu:
        raise UserError("distill.teacher_precision=16-true needs a GPU; on a CPU use 32-true or bf16-true")
    if config.trainer.get("max_steps") == 0:
        raise UserError("trainer.max_steps=0 is a run without steps; set at least 1, or -1 for no limit")
    for key in ("trainer.sync_batchnorm", "trainer.strategy.gradient_compression"):
        value = select(key)
        if value and no_gpu:
            raise UserError(f"{key}={typed(value)} needs GPUs; leave it {'false' if value is True else 'null'}")
    if "optim" in config and is_sharded_run(config):  # in training; evaluations use full weights
        _check_sharding(config, no_gpu)


def is_sharded_run(config: DictConfig) -> bool:
    """Whether each process has a part of the model (trainer=fsdp)."""
    target = OmegaConf.select(config, "trainer.strategy._target_")
    return target == f"{FullySharded.__module__}.{FullySharded.__name__}"


def _check_sharding(config: DictConfig, no_gpu: bool) -> None:
    """Refuse what needs full weights during sharded training."""
    if no_gpu and not WORKS_ON_CPUS:
        raise UserError(f"trainer=fsdp needs GPUs with PyTorch {torch.__version__}; upgrade it, or set trainer=ddp")
    refused = {
        "ema.decay": "the average needs full weights",
        "model.compile": "a compiled graph does not gather weights",
        "distill.on_policy.weight": "the student generates in each step, in numbers of steps that differ by process",
    }
    for key, reason in refused.items():
        value = OmegaConf.select(config, key)
        if value:
            raise UserError(f"{key}={typed(value)} and trainer=fsdp do not go together: {reason}; set trainer=ddp")
    precision = str(config.trainer.precision)
    if precision.startswith("16"):
        raise UserError(f"trainer.precision={precision} does not work with trainer=fsdp; set bf16-mixed or trainer=ddp")
