import multiprocessing
import operator
import os
import pickle
import tempfile
from pathlib import Path

import pytest

from data import tsv
from data.source import RowError, RowFormat
from data.tsv import TSVFile, TSVSource
from ofa.errors import UserError

COLUMNS = {"id": 0, "text": 2}


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def texts(file: TSVFile) -> list[str]:
    return [row.values["text"] for row in file]


def read_all(path: Path) -> list[str]:
    return texts(TSVFile(path, COLUMNS, 3))


@pytest.fixture
def three_rows(tmp_path):
    return write(tmp_path / "train.tsv", b"a\t0\tone\nb\t1\ttwo\nc\t2\t\xc3\xa4 three\n")


def test_rows_have_the_named_columns_and_know_their_line(three_rows):
    file = TSVFile(three_rows, COLUMNS, n_columns=3)
    assert len(file) == 3
    assert file[2].values == {"id": "c", "text": "ä three"}
    assert (file[2].source, file[2].number) == (three_rows, 3)
    assert file[-1] == file[2]
    with pytest.raises(IndexError):
        file[3]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n\n", b"\r\n\r\n"])
def test_the_end_of_the_file_does_not_matter(tmp_path, ending):
    path = write(tmp_path / "rows.tsv", b"a\t0\tone\r\nb\t1\t\nc\t2\tthree" + ending)
    assert read_all(path) == ["one", "", "three"]


def test_rows_longer_than_the_chunks_they_are_searched_in(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv, "CHUNK", 7)
    rows = [b"%d\t0\t%s" % (i, b"x" * (5 * i)) for i in range(20)]
    path = write(tmp_path / "rows.tsv", b"\n".join(rows) + b"\n" * 16)
    assert read_all(path) == ["x" * (5 * i) for i in range(20)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "is empty"), (b"\n\r\n\n", "blank lines only"), ("folder", "is not a file")],
    ids=["missing", "empty", "blank", "folder"],
)
def test_a_file_without_rows_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "train.tsv"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        TSVFile(path, COLUMNS)


def test_a_wrong_column_count_names_file_and_line(tmp_path):
    path = write(tmp_path / "train.tsv", b"a\t0\tone\nb\t1\n")
    with pytest.raises(RowError, match=f"line 2 of {path}: the row has 2 columns, this format has 3; correct"):
        TSVFile(path, COLUMNS, n_columns=3)[1]
    with pytest.raises(RowError, match=f"line 2 of {path}: columns names column 2 \\('text'.*but the row has 2; "):
        TSVFile(path, COLUMNS)[1]


def test_columns_outside_the_format_are_refused_at_once(three_rows):
    with pytest.raises(UserError, match="columns names column 7 \\('image'\\).* has columns 0 to 2; correct"):
        TSVFile(three_rows, {"image": 7}, n_columns=3)


def test_a_blank_line_in_the_middle_is_a_broken_row(tmp_path):
    file = TSVFile(write(tmp_path / "train.tsv", b"a\t0\tone\n\nb\t1\ttwo\n"), COLUMNS)
    assert file[2].number == 3
    with pytest.raises(RowError, match="line 2 of .*blank"):
        file[1]


def test_text_that_is_not_utf8_breaks_its_row_only_where_it_is_read(tmp_path):
    path = write(tmp_path / "train.tsv", b"a\t\xff\tone\nb\t1\ttw\xff\n")
    file = TSVFile(path, COLUMNS)
    assert file[0].values["text"] == "one"
    with pytest.raises(RowError, match="line 2 of .*column 2 \\('text'\\) is not UTF-8 at its byte 2"):
        file[1]


def test_a_row_error_survives_pickling():
    error = RowError(Path("train.tsv"), 17, "the row is odd")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.source, copy.number) == (str(error), error.source, 17)
    assert "\n" not in str(error)


def test_the_index_is_built_once(three_rows, monkeypatch):
    read_all(three_rows)
    monkeypatch.setattr(tsv, "_build_index", None)
    assert read_all(three_rows) == ["one", "two", "ä three"]


def test_the_index_is_rebuilt_when_the_file_changed(three_rows):
    read_all(three_rows)
    before = three_rows.stat()
    write(three_rows, three_rows.read_bytes().replace(b"\nb\t1\ttwo", b"\tb\t1\ntwo"))  # as long as before
    os.utime(three_rows, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(RowError):
        read_all(three_rows)
    write(three_rows, b"a\t0\tanother\n")
    assert read_all(three_rows) == ["another"]


@pytest.mark.parametrize("damage", [lambda b: b[:20], lambda b: b[:-8], lambda b: b"X" + b[1:]])
def test_a_damaged_index_is_rebuilt(three_rows, damage):
    read_all(three_rows)
    index = three_rows.with_name("train.tsv.index")
    index.write_bytes(damage(index.read_bytes()))
    assert read_all(three_rows) == ["one", "two", "ä three"]


def test_a_read_only_folder_gets_its_index_in_the_cache(three_rows, tmp_path, monkeypatch, caplog):
    create = tempfile.NamedTemporaryFile

    def refuse_the_data_folder(dir, **options):
        if dir == three_rows.parent:
            raise PermissionError(13, "read-only", str(dir))
        return create(dir=dir, **options)

    monkeypatch.setattr(tsv.tempfile, "NamedTemporaryFile", refuse_the_data_folder)
    monkeypatch.setenv("OFA_CACHE", str(tmp_path / "cache"))
    caplog.set_level("INFO")
    assert read_all(three_rows) == ["one", "two", "ä three"]
    assert not list(three_rows.parent.glob("*.index"))
    assert len(list((tmp_path / "cache" / "index").glob("train.tsv.*.index"))) == 1
    assert "read-only" in caplog.text and "cache" in caplog.text


def test_no_temporary_file_remains_when_building_fails(three_rows, monkeypatch):
    def fail(descriptor):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(tsv.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        read_all(three_rows)
    assert [path.name for path in three_rows.parent.iterdir()] == ["train.tsv"]


def test_processes_that_build_the_index_at_once_read_the_same_rows(tmp_path):
    path = write(tmp_path / "train.tsv", b"".join(b"%d\t0\ttext %d\n" % (i, i) for i in range(5000)))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(read_all, [path] * 8, chunksize=1)
    assert all(result == [f"text {i}" for i in range(5000)] for result in results)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["train.tsv", "train.tsv.index"]


def test_a_file_travels_to_a_fresh_process_without_its_maps(three_rows):
    file = TSVFile(three_rows, COLUMNS)
    row = file[1]
    assert len(pickle.dumps(file)) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(operator.getitem, (file, 1)) == row


FORMAT = RowFormat("shapes", COLUMNS, 3, ("val", "test"), {"val": "shapes_dev.tsv"})


def test_a_folder_has_the_published_files_and_a_choice_of_files_replaces_it(three_rows, tmp_path):
    source = TSVSource.from_config(FORMAT, str(tmp_path), None, None)
    names = [Path(source.name(split)).name for split in source.splits]
    assert names == ["shapes_train.tsv", "shapes_dev.tsv", "shapes_test.tsv"]
    chosen = TSVSource.from_config(FORMAT, None, {"train": str(three_rows)}, {"text": 0})
    assert list(chosen.splits) == ["train"] and texts(chosen.rows("train", ["text"])) == ["a", "b", "c"]
    with pytest.raises(UserError, match="data.columns has no number for id, which the task reads"):
        chosen.rows("train", ["id", "text"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((None, None, None), "data=tsv needs data.root=FOLDER"),
        (("nowhere", None, None), "data.root=nowhere is not a folder"),
        ((None, {"trian": "a.tsv"}, None), "data.files: trian is not one of train, val, test; did you mean 'train'"),
        ((None, {"train": "a.tsv"}, {"txt": 0}), "data.columns: txt is not one of id, text; did you mean 'text'"),
    ],
)
def test_settings_of_tsv_files_that_do_not_fit_are_one_sentence(settings, message):
    with pytest.raises(UserError, match=message):
        TSVSource.from_config(FORMAT, *settings)
