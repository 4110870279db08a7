"""Image backbone: timm's ResNet without its fourth stage, one vector for each 16 x 16 px patch."""

import copy

import timm
import torch
from timm.layers import DropPath
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ofa.layers import drop_path_rates

PATCH_WIDTH = 1024  # channels of the third stage


def build_backbone(stages: tuple[int, int, int], drop_path_rate: float) -> nn.Module:
    """A bottleneck ResNet (arXiv 1512.03385, stride on the 3x3 convolution) with `stages` blocks in its three stages.

    Called with images [B, 3, h, w] it returns a list of one feature map [B, 1024, h/16, w/16]. Drop path rises from 0
    to its rate inside each stage. The last batch norm of each block starts at 0, as in timm.
    """
    # A fourth stage must be named to be left out by `out_indices`.
    backbone = timm.create_model("resnet50", layers=(*stages, 1), features_only=True, out_indices=(3,))
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3):
        for block, rate in zip(stage, drop_path_rates(drop_path_rate, len(stage)), strict=True):
            block.drop_path = DropPath(rate) if rate else None
    return backbone


@torch.no_grad()
def fold_batch_norms(backbone: nn.Module) -> nn.Module:
    """A copy for evaluation with batch norms folded into the convolutions before them: the same output, faster."""
    folded = copy.deepcopy(backbone).eval()
    pairs = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("0", "1")]  # the last: a stage's first shortcut
    for parent in folded.modules():
        children = dict(parent.named_children())
        for convolution, norm in pairs:
            if isinstance(children.get(norm), nn.BatchNorm2d):
                setattr(parent, convolution, fuse_conv_bn_eval(children[convolution], children[norm]))
                setattr(parent, norm, nn.Identity())
    return folded
