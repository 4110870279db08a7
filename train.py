"""Train a model: `python train.py task=refcoco model=tiny`. See configs/train.yaml for all settings."""

from dataclasses import asdict

import pytorch_lightning as pl
from omegaconf import DictConfig

from ofa.processors.settings import to_task_settings
from runtime.checks import check
from runtime.collectives import local_rank_zero_first
from runtime.command_line import command
from runtime.launching import devices_of
from runtime.resume import find_resume_point
from runtime.run_dir import run_dir
from tracking import report
from training import build
from training.data_files import build_source, build_training_data
from training.distillation.plan import log_distillation
from training.evaluation import EvaluationModule
from training.trainer import (
    best_validation_score,
    build_callbacks,
    build_loggers,
    build_trainer,
    export_best,
    save_run_files,
    score_of_run,
    training_callbacks,
    training_files,
    validation_settings,
)


@command("train")
def train(config: DictConfig) -> float | None:
    """Trains, tests the best checkpoint on every split, and returns the best validation score (for sweeps)."""
    check(config)
    build.check_task(config)
    folder = run_dir()
    resume_point = find_resume_point(config, folder)
    if resume_point is not None and resume_point.is_finished:
        report.log_finished(folder)
        return score_of_run(folder)
    loggers, chosen_callbacks = build_loggers(config, resume_point), build_callbacks(config)
    report.log_start(config, folder)
    build.log_recipe(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    with local_rank_zero_first(devices_of(config.trainer)):  # demo files and indexes are written once
        source = build_source(config)
        tokenizer = build.build_tokenizer(config, source, config.tokenizer, config.init)
        task = build.build_task(config, source, tokenizer)
        generation = build.generation_options(config, task)
        objective = build.build_objective(config, tokenizer, task)
        data = build_training_data(config, source, task)
    cache = build.build_cache(config, data, tokenizer, objective.distillation)
    callbacks = training_callbacks(config, task, folder, training_files(data, objective.distillation), chosen_callbacks)
    intervals = validation_settings(config, batches=len(data.train_dataloader()))
    trainer = build_trainer(config, callbacks, folder, logger=loggers, **intervals)
    model = build.build_model(config, resume_point, objective.distillation)
    module = build.build_module(config, objective, data, model, task, generation, cache)
    if (settings := to_task_settings(task.processor, generation)) is not None:
        module.save_hyperparameters({"task": asdict(settings)}, logger=False)  # in checkpoints
    save_run_files(config, folder, tokenizer, loggers, resume_point)
    log_distillation(objective.distillation, cache)
    report.log_model(config, model, trainer.strategy.root_device)

    # The loss of a batch: training/module.py, TrainingModule.loss.
    trainer.fit(module, datamodule=data, ckpt_path=resume_point and resume_point.checkpoint, weights_only=True)
    best = export_best(trainer, module, folder, tokenizer)
    trainer.test(EvaluationModule(best, task, generation), datamodule=data, verbose=False)
    report.print_scores(config, folder, task, source.baseline_files)
    report.print_next_steps(config, folder, task)
    return best_validation_score(trainer)


if __name__ == "__main__":
    train()
