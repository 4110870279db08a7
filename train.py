"""Train a model: `python train.py task=refcoco model=tiny`. See configs/train.yaml for all settings."""

from dataclasses import asdict

import pytorch_lightning as pl
from omegaconf import DictConfig

from ofa.checkpoint import check_vocabulary
from ofa.processors.settings import to_task_settings
from runtime.checks import check
from runtime.collectives import local_rank_zero_first
from runtime.command_line import command
from runtime.configuration import instantiate
from runtime.launching import devices_of
from runtime.resume import find_resume_point
from runtime.run_dir import run_dir
from tracking import report
from training import build
from training.data_files import baseline_files, build_data, splits_with_files
from training.evaluation import EvaluationModule
from training.run import build_initial_model, export_best, report_parts, save_run_files, score_of_run
from training.trainer import (
    build_callbacks,
    build_loggers,
    build_trainer,
    training_callbacks,
    training_files,
    validation_settings,
)


@command("train")
def train(config: DictConfig) -> float | None:
    """Trains, tests the best checkpoint on every split, and returns the best validation score (for sweeps)."""
    check(config)
    folder = run_dir()
    resume_point = find_resume_point(config, folder)
    if resume_point is not None and resume_point.is_finished:
        report.log_finished(folder)
        return score_of_run(folder)
    loggers, chosen_callbacks = build_loggers(config, resume_point), build_callbacks(config)
    report.log_start(config, folder)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    tokenizer = build.build_tokenizer(config, config.tokenizer)
    if config.init is not None:
        check_vocabulary(config.init, tokenizer)
    with local_rank_zero_first(devices_of(config.trainer)):  # demo files and indexes are written once
        task = build.build_task(config, tokenizer)
        generation = build.generation_options(config, task)
        criterion = build.build_criterion(config, task)
        optim, freezing = instantiate(config.optim), instantiate(config.freezing)
        distillation = build.build_distillation(config, tokenizer, task, criterion)
        data = build_data(config, task, list(dict.fromkeys(["train", "val", *splits_with_files(config, task)])))
        data.prepare_data()
    cache = build.build_cache(config, data, tokenizer, task, distillation)
    callbacks = training_callbacks(config, task, folder, training_files(data, distillation), chosen_callbacks)
    intervals = validation_settings(config, batches=len(data.train_dataloader()))
    trainer = build_trainer(config, callbacks, folder, logger=loggers, **intervals)
    model = build_initial_model(config, resume_point, distillation)
    module = build.build_module(config, data, model, task, generation, criterion, optim, freezing, distillation, cache)
    module.save_hyperparameters({"task": asdict(to_task_settings(task, generation))}, logger=False)  # in checkpoints
    save_run_files(config, folder, tokenizer, loggers, resume_point)
    report_parts(config, model, trainer, distillation, cache)

    checkpoint = None if resume_point is None else resume_point.checkpoint
    # The loss of a batch: training/module.py, TrainingModule.loss.
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    best = export_best(trainer, module, folder, tokenizer)
    trainer.test(EvaluationModule(best, task, generation), datamodule=data, verbose=False)
    report.print_scores(config, folder, task, baseline_files(config))
    report.print_next_steps(config, folder, task)
    score = trainer.checkpoint_callback.best_model_score
    return None if score is None else float(score)


if __name__ == "__main__":
    train()
