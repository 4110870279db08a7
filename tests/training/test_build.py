import pytest
from omegaconf import OmegaConf

from ofa.errors import UserError
from tasks.refcoco import RefCOCO
from training.build import check, validation_settings
from training.composed import make
from training.data_files import splits_to_test
from training.overrides import CONFIGS


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


def test_a_limit_of_batches_that_validations_would_not_know_of_is_refused():
    trainer = {"max_steps": 10, "max_epochs": None, "accumulate_grad_batches": 1, "limit_train_batches": 4}
    with pytest.raises(UserError, match="limit_train_batches may leave out every validation; set data.train_limit"):
        validation_settings(OmegaConf.create({"validate_every": 5, "trainer": trainer}), 8)


def test_what_is_made_holds_plain_lists_which_checkpoints_can_hold():
    optim = make({"_target_": "training.optim.Optim", "lr": 1.0, "betas": [0.9, 0.98]})
    assert type(optim.betas) is list  # not OmegaConf's: optimizers of older PyTorch put it in their state as it is


def checked(**changes):
    config = OmegaConf.create({"trainer": {"precision": "32-true", "accelerator": "cpu", "devices": 1}})
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed needs a GPU"),
        ({"trainer__num_nodes": 0}, "trainer.num_nodes=0 is not a whole number of at least 1"),
        ({"trainer__sync_batchnorm": True}, "trainer.sync_batchnorm=True needs GPUs; leave it false"),
        (
            {"trainer__strategy": {"gradient_compression": "bf16"}},
            "trainer.strategy.gradient_compression=bf16 needs GPUs; leave it null",
        ),
        ({"trainer__max_steps": 0}, "trainer.max_steps=0 is a run of no length"),
        ({"trainer__max_epochs": 0}, "trainer.max_epochs=0 is not a whole number of at least 1"),
        ({"data__batch_size": 0}, "data.batch_size=0"),
        ({"data__train_limit": "abc"}, "data.train_limit=abc"),
        ({"ema__decay": 2}, "ema.decay=2 is not a number between 0 and 1"),
    ],
)
def test_impossible_numbers_are_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        checked(**changes)


@pytest.mark.parametrize("key", ["trainer.precision", "distill.teacher_precision"])
def test_half_precision_is_refused_without_a_gpu_whatever_the_accelerator_is_called(key, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=f"{key}=16-true needs a GPU"):
        checked(trainer__accelerator="auto", **{key: "16-true"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema__decay": 0.9}, "ema.decay=0.9 and trainer=fsdp do not go together"),
        ({"model__compile": True}, "model.compile=True and trainer=fsdp do not go together"),
        ({"distill__on_policy": {"weight": 0.5}}, "distill.on_policy.weight=0.5 and trainer=fsdp do not go together"),
        ({"task__name": "caption_scst", "init": "RUN"}, "task=caption_scst answers in each step"),
        ({"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed does not work with trainer=fsdp"),
    ],
)
def test_what_needs_whole_weights_is_refused_where_they_are_sharded(changes, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    sharded = OmegaConf.load(CONFIGS / "trainer/fsdp.yaml").strategy
    checked(trainer__accelerator="auto", trainer__strategy=sharded)
    with pytest.raises(UserError, match=message):
        checked(trainer__accelerator="auto", trainer__strategy=sharded, **changes)


def test_sound_numbers_pass():
    checked(trainer__precision="bf16-mixed", trainer__devices="auto", data__batch_size=1, ema__decay=0.9)


def splits(**changes):
    return splits_to_test(OmegaConf.create({"split": None, "data": {"name": "tsv", "files": None}, **changes}), RefCOCO)


def test_without_a_choice_all_splits_are_tested_that_have_a_file():
    assert splits() == ["val", "testA", "testB"]
    assert splits(data={"name": "tsv", "files": {"train": "a.tsv", "testB": "b.tsv"}}) == ["testB"]


def test_an_unknown_split_is_answered_with_the_closest_one():
    assert splits(split="testA") == ["testA"] and splits(split="train") == ["train"]
    with pytest.raises(UserError, match="split=testa is not one of train, val, testA, testB; did you mean 'testA'"):
        splits(split=["testa"])


def test_what_hydra_wraps_is_unwrapped():
    with pytest.raises(UserError, match=r"^optim.lr=-1"):
        make({"_target_": "training.optim.Optim", "lr": -1})
    with pytest.raises(UserError, match=r"training.optim.Optim cannot be made with these settings: .*learning_rate"):
        make({"_target_": "training.optim.Optim", "learning_rate": 1})
