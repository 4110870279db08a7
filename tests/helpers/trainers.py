"""Training of small models in the process of the test."""

from types import SimpleNamespace

import pytorch_lightning as pl

from training.distillation.module import DistillationModule


class Interrupt(pl.Callback):
    """Ends training by an InterruptedError after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, *args):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def make_trainer(folder, callbacks, interrupt=None, **options):
    """A trainer on the CPU that logs every step and is interrupted after `interrupt` batches."""
    interrupts = [] if interrupt is None else [Interrupt(interrupt)]
    return pl.Trainer(
        accelerator="cpu", callbacks=[*callbacks, *interrupts], log_every_n_steps=1, check_val_every_n_epoch=None,
        use_distributed_sampler=False, enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip


def without_trainer(monkeypatch):
    """Lets a distillation module compute a loss without a trainer, as in the first step of a run."""
    monkeypatch.setattr(DistillationModule, "global_step", 0)
    monkeypatch.setattr(DistillationModule, "trainer", SimpleNamespace(precision="32-true"), raising=False)
