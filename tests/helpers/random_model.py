"""A small model of random weights, and samples to ask it about."""

import torch

from ofa.config import OFAConfig
from ofa.model import OFAModel


def random_model(seed=0, init_std=0.3):
    """A model whose states differ by sample, place and history, so that answers end at different lengths."""
    torch.manual_seed(seed)
    model = OFAModel(OFAConfig.from_name("micro", dropout=0.0, init_std=init_std)).eval()
    for name, parameter in model.named_parameters():
        if "rel_pos_table_list" in name:  # zero at the start of training: without this, they would not be tested
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def three_samples():
    """Sources of different lengths; the last has no image."""
    torch.manual_seed(1)
    return {
        "input_ids": torch.tensor([[0, 11, 12, 13, 14, 2], [0, 21, 22, 2, 1, 1], [0, 31, 2, 1, 1, 1]]),
        "patch_images": torch.randn(3, 3, 48, 64),
        "patch_masks": torch.tensor([True, True, False]),
    }
