import pytest
from omegaconf import OmegaConf

from ofa.errors import UserError
from training.trainer import validation_settings


def interval(batches, every=500, accumulate=1, max_steps=-1, max_epochs=None):
    trainer = {"max_steps": max_steps, "max_epochs": max_epochs, "accumulate_grad_batches": accumulate}
    config = OmegaConf.create({"validate_every": every, "trainer": trainer})
    return validation_settings(config, batches)["val_check_interval"]


def test_steps_between_validations_are_counted_in_batches():
    assert interval(batches=10_000, every=500, accumulate=8, max_epochs=10) == 4000


def test_a_run_too_short_for_a_validation_has_one_at_its_end():
    assert interval(batches=2, accumulate=8, max_epochs=10) == 20
    assert interval(batches=100, max_steps=30) == 30
    # Two steps per epoch, of four batches and of one; the fifth step ends after the fourth batch of an epoch.
    assert interval(batches=5, accumulate=4, max_steps=5) == 14


def test_a_run_without_an_end_or_with_a_limit_of_batches_is_refused():
    with pytest.raises(UserError, match=r"trainer.max_steps or trainer.max_epochs"):
        interval(batches=5)
    config = OmegaConf.create({"validate_every": 5, "trainer": {"max_steps": 10, "limit_train_batches": 4}})
    with pytest.raises(UserError, match="limit_train_batches may leave out every validation; set data.train_limit"):
        validation_settings(config, 8)
