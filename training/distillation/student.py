"""Initialization of a student from its teacher: selected layers, the leading channels of each."""

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
    """For encoder and decoder, the teacher layer that each student layer is initialized from.

    The student must not be wider than its teacher, and its heads must have the same width.

    Args:
        rule: as in FeatureLossRule: first, last, gap, first2, ..., or pairs of layers.

    Raises:
        UserError: there is no such rule or layer, or the widths are incompatible.
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
    """Copy weights and running statistics of the same name, with the layers of `teacher_layers`.

    Of a larger tensor the leading entries of each dimension are copied: the first channels and heads. Tensors that the
    teacher does not have, or has smaller, are not changed.
    """
    given, copied = teacher.state_dict(), 0
    weights = student.state_dict()
    for name, tensor in weights.items():
        found = _LAYER.match(name)
        if found is not None:
            stack, kind, layer = found.groups()
            name = f"{stack}.{kind}.{layers[stack].get(int(layer))}.{name[found.end() :]}"  # None: no such layer
        source = given.get(name)
        if source is None or any(theirs < ours for theirs, ours in zip(source.shape, tensor.shape, strict=True)):
            continue
        tensor.copy_(source[tuple(slice(size) for size in tensor.shape)])
        copied += 1
    log.info("%d of %d tensors of the student are initialized from the teacher", copied, len(weights))
