"""Fully sharded training (FSDP): each process keeps a shard of each weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ofa.checkpoint import model_of
from ofa.model import OFAModel
from runtime.collectives import broadcast_tensors, rank

WORKS_ON_CPUS = hasattr(torch.cpu.Stream, "record_event")  # which FSDP2 calls, and PyTorch 2.6 does not have


class FullySharded(DDPStrategy):
    """Each process keeps a shard of each weight, of its gradient and of its optimizer state (arXiv 2304.11277).

    The weights of a layer are collected when it is computed; all others (embeddings, backbone, norms) for the whole
    training step. Evaluations, in which processes take different numbers of steps, and checkpoints use full weights.

    Args:
        reshard_after_forward: gather the weights of a layer again in the backward pass, instead of keeping them.
    """

    def __init__(self, reshard_after_forward: bool) -> None:
        super().__init__()
        self.reshard_after_forward = reshard_after_forward

    def configure_ddp(self) -> None:
        """Shard the module; Lightning calls this with the weights on the device, before it creates the optimizer."""
        module = self.lightning_module
        broadcast_tensors(tensor.detach() for tensor in (*module.parameters(), *module.buffers()))
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for layer in (*module.model.encoder.layers, *module.model.decoder.layers):
            fully_shard(layer, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        fully_shard(module, mesh=mesh)  # what is not in a layer is used during the whole step
        register_fsdp_forward_method(module, "training_step")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return full_state_dict(self.lightning_module, _of_writer())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state, device = optimizer.state_dict(), _of_writer()
        values = {i: {k: full_tensor(v).to(device) for k, v in of_one.items()} for i, of_one in state["state"].items()}
        return {**state, "state": values}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            values = {
                i: {k: distribute_like(parameters[i], v) for k, v in of_one.items()}
                for i, of_one in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": values})

    def teardown(self) -> None:
        """As in the base class, without moving weights: after an error, only some of them are sharded."""
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def _of_writer() -> str:
    """The device for content of a checkpoint, which only rank 0 writes."""
    return "cpu" if rank() == 0 else "meta"


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor; if it is sharded, all processes have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def distribute_like(like: Tensor, tensor: Tensor) -> Tensor:
    """The inverse of `full_tensor`, for a tensor of the shape of `like`; others, such as counts, are not sharded."""
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def local_shard(tensor: Tensor) -> Tensor:
    """The shard of this process; a tensor that is not sharded as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(like: Tensor, part: Tensor) -> Tensor:
    """The inverse of `local_shard`: a tensor sharded like `like`, from the shards of all processes."""
    if not isinstance(like, DTensor):
        return part
    shape = {"shape": like.shape, "stride": like.stride()}
    return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False, **shape)


def full_state_dict(module: nn.Module, device: str | None = None) -> dict[str, Tensor]:
    """The module's state_dict as full tensors on a device (None: where they are); tied weights stay one tensor."""
    state = module.state_dict(keep_vars=True)
    tensors = {tensor: full_tensor(tensor.detach()).to(device) for tensor in dict.fromkeys(state.values())}
    return {name: tensors[tensor] for name, tensor in state.items()}


def full_model(model: OFAModel) -> OFAModel:
    """The model itself or, if it is sharded, a copy with full weights, in evaluation mode."""
    return model_of(model.config, full_state_dict(model)) if is_sharded(model) else model


def is_sharded(module: nn.Module) -> bool:
    """Whether its weights are sharded."""
    return isinstance(next(module.parameters()), DTensor)
