"""Micro models with random weights and a batch for them."""

import torch

from ofa.config import OFAConfig
from ofa.model import OFAModel


def micro_model(seed=0, **changes):
    """The size `micro` without dropout, in evaluation mode; `changes` are fields of its configuration."""
    torch.manual_seed(seed)
    return OFAModel(OFAConfig.from_name("micro", **{"dropout": 0.0, **changes})).eval()


def random_model(seed=0, init_std=0.3):
    """A micro model whose states differ by sample, position and history, so that hypotheses have different lengths."""
    model = micro_model(seed, init_std=init_std)
    for name, parameter in model.named_parameters():
        if "rel_pos_table_list" in name:  # these are initialised to zero and would not be tested otherwise
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def three_samples():
    """Inputs of three samples with sources of different lengths; the last has no image."""
    torch.manual_seed(1)
    return {
        "input_ids": torch.tensor([[0, 11, 12, 13, 14, 2], [0, 21, 22, 2, 1, 1], [0, 31, 2, 1, 1, 1]]),
        "patch_images": torch.randn(3, 3, 48, 64),
        "patch_masks": torch.tensor([True, True, False]),
    }


def select(batch, index):
    """The samples of a batch at an index: a number, a slice, a list or a tensor."""
    index = slice(index, index + 1) if isinstance(index, int) else index
    return {name: tensor[index] for name, tensor in batch.items()}


@torch.no_grad()
def logits_of(model, batch, tokens):
    """Logits [T, V] of one sample, after the start and after each of the tokens."""
    return model(**batch, decoder_input_ids=torch.tensor([[0, *tokens]])).logits[0].float()


def tokens_of(hypotheses):
    """The tokens of a list of hypotheses, or of a list of such lists."""
    return [tokens_of(h) if isinstance(h, list) else h.tokens for h in hypotheses]
