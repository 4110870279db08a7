import os

import pytest

from data.batch import Sample
from data.dataset import MAX_SKIPPED, TaskDataset
from data.module import EvalLoader, OFADataModule
from data.sampling import ExactShardSampler
from data.source import RowError
from data.tsv import TSVFile, TSVSource
from ofa.errors import UserError

COLUMNS = {"id": 0, "number": 1}


def encode(row, rng, train):
    """The truth holds a random draw; a number that is none is a broken row."""
    if not row.values["number"].isdigit():
        raise row.error(f"{row.values['number']!r} is not a number")
    return Sample(row.values["id"], [0, 2], [int(row.values["number"]), 2], None, truth=float(rng.random()))


@pytest.fixture
def write(tmp_path):
    """Writes a file of numbers, where `broken` lists the lines (from 1) that hold none, and returns its path."""

    def write(rows: int, broken: tuple[int, ...] = (), name: str = "rows.tsv"):
        lines = [f"r{line}\t{'x' if line in broken else line}" for line in range(1, rows + 1)]
        (tmp_path / name).write_text("\n".join(lines))
        return tmp_path / name

    return write


def dataset(path, **options):
    return TaskDataset(TSVFile(path, COLUMNS, 2), encode, **options)


def module(path, **options):
    source = TSVSource({"train": path, "val": path}, COLUMNS, 2)
    return OFADataModule(source, COLUMNS, encode, **{"batch_size": 4, "eval_batch_size": 4, **options})


def ids(batches):
    return [name for batch in batches for name in batch.ids]


def notes(batches):
    return [note for batch in batches for note in batch.notes]


@pytest.mark.parametrize("train", [True, False])
def test_a_truncated_file_is_not_a_broken_row_to_skip(write, train):
    path = write(8)
    rows = dataset(path, train=train, on_error="skip")
    rows[7]
    os.truncate(path, 10)
    error = rows.collate(rows.__getitems__([0, 7]))
    assert not isinstance(error, RowError)
    with pytest.raises(UserError, match="was changed while it was read: it had 39 bytes and has 10; restore it"):
        raise error


def test_in_training_a_skipped_row_is_replaced_by_the_next_readable_one(write):
    rows = dataset(write(5, broken=(2, 3, 5)), train=True, on_error="skip")
    assert rows[1].id == "r4"
    assert [note.split(" of ")[0] for note in rows[1].notes] == ["skipped line 2", "skipped line 3"]
    assert rows[4].id == "r1"
    assert rows[0].notes == ()


