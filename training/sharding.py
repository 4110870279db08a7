"""Models in parts: each process keeps a part of each weight, and all put them together where one needs the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from ofa.checkpoint import model_of
from ofa.model import OFAModel
from training.processes import copy_from_first, rank


class FullySharded(DDPStrategy):
    """Each process keeps a part of each weight, of its gradient and of its optimizer state (arXiv 2304.11277).

    The weights of a layer are gathered when it is computed; those of all else (embeddings, backbone, norms), for the
    whole of a training step. What is not training works as in other runs of several processes, with whole weights:
    evaluations, in which each process takes as many steps as its answers are long, and checkpoints.

    Args:
        reshard_after_forward: gather the weights of a layer once more in the backward pass, instead of keeping them.
    """

    def __init__(self, reshard_after_forward: bool) -> None:
        super().__init__()
        self.reshard_after_forward = reshard_after_forward

    def configure_ddp(self) -> None:
        """Shard what is trained; Lightning calls this with the weights on the device, before it makes the optimizer."""
        module = self.lightning_module
        copy_from_first(tensor.detach() for tensor in (*module.parameters(), *module.buffers()))
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for layer in (*module.model.encoder.layers, *module.model.decoder.layers):
            fully_shard(layer, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        fully_shard(module, mesh=mesh)
        register_fsdp_forward_method(module, "training_step")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return whole_state(self.lightning_module, "cpu" if rank() == 0 else "meta")  # the first one writes it

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.lightning_module, optimizer, options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        options = StateDictOptions(full_state_dict=True)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.lightning_module, optimizer, state, options=options)

    def on_train_end(self) -> None:
        """Leaves a whole model behind, to be tested and exported."""
        self.lightning_module.model = whole_model(self.lightning_module.model)

    def teardown(self) -> None:
        """As in the base class, but that no weights are moved: after an error, some are in parts and some are not."""
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def whole(tensor: Tensor) -> Tensor:
    """The tensor in one piece; where it is sharded, all processes have to call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def as_part_of(like: Tensor, part: Tensor) -> Tensor:
    """The opposite of `own_part`: a tensor that is sharded as `like` is, out of the parts."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def whole_state(module: nn.Module, device: str | None = None) -> dict[str, Tensor]:
    """The module's state_dict in whole tensors on a device (None: where they are); what is tied stays one tensor."""
    state = module.state_dict(keep_vars=True)
    tensors = {tensor: whole(tensor.detach()).to(device) for tensor in dict.fromkeys(state.values())}
    return {name: tensors[tensor] for name, tensor in state.items()}


def whole_model(model: OFAModel) -> OFAModel:
    """A model with the weights of a sharded one, in evaluation mode."""
    return model_of(model.config, whole_state(model))


def is_sharded(module: nn.Module) -> bool:
    """Whether processes keep a part of each of its weights."""
    return isinstance(next(module.parameters()), DTensor)
