"""Batch prediction: `python predict.py checkpoint=RUN input=FOLDER text="the red mug"`. The wheel has `ofa predict`."""

import sys

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import ofa.prediction
from data.layout import load_task
from ofa.config import check_choice
from ofa.errors import UserError
from runtime.command_line import command

TEXTS = ("text", "caption", "objects")


@command("predict", verbatim=TEXTS)
def predict(config: DictConfig) -> None:
    """Writes predictions.jsonl and annotated images; an interrupted run resumes where it stopped."""
    for override in HydraConfig.get().overrides.task:
        if override.startswith("task."):
            raise UserError(f"{override}: predict.py uses the settings stored with the checkpoint; leave it out")
    check_choice(config.precision, "precision", ofa.prediction.PRECISIONS)
    n_predicted = ofa.prediction.predict(
        config.checkpoint,
        config.input,
        config.output,
        task=None if config.get("task") is None else load_task(config.task["_target_"]).processor_class.pipeline,
        texts={name: config[name] for name in TEXTS if config[name] is not None},
        images=config.pictures,
        precision=config.precision,
        batch_size=config.batch_size,
        tokenizer=config.tokenizer,
        answers=config.answers,
        device=config.device,
    )
    if not n_predicted:
        sys.exit(1)


if __name__ == "__main__":
    predict()
