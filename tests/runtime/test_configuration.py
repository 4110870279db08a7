import pytest

from ofa.errors import UserError
from runtime.configuration import instantiate


def test_objects_get_plain_lists_which_checkpoints_can_contain():
    optim = instantiate({"_target_": "training.optim.Optim", "lr": 1.0, "betas": [0.9, 0.98]})
    assert type(optim.betas) is list  # not OmegaConf's: optimizers of older PyTorch put it in their state as it is


def test_errors_of_the_class_are_not_wrapped():
    with pytest.raises(UserError, match=r"^optim.lr=-1"):
        instantiate({"_target_": "training.optim.Optim", "lr": -1})
    with pytest.raises(UserError, match=r"training.optim.Optim cannot be built with these settings: .*learning_rate"):
        instantiate({"_target_": "training.optim.Optim", "learning_rate": 1})
