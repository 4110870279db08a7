import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from data.batch import Sample
from data.module import OFADataModule
from data.sampling import ExactShardSampler, ShuffleSampler
from data.tsv import TSVSource
from ofa.errors import UserError


def encode(row, rng, train):
    return Sample(row.values["id"], [0, 2], [4, 2], None, truth=None)


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("".join(f"{i}\n" for i in range(23)))
    return {"train": path, "val": path}


class Recorder(pl.LightningModule):
    """Trains one number and keeps the ids of every training batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(batch.ids)
        return self.weight**2

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(files, folder, checkpoint=None, workers=0, **options):
    """The batches of training, by their ids; a checkpoint after every step is left in `folder`."""
    data = OFADataModule(
        TSVSource(files, {"id": 0}), ["id"], encode, batch_size=5, eval_batch_size=8, num_workers=workers, seed=3
    )
    every_step = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=[every_step],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **options,
    )
    recorder = Recorder()
    trainer.fit(recorder, data, ckpt_path=checkpoint)
    return recorder.seen


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 3, 10, 23])
def test_evaluation_gives_every_row_to_exactly_one_process(n, world):
    shards = [list(ExactShardSampler(n, 4, rank, world)) for rank in range(world)]
    assert sum(shards, []) == list(range(n))
    sizes = [len(ExactShardSampler(n, 4, rank, world)) for rank in range(world)]
    assert sizes == list(map(len, shards)) and max(sizes) - min(sizes) <= 4
    assert all(shard[0] % 4 == 0 for shard in shards if shard)  # batches have the rows they have in one process


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 3, 10, 23])
def test_training_gives_every_row_and_equally_many_to_each_process(n, world):
    shards = [list(ShuffleSampler(n, 0, rank, world)) for rank in range(world)]
    assert {row for shard in shards for row in shard} == set(range(n))
    assert {len(shard) for shard in shards} == {len(ShuffleSampler(n, 0, 0, world))}
    assert sum(map(len, shards)) - n < world


def test_processes_share_the_order_that_one_process_would_follow():
    whole = list(ShuffleSampler(20, seed=7))
    first, second = (list(ShuffleSampler(20, seed=7, rank=rank, world=2)) for rank in range(2))
    assert [row for pair in zip(first, second, strict=True) for row in pair] == whole


def test_the_order_depends_on_seed_and_epoch():
    sampler = ShuffleSampler(20, seed=7)
    first = list(sampler)
    assert list(sampler) == first == list(ShuffleSampler(20, seed=7))
    assert list(ShuffleSampler(20, seed=8)) != first
    sampler.set_epoch(1)
    assert list(sampler) != first and sorted(sampler) == sorted(first)


def test_a_position_leaves_out_what_was_seen_until_the_next_epoch():
    whole, sampler = ShuffleSampler(20, 7, rank=1, world=2), ShuffleSampler(20, 7, rank=1, world=2)
    sampler.position = 8
    sampler.set_epoch(0)
    assert list(sampler) == list(whole)[4:] and len(sampler) == 10
    sampler.set_epoch(1)
    assert len(list(sampler)) == 10


def test_the_order_does_not_depend_on_the_number_of_workers(files, tmp_path):
    runs = [fit(files, tmp_path / str(workers), workers=workers, max_epochs=2) for workers in (0, 1, 2)]
    assert runs[0] == runs[1] == runs[2]
    first_epoch, second_epoch = sum(runs[0][:5], []), sum(runs[0][5:], [])
    assert sorted(first_epoch) == sorted(second_epoch) and first_epoch != second_epoch


@pytest.mark.filterwarnings("ignore:(The dirpath|Checkpoint directory)")  # the resumed run has its own checkpoints
@pytest.mark.parametrize(("step", "workers"), [(1, 0), (3, 2), (5, 0), (8, 2)])
@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_steps": 15, "max_epochs": -1}], ids=["epochs", "steps"])
def test_a_resumed_run_sees_the_batches_it_would_have_seen(files, tmp_path, step, workers, length):
    whole = fit(files, tmp_path, val_check_interval=2, **length)
    resumed = fit(files, tmp_path / "resumed", tmp_path / f"step={step}.ckpt", workers, val_check_interval=2, **length)
    assert resumed == whole[step:]


def test_overfitting_by_lightning_is_refused_with_the_remedy(files, tmp_path):
    with pytest.raises(UserError, match="set data.train_limit instead"):
        fit(files, tmp_path, overfit_batches=1, max_epochs=1)
