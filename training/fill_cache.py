"""Fill the teacher cache before training: `python -m training.fill_cache` with the overrides of train.py."""

from pathlib import Path

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ofa.errors import UserError
from runtime.checks import check
from runtime.collectives import barrier, local_rank_zero_first, rank, world_size
from runtime.command_line import command
from runtime.launching import devices_of
from runtime.progress import progress
from training import build
from training.data_files import build_data, build_source
from training.distillation.plan import log_cache, log_distillation
from training.trainer import build_trainer


@command("fill_cache")
def fill_cache(config: DictConfig) -> None:
    """Runs the teacher on every view of every training row that is not in the cache yet, sharded over processes."""
    check(config)
    if OmegaConf.select(config, "distill.cache") is None:
        raise UserError("there is no cache to fill: set distill=logits distill.teacher=RUN distill.cache=FOLDER")
    with local_rank_zero_first(devices_of(config.trainer)):  # demo files and the index are written once
        source = build_source(config)
        tokenizer = build.build_tokenizer(config, source, config.tokenizer)
        task = build.build_task(config, source, tokenizer)
        distillation = build.build_objective(config, tokenizer, task).distillation
        data = build_data(config, source, task, ["train"])
        data.prepare_data()
    cache = build.build_cache(config, data, tokenizer, distillation)
    log_distillation(distillation, cache)

    folder = Path(HydraConfig.get().runtime.output_dir)
    device = build_trainer(config, [], folder, logger=False).strategy.root_device
    teacher = build.build_teacher(distillation, cache)
    teacher.to(device)
    rows, n_rows = np.arange(rank(), len(data.train_dataset()), world_size()), len(data.rows("train"))
    missing = [rows[~cache.has(view * n_rows + rows)].tolist() for view in range(distillation.cache.views)]
    with progress("filling the teacher cache", sum(map(len, missing)), "samples") as advance:
        for view, left in enumerate(missing):
            for batch in data.view_dataloader(view, left) if left else ():
                batch = batch.to(device)
                teacher(batch, distillation.allowed.targets(batch.target))
                advance(len(batch))
    barrier()
    log_cache(cache, distillation.cache.views)


if __name__ == "__main__":
    fill_cache()
