"""Training of a micro model on a few rows in the process of the test."""

import pytorch_lightning as pl


class Interrupt(pl.Callback):
    """Ends training by an InterruptedError behind so many batches."""

    def __init__(self, batches):
        self.left = batches

    def on_train_batch_end(self, *args):
        self.left -= 1
        if not self.left:
            raise InterruptedError


def make_trainer(folder, callbacks, interrupt=None, **options):
    """One on the CPU that logs every update; `interrupt` is the number of batches behind which it is interrupted."""
    interrupts = [] if interrupt is None else [Interrupt(interrupt)]
    return pl.Trainer(
        accelerator="cpu", callbacks=[*callbacks, *interrupts], log_every_n_steps=1, check_val_every_n_epoch=None,
        use_distributed_sampler=False, enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip
