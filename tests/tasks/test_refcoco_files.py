"""Broken rows of a file, from the loader's worker to the one line that a user reads."""

import numpy as np
import pytest
from conftest import refcoco_line

from data.module import OFADataModule
from data.source import RowError
from data.tsv import TSVSource
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer
from tasks.refcoco import RefCOCO


def loader(path, **options):
    task = RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=32, max_image_size=32, max_words=3)
    files = {"train": path, "val": path}
    sizes = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 1}
    data = OFADataModule(TSVSource(files, task.columns, task.n_columns), task.columns, task.encode, **sizes, **options)
    return data.dataloader("val")


@pytest.fixture
def write(tmp_path):
    """Writes six sound rows, the fourth changed by a function of its cells, and returns the file's path."""

    def write(change):
        rng = np.random.default_rng(0)
        rows = [refcoco_line(rng, f"r{i}").split("\t") for i in range(6)]
        rows[3] = change(rows[3])
        path = tmp_path / "rows.tsv"
        path.write_text("\n".join("\t".join(row) for row in rows))
        return path

    return write


BROKEN = {
    "a column too few": (lambda c: c[:4], "the row has 4 columns, this format has 5"),
    "no base64": (lambda c: [*c[:4], "%%%%"], "base64"),
    "a truncated JPEG": (lambda c: [*c[:4], c[4][:400]], "does not decode"),
    "no image": (lambda c: [*c[:4], "aGVsbG8gd29ybGQh"], "image"),
    "a box of three numbers": (lambda c: [*c[:3], "1,2,3", c[4]], "1,2,3"),
    "a box of words": (lambda c: [*c[:3], "1,2,x,4", c[4]], "1,2,x,4"),
    "a box without area": (lambda c: [*c[:3], "9,2,9,4", c[4]], "area"),
    "a box outside the image": (lambda c: [*c[:3], "500,500,600,600", c[4]], "outside"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_one_line_with_file_and_line_or_is_skipped_and_noted(write, change, message):
    path = write(change)
    with pytest.raises(RowError, match=message) as error:
        list(loader(path))
    assert str(error.value).startswith("line 4 of ") and "rows.tsv" in str(error.value)
    assert "\n" not in str(error.value)
    batches = list(loader(path, on_error="skip"))
    assert [name for batch in batches for name in batch.ids] == ["r0", "r1", "r2", "r4", "r5"]
    notes = [note for batch in batches for note in batch.notes]
    assert len(notes) == 1 and notes[0].startswith("skipped line 4 of ")


def test_repairs_are_noted_and_the_row_is_kept(write):
    batches = list(loader(write(lambda c: [*c[:2], "one two three four", "5,5,5000,50", c[4]])))
    assert sorted(note for batch in batches for note in batch.notes) == [
        "box clipped to the image",
        "text cut to 3 words",
    ]


def test_a_misspelt_on_error_is_refused(write):
    with pytest.raises(UserError, match="data.on_error=skp is neither stop nor skip"):
        loader(write(lambda c: c), on_error="skp")
