"""Train a model: `python train.py task=refcoco model=tiny`. See configs/train.yaml for what can be set."""

from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ofa.checkpoint import BEST, EXPORT, check_vocabulary, export, load_weights
from ofa.processors.saved import saved
from ofa.whole_file import write_whole
from training import build, report
from training.checkpoints import best_score
from training.checks import check
from training.command_line import command
from training.composed import make
from training.continued_logs import continue_tables
from training.data_files import build_data, splits_with_files
from training.evaluation import EvaluationModule
from training.launching import devices_of
from training.processes import first_of_machine_before_others, of_first, rank
from training.resume import CONFIG, find_interrupted
from training.sharding import whole_model
from training.trainer import build_loggers, build_trainer, learnt_files, training_callbacks, validation_settings


@command("train")
def train(config: DictConfig) -> float | None:
    """Trains, tests the best checkpoint on every split, and returns the best validation score (for sweeps)."""
    check(config)
    folder = of_first(Path(HydraConfig.get().runtime.output_dir))
    interrupted = of_first(find_interrupted(config, folder) if rank() == 0 else None)
    in_place = interrupted is not None and interrupted.run == folder
    if in_place and interrupted.is_tested:
        report.say_finished(folder)
        return best_score(folder / BEST) if (folder / BEST).is_file() else None
    loggers = build_loggers(config, interrupted)
    report.say_start(config, folder)
    pl.seed_everything(config.seed, workers=True, verbose=False)

    tokenizer = build.build_tokenizer(config, config.tokenizer)
    if config.init is not None:
        check_vocabulary(config.init, tokenizer)
    with first_of_machine_before_others(devices_of(config.trainer)):  # demo files and indexes are written once
        task = build.build_task(config, tokenizer)
        generation = build.generation_options(config, task)
        criterion = build.build_criterion(config, task)
        optim, freezing = make(config.optim), make(config.freezing)
        distillation = build.build_distillation(config, tokenizer, task, criterion)
        splits = dict.fromkeys(["train", "val", *splits_with_files(config, task)])
        data = build_data(config, task, list(splits))
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

    kept = saved(task, generation)
    module.save_hyperparameters({"task": asdict(kept)}, logger=False)  # in checkpoints, which can be asked by it
    if rank() == 0:
        tokenizer.save(folder / "tokenizer")
        write_whole(folder / CONFIG, lambda part: OmegaConf.save(config, part, resolve=True))
        if in_place:
            continue_tables(loggers, interrupted.step, interrupted.validates_first)
    report.say_model(model, trainer.strategy.root_device)
    report.say_batch(config)
    checkpoint = None if interrupted is None else interrupted.checkpoint
    # The loss of a batch: training/module.py, TrainingModule.loss.
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    best, model = trainer.checkpoint_callback.best_model_path, whole_model(module.model)
    if rank() == 0:  # whose disk it is on; the others are given the weights when the test starts
        if best:
            load_weights(model, best)
        export(folder / EXPORT, model, tokenizer, kept)
    trainer.test(EvaluationModule(model, task, generation), datamodule=data, verbose=False)
    report.say_scores(config, folder, task)
    report.say_next(config, folder, task)
    return float(trainer.checkpoint_callback.best_model_score) if best else None


if __name__ == "__main__":
    train()
