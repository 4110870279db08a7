"""A worker that hangs or dies is named by the row it was reading."""

import os
import signal
import time

import pytest

from data.batch import Sample
from data.module import OFADataModule
from data.source import RowError
from data.tsv import TSVSource

COLUMNS = {"id": 0, "what": 1}


def encode(row, rng, train):
    if row.values["what"] == "hang":
        time.sleep(1000)
    if row.values["what"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return Sample(row.values["id"], [0, 2], [5, 2], None, truth=None)


def module(path, what, line, **settings):
    path.write_text("".join(f"r{n}\t{what if n == line else 'read'}\n" for n in range(1, 13)))
    options = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 2, "worker_timeout": 1, **settings}
    return OFADataModule(TSVSource(dict.fromkeys(("train", "val", "test"), path), COLUMNS), COLUMNS, encode, **options)


@pytest.mark.parametrize("loader", [OFADataModule.train_dataloader, OFADataModule.val_dataloader])
def test_a_worker_that_hangs_is_named_by_file_and_line(tmp_path, loader):
    data = module(tmp_path / "rows.tsv", "hang", line=7)
    start = time.monotonic()
    with pytest.raises(RowError, match="line 7 of .*rows.tsv: .* no batch came for 1 s; .*raise data.worker_timeout"):
        list(loader(data))
    assert time.monotonic() - start < 30


def test_a_worker_that_is_killed_is_named_by_file_and_line(tmp_path):
    data = module(tmp_path / "rows.tsv", "die", line=4)
    with pytest.raises(RowError, match="line 4 of .*rows.tsv: the process that read it ended .*data.num_workers"):
        list(data.val_dataloader())


@pytest.mark.parametrize("settings", [{"num_workers": 0}, {"worker_timeout": 0}])
def test_without_workers_or_limit_nothing_is_late(tmp_path, settings):
    data = module(tmp_path / "rows.tsv", "read", line=1, **settings)
    assert [name for batch in data.val_dataloader() for name in batch.ids] == [f"r{n}" for n in range(1, 13)]


def test_another_error_of_a_worker_stays_what_it_is(tmp_path):
    data = module(tmp_path / "rows.tsv", "read", line=1)
    data.encode = fail
    with pytest.raises(ZeroDivisionError):
        list(data.val_dataloader())


def fail(row, rng, train):
    return 1 / 0
