"""Evaluate a checkpoint: `python evaluate.py task=refcoco checkpoint=RUN_OR_FILE split=testA`."""

import pytorch_lightning as pl
from omegaconf import DictConfig

from ofa.checkpoint import find, load_model, tokenizer_folder
from runtime.checks import check
from runtime.collectives import local_rank_zero_first
from runtime.command_line import command
from runtime.launching import devices_of
from runtime.preemption import StopOnSignal, signals_of
from runtime.run_dir import run_dir
from tracking import report
from training import build
from training.data_files import build_data, build_source, splits_to_test
from training.evaluation import EvaluationModule
from training.trainer import build_trainer, test_callbacks


@command("evaluate")
def evaluate(config: DictConfig) -> None:
    """Generates predictions for the chosen splits; writes them with their scores and sample images."""
    check(config)
    checkpoint = find(config.checkpoint)
    folder = run_dir()
    report.log_start(config, folder)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    with local_rank_zero_first(devices_of(config.trainer)):  # demo files and indexes are written once
        source = build_source(config)
        vocabulary = config.tokenizer or tokenizer_folder(checkpoint)
        tokenizer = build.build_tokenizer(config, source, vocabulary, checkpoint)
        task = build.build_task(config, source, tokenizer)
        generation = build.generation_options(config, task)
        splits = splits_to_test(config, source, task)
        data = build_data(config, source, task, splits, test_splits=splits)
        data.prepare_data()
    callbacks = [*test_callbacks(config, task, folder), StopOnSignal(signals_of(config.signals), last=None)]
    trainer = build_trainer(config, callbacks, folder, logger=False)
    model = load_model(checkpoint)
    build.check_image_size(config, model.config)
    trainer.test(EvaluationModule(model, task, generation), datamodule=data, verbose=False)
    report.print_scores(config, folder, task, source.baseline_files)


if __name__ == "__main__":
    evaluate()
