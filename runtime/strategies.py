"""Data-parallel training."""

from __future__ import annotations

from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from ofa.config import check_choice, check_number


def data_parallel(find_unused_parameters: bool, bucket_cap_mb: float, gradient_compression: str | None) -> DDPStrategy:
    """Each process has the whole model; gradients are averaged while they are computed.

    Args:
        find_unused_parameters: search in each step for parameters without gradient, instead of waiting for it.
        bucket_cap_mb: megabytes of gradients that are sent at once.
        gradient_compression: bf16 sends them rounded; None: as they are.
    """
    check_number(bucket_cap_mb, "trainer.strategy.bucket_cap_mb", "25 is usual", above_zero=True)
    if gradient_compression is not None:
        check_choice(gradient_compression, "trainer.strategy.gradient_compression", ("bf16",))
    return DDPStrategy(
        find_unused_parameters=find_unused_parameters,
        bucket_cap_mb=bucket_cap_mb,
        gradient_as_bucket_view=True,
        broadcast_buffers=False,  # nor in evaluation, where processes take different numbers of steps
        ddp_comm_hook=None if gradient_compression is None else bf16_compress_hook,
    )
