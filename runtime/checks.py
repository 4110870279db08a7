"""What is wrong with a configuration in itself, said before any work starts."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf

from ofa.config import typed
from ofa.errors import UserError
from runtime.sharding import WORKS_ON_CPUS, FullySharded

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
    if "optim" in config:  # it is training, in which weights are sharded
        _check_sharding(config, without_gpu)


def _check_sharding(config: DictConfig, without_gpu: bool) -> None:
    """Refuse what needs whole weights while a model is trained in parts."""
    if OmegaConf.select(config, "trainer.strategy._target_") != f"{FullySharded.__module__}.{FullySharded.__name__}":
        return
    if without_gpu and not WORKS_ON_CPUS:
        raise UserError(f"trainer=fsdp needs GPUs with PyTorch {torch.__version__}; upgrade it, or set trainer=ddp")
    refused = {
        "ema.decay": "an average is of whole weights",
        "model.compile": "a compiled graph does not gather weights",
        "distill.on_policy.weight": "the student answers in each step, and each process would take steps of its own",
    }
    for key, reason in refused.items():
        value = OmegaConf.select(config, key)
        if value:
            raise UserError(f"{key}={typed(value)} and trainer=fsdp do not go together: {reason}; set trainer=ddp")
    if OmegaConf.select(config, "task.name") == "caption_scst":
        raise UserError("task=caption_scst answers in each step, which trainer=fsdp does not do; set trainer=ddp")
    precision = str(config.trainer.precision)
    if precision.startswith("16"):
        raise UserError(f"trainer.precision={precision} does not work with trainer=fsdp; set bf16-mixed or trainer=ddp")
