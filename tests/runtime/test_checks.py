import pytest
from omegaconf import OmegaConf

from ofa.errors import UserError
from runtime.checks import check
from runtime.overrides import CONFIGS


def checked(**changes):
    config = OmegaConf.create({"optim": {}, "trainer": {"precision": "32-true", "accelerator": "cpu", "devices": 1}})
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed needs a GPU"),
        ({"trainer__num_nodes": 0}, "trainer.num_nodes=0 is not a whole number of at least 1"),
        ({"trainer__sync_batchnorm": True}, "trainer.sync_batchnorm=True needs GPUs; leave it false"),
        ({"trainer__strategy": {"gradient_compression": "bf16"}}, "compression=bf16 needs GPUs; leave it null"),
        ({"trainer__max_steps": 0}, "trainer.max_steps=0 is a run without steps"),
        ({"trainer__max_epochs": 0}, "trainer.max_epochs=0 is not a whole number of at least 1"),
        ({"data__batch_size": 0}, "data.batch_size=0"),
        ({"data__train_limit": "abc"}, "data.train_limit=abc"),
        ({"ema__decay": 2}, "ema.decay=2 is not a number between 0 and 1"),
    ],
)
def test_invalid_numbers_are_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        checked(**changes)


@pytest.mark.parametrize("key", ["trainer.precision", "distill.teacher_precision"])
def test_half_precision_is_refused_without_a_gpu(key, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=f"{key}=16-true needs a GPU"):
        checked(trainer__accelerator="auto", **{key: "16-true"})


def test_sharding_on_a_cpu_is_refused_if_torch_does_not_support_it(monkeypatch):
    monkeypatch.setattr("runtime.checks.WORKS_ON_CPUS", False)
    with pytest.raises(UserError, match="trainer=fsdp needs GPUs with PyTorch .*; upgrade it, or set trainer=ddp"):
        checked(trainer__strategy=OmegaConf.load(CONFIGS / "trainer/fsdp.yaml").strategy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema__decay": 0.9}, "ema.decay=0.9 and trainer=fsdp do not go together"),
        ({"model__compile": True}, "model.compile=True and trainer=fsdp do not go together"),
        ({"distill__on_policy": {"weight": 0.5}}, "distill.on_policy.weight=0.5 and trainer=fsdp do not go together"),
        ({"trainer__precision": "16-mixed"}, "trainer.precision=16-mixed does not work with trainer=fsdp"),
    ],
)
def test_settings_that_need_full_weights_are_refused_with_sharding(changes, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    sharded = OmegaConf.load(CONFIGS / "trainer/fsdp.yaml").strategy
    checked(trainer__accelerator="auto", trainer__strategy=sharded)
    with pytest.raises(UserError, match=message):
        checked(trainer__accelerator="auto", trainer__strategy=sharded, **changes)


def test_valid_numbers_pass():
    checked(trainer__precision="bf16-mixed", trainer__devices="auto", data__batch_size=1, ema__decay=0.9)
