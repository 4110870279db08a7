"""Boxes as pixels and as bins: small pure functions.

A box is x0, y0, x1, y1 in pixels of the original image, the right and lower edges exclusive, so that its area is
(x1 - x0) * (y1 - y0). A model writes it as four bins of the resized picture: coordinate * resize ratio / max_image_size
* 999, rounded. `resize_ratio` is always (resized width / width, resized height / height).
"""

import torch
from torch import Tensor

from ofa.vocabulary import N_BINS

Box = tuple[float, float, float, float]


def boxes_to_bins(boxes: Tensor, resize_ratio: tuple[float, float], max_image_size: int) -> Tensor:
    """Bin numbers [..., 4] (int64) of boxes [..., 4] inside the image; 0..999 where the picture fits max_image_size."""
    return (boxes * _per_coordinate(resize_ratio) / max_image_size * (N_BINS - 1)).round().long()


def bins_to_boxes(bins: Tensor, resize_ratio: tuple[float, float], max_image_size: int) -> Tensor:
    """Boxes [..., 4] (float32) in pixels of the original image from bin numbers [..., 4]."""
    return bins / (N_BINS - 1) * max_image_size / _per_coordinate(resize_ratio)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union [N] of boxes [N, 4] and [N, 4], row by row; 0 where neither has an area."""
    overlap = _area(torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:]))
    union = _area(first[:, :2], first[:, 2:]) + _area(second[:, :2], second[:, 2:]) - overlap
    return torch.where(union > 0, overlap / union, 0.0)


def _area(upper_left: Tensor, lower_right: Tensor) -> Tensor:
    # A predicted box may have its corners swapped: it has no area rather than a negative one.
    return (lower_right - upper_left).clamp(min=0).prod(dim=-1)


def has_area(box: Box) -> bool:
    """Whether it covers anything: neither empty nor with its corners swapped."""
    x0, y0, x1, y1 = box
    return x0 < x1 and y0 < y1


def _per_coordinate(resize_ratio: tuple[float, float]) -> Tensor:
    return torch.tensor([*resize_ratio, *resize_ratio])
