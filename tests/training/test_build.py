import pytest
from omegaconf import OmegaConf

from ofa.errors import UserError
from tasks.refcoco import RefCOCO
from training.build import check_precision, chosen_splits, validation_settings


def interval(batches, every=500, accumulate=1, max_steps=-1, max_epochs=None):
    trainer = {"max_steps": max_steps, "max_epochs": max_epochs, "accumulate_grad_batches": accumulate}
    config = OmegaConf.create({"validate_every": every, "trainer": trainer})
    return validation_settings(config, batches)["val_check_interval"]


def test_updates_between_validations_are_counted_in_batches():
    assert interval(batches=10_000, every=500, accumulate=8, max_epochs=10) == 4000


def test_a_run_too_short_for_a_validation_has_one_at_its_end():
    assert interval(batches=2, accumulate=8, max_epochs=10) == 20
    assert interval(batches=100, max_steps=30) == 30
    # Two updates an epoch, of four batches and of one; the fifth update ends after the fourth batch of an epoch.
    assert interval(batches=5, accumulate=4, max_steps=5) == 14


def test_a_run_without_end_is_refused():
    with pytest.raises(UserError, match=r"trainer.max_steps or trainer.max_epochs"):
        interval(batches=5)


def test_a_length_of_zero_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        interval(batches=5, max_steps=0)


def test_half_precision_on_a_cpu_is_refused():
    check_precision("bf16-mixed", "cpu")
    with pytest.raises(UserError, match="trainer.precision=16-mixed needs a GPU"):
        check_precision("16-mixed", "cpu")


def test_an_unknown_split_is_answered_with_the_closest_one():
    assert chosen_splits(None, RefCOCO) == ["val", "testA", "testB"]
    assert chosen_splits("testA", RefCOCO) == ["testA"]
    with pytest.raises(UserError, match="did you mean 'testA'"):
        chosen_splits(["testa"], RefCOCO)