@pytest.mark.parametrize("rows", [3, MAX_SKIPPED + 5])
def test_skipping_ends_where_nothing_is_readable(write, rows):
    with pytest.raises(RowError, match=f"the last of {min(rows, MAX_SKIPPED)} broken rows"):
        dataset(write(rows, broken=range(1, rows + 1)), train=True, on_error="skip")[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_evaluation_skipped_rows_are_left_out_and_counted(write, workers):
    data = module(write(11, broken=(2, 5, 6, 7, 8)), on_error="skip", num_workers=workers)
    batches = list(data.val_dataloader())
    assert ids(batches) == ["r1", "r3", "r4", "r9", "r10", "r11"]
    assert [note.split(" of ")[0] for note in notes(batches)] == [f"skipped line {n}" for n in (2, 5, 6, 7, 8)]
    assert all(len(batch) for batch in batches)


@pytest.mark.parametrize(("rows", "left"), [(6, ["r5", "r6"]), (4, [])], ids=["first batch", "all"])
def test_notes_of_batches_that_are_broken_altogether_are_kept(write, rows, left):
    (batch,) = module(write(rows, broken=(1, 2, 3, 4)), on_error="skip").val_dataloader()
    assert batch.ids == left
    assert [note.split(" of ")[0] for note in batch.notes] == [f"skipped line {n}" for n in range(1, 5)]


def test_a_process_without_rows_gets_one_empty_batch(write):
    rows = dataset(write(1), train=False)
    loader = EvalLoader(rows, sampler=ExactShardSampler(1, 4, rank=0, world=2), collate_fn=rows.collate)
    assert [len(batch) for batch in loader] == [0] and len(loader) == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_row_stops_by_default_also_in_a_worker(write, split, workers):
    path = write(8, broken=(7,))
    data = module(path, num_workers=workers)
    with pytest.raises(RowError, match=f"^line 7 of {path}: 'x' is not a number; correct or remove [^\n]*skip$"):
        list(data.train_dataloader() if split == "train" else data.val_dataloader())


def test_randomness_depends_on_seed_epoch_and_row_and_on_nothing_else(write):
    path = write(4)
    first, second = dataset(path, train=True, seed=1), dataset(path, train=True, seed=1)
    draws = [first[i].truth for i in range(4)]
    assert [second[i].truth for i in reversed(range(4))] == draws[::-1]
    assert len(set(draws)) == 4
    second.set_epoch(1)
    assert second[0].truth != draws[0]
    assert dataset(path, train=True, seed=2)[0].truth != draws[0]


def test_workers_that_outlive_an_epoch_see_the_next_one(write):
    def truths_by_epoch(workers):
        loader = module(write(8), num_workers=workers).train_dataloader()
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            yield {name: truth for batch in loader for name, truth in zip(batch.ids, batch.truths, strict=True)}

    epochs = list(truths_by_epoch(0))
    assert epochs == list(truths_by_epoch(2))
    assert len({epoch["r1"] for epoch in epochs}) == 3


def test_a_limit_uses_the_first_rows_only(write):
    assert sorted(ids(module(write(9), train_limit=3).train_dataloader())) == ["r1", "r2", "r3"]


def test_a_missing_file_is_noticed_before_anything_is_read(write, tmp_path):
    source = TSVSource({"train": write(3), "testA": tmp_path / "testA.tsv"}, COLUMNS)
    with pytest.raises(UserError, match="testA.tsv does not exist; set data.root"):
        source.prepare(["train", "testA"])


def test_every_split_but_train_is_tested(write):
    files = {name: write(n, name=name) for n, name in enumerate(("train", "val", "testA", "testB"), start=1)}
    data = OFADataModule(TSVSource(files, COLUMNS), COLUMNS, encode, batch_size=2, eval_batch_size=2)
    assert data.test_splits == ["val", "testA", "testB"]
    assert [len(ids(loader)) for loader in data.test_dataloader()] == [2, 3, 4]
    assert ids(data.dataloader("train")) == ["r1"]
    with pytest.raises(UserError, match="no split 'testC', only train, val, testA, testB; give its file in data.files"):
        data.dataloader("testC")


def test_epochs_cycle_through_the_views_of_each_row_in_an_order_of_their_own(write):
    loader = module(write(8), train_views=2).train_dataloader()
    epochs = []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        epochs.append({key: truth for batch in loader for key, truth in zip(batch.keys, batch.truths, strict=True)})
    first, second, third, fourth = epochs
    assert first == third and second == fourth
    assert sorted(first) == [*range(8)] and sorted(second) == [*range(8, 16)]
    assert not set(first.values()) & set(second.values())
    assert list(first) != list(third)
    assert module(write(8)).train_dataset().views is None


def test_views_are_the_same_for_every_seed_and_the_order_is_not(write):
    loaders = (module(write(8), train_views=2, seed=seed).train_dataloader() for seed in (1, 2))
    first, second = ([pair for b in batches for pair in zip(b.keys, b.truths, strict=True)] for batches in loaders)
    assert first != second and sorted(first) == sorted(second)


def test_a_key_is_that_of_the_row_really_read(write):
    rows = dataset(write(5, broken=(2, 3, 5)), train=True, on_error="skip", views=3, limit=5)
    rows.set_epoch(4)
    assert [rows[i].key for i in range(5)] == [5, 8, 8, 8, 5]
    assert rows[1].truth == rows[3].truth


def test_chosen_rows_are_augmented_as_in_training(write):
    data = module(write(6), train_views=2)
    (batch,) = data.view_dataloader(1, [5, 2])
    rows = data.train_dataset()
    rows.set_epoch(3)
    assert batch.keys == [11, 8] and batch.truths == [rows[5].truth, rows[2].truth]
