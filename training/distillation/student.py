"""A student that starts from its teacher's weights: chosen layers, the leading channels of each."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import torch

from criterions.distillation.layer_mapping import check_layer_rule, layer_pairs
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel

log = logging.getLogger(__name__)

_LAYER = re.compile(r"(encoder|decoder)\.(layers|token_rel_pos_table_list|image_rel_pos_table_list)\.(\d+)\.")


def teacher_layers(
    rule: str | Sequence[Sequence[int]], student: OFAConfig, teacher: OFAConfig
) -> dict[str, dict[int, int]]:
    """For encoder and decoder, the teacher's layer that each layer of the student starts from.

    A student no wider than its teacher, with heads of the same width, can take the first of the teacher's.

    Args:
        rule: as of a match: first, last, gap, first2, ..., or pairs of layers.

    Raises:
        UserError: there is no such rule or layer, or the widths do not fit.
    """
    setting = "distill.init_from_teacher"
    check_layer_rule(rule, setting)
    if student.d_model > teacher.d_model:
        raise UserError(
            f"{setting}={rule}: the student is {student.d_model} wide and the teacher {teacher.d_model}, too narrow to "
            "be cut from; leave it null, or take a wider teacher"
        )
    for stack in ("encoder", "decoder"):
        ours, theirs = (config.d_model // getattr(config, f"{stack}_attention_heads") for config in (student, teacher))
        if ours != theirs:
            raise UserError(
                f"{setting}={rule}: the student's {stack} has heads {ours} wide and the teacher's {theirs}, of which a "
                "cut would make other heads; leave it null, or take a teacher with heads as wide"
            )
    return {
        "encoder": dict(layer_pairs(rule, student.encoder_layers, teacher.encoder_layers, setting)),
        "decoder": dict(layer_pairs(rule, student.decoder_layers, teacher.decoder_layers, setting)),
    }


@torch.no_grad()
def start_from_teacher(student: OFAModel, teacher: OFAModel, layers: Mapping[str, Mapping[int, int]]) -> None:
    """Copy weights and running statistics of the same name, and of the teacher's layers that `teacher_layers` chose.

    Of a larger tensor the leading entries of each dimension are taken: the first channels, and with them the first
    heads. What the teacher lacks or has smaller stays as it is.
    """
    given, copied = teacher.state_dict(), 0
    weights = student.state_dict()
    for name, tensor in weights.items():
        source = given.get(_name_in_teacher(name, layers))
        if source is None or any(theirs < ours for theirs, ours in zip(source.shape, tensor.shape, strict=True)):
            continue
        tensor.copy_(source[tuple(slice(size) for size in tensor.shape)])
        copied += 1
    log.info("%d of %d tensors of the student start from the teacher's", copied, len(weights))


def _name_in_teacher(name: str, layers: Mapping[str, Mapping[int, int]]) -> str | None:
    """None for a layer that starts from none of the teacher's."""
    found = _LAYER.match(name)
    if found is None:
        return name
    stack, kind, layer = found.groups()
    chosen = layers[stack].get(int(layer))
    return None if chosen is None else f"{stack}.{kind}.{chosen}.{name[found.end() :]}"
