"""Train a model: `python train.py task=refcoco model=tiny`. See configs/train.yaml for what can be set."""

from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ofa.atomic_write import atomic_write
from ofa.checkpoint import BEST, EXPORT, check_vocabulary, export, load_weights
from ofa.processors.settings import to_task_settings
from runtime.checkpoints import best_score
from runtime.checks import check
from runtime.collectives import broadcast_object, local_rank_zero_first, rank
from runtime.command_line import command
from runtime.configuration import instantiate
from runtime.launching import devices_of
from runtime.resume import CONFIG, find_resume_point
from runtime.sharding import full_model
from runtime.truncate_logs import truncate_csv_logs
from tracking import report
from training import build
from training.data_files import build_data, build_source, evaluation_splits
from training.evaluation import EvaluationModule
from training.trainer import build_loggers, build_trainer, learnt_files, training_callbacks, validation_settings


@command("train")
def train(config: DictConfig) -> float | None:
    """Trains, tests the best checkpoint on every split, and returns the best validation score (for sweeps)."""
    check(config)
    folder = broadcast_object(Path(HydraConfig.get().runtime.output_dir))
    interrupted = broadcast_object(find_resume_point(config, folder) if rank() == 0 else None)
    in_place = interrupted is not None and interrupted.run == folder
    if in_place and interrupted.is_tested:
        report.say_finished(folder)
        return best_score(folder / BEST) if (folder / BEST).is_file() else None
    loggers = build_loggers(config, interrupted)
    report.say_start(config, folder)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    with local_rank_zero_first(devices_of(config.trainer)):  # demo files and indexes are written once
        source = build_source(config)
        tokenizer = build.build_tokenizer(config, source, config.tokenizer)
        if config.init is not None:
            check_vocabulary(config.init, tokenizer)
        task = build.build_task(config, source, tokenizer)
        generation = build.generation_options(config, task)
        criterion = build.build_criterion(config, task)
        optim, freezing = instantiate(config.optim), instantiate(config.freezing)
        distillation = build.build_distillation(config, tokenizer, task, criterion)
        splits = dict.fromkeys(["train", "val", *evaluation_splits(source, task)])
        data = build_data(config, source, task, list(splits))
        data.prepare_data()
    cache = build.build_cache(config, data, tokenizer, task, distillation)
    if distillation is not None:
        report.say_distillation(distillation, cache)
    trainer = build_trainer(
        config,
        training_callbacks(config, task, folder, learnt_files(data, distillation)),
        folder,
        logger=loggers,
        **validation_settings(config, batches=len(data.train_dataloader())),
    )
    model = build.build_model(config)
    if interrupted is None:  # else all weights are those of its checkpoint
        if config.init is not None:
            load_weights(model, config.init)
        if distillation is not None:
            distillation.start(model)
    module = build.build_module(config, data, model, task, generation, criterion, optim, freezing, distillation, cache)

    kept = to_task_settings(task, generation)
    module.save_hyperparameters({"task": asdict(kept)}, logger=False)  # in checkpoints, which can be asked by it
    if rank() == 0:
        tokenizer.save(folder / "tokenizer")
        atomic_write(folder / CONFIG, lambda part: OmegaConf.save(config, part, resolve=True))
        if in_place:
            truncate_csv_logs(loggers, interrupted.step, interrupted.validates_first)
    report.say_model(model, trainer.strategy.root_device)
    report.say_batch(config)
    checkpoint = None if interrupted is None else interrupted.checkpoint
    # The loss of a batch: training/module.py, TrainingModule.loss.
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    best, model = trainer.checkpoint_callback.best_model_path, full_model(module.model)
    if rank() == 0:  # whose disk it is on; the others are given the weights when the test starts
        if best:
            load_weights(model, best)
        export(folder / EXPORT, model, tokenizer, kept)
    trainer.test(EvaluationModule(model, task, generation), datamodule=data, verbose=False)
    report.say_scores(config, folder, task, source)
    report.say_next(config, folder, task)
    return float(trainer.checkpoint_callback.best_model_score) if best else None


if __name__ == "__main__":
    train()
