"""A conversion can be killed, shared among processes and given bad rows; its file is the same."""

import json
import resource
from itertools import islice

import pytest
from helpers.datasets import write_photos

from data.prepare import writer
from data.prepare.__main__ import main

RESULT = ("boxes.tsv", "boxes.rejected.jsonl")


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(writer, "CHUNK", 3)
    monkeypatch.setattr(writer, "SECONDS", 0.0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A CSV of 20 photos of which two do not decode, and the files made of it by one process in one go."""
    folder = tmp_path_factory.mktemp("photos")
    path = write_photos(folder, rows=20, broken=(4, 13))
    assert convert(path, folder / "whole") == 0
    return path, folder / "whole"


def convert(path, out, *more, workers=1):
    words = ["csv", str(path), "--task", "refcoco", "--out", str(out / "boxes.tsv"), "--workers", str(workers)]
    return main([*words, *more])


def assert_same(out, whole):
    assert all((out / name).read_bytes() == (whole / name).read_bytes() for name in RESULT)
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def convert_until(monkeypatch, count, path, out):
    """A conversion that is interrupted by Ctrl-C after `count` samples of the source."""
    original = writer._in_chunks

    def interrupted(samples):
        yield from original(islice(samples, count))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_in_chunks", interrupted)
        return convert(path, out)


def test_two_processes_make_the_file_of_one(photos, tmp_path):
    path, whole = photos
    assert convert(path, tmp_path, workers=2) == 0
    assert_same(tmp_path, whole)


def test_an_interrupted_conversion_resumes_to_the_same_file(photos, tmp_path, monkeypatch, capsys):
    path, whole = photos
    for count in (0, 7, 6):
        assert convert_until(monkeypatch, count, path, tmp_path) == 130
        assert "the same command resumes" in capsys.readouterr().err
        assert not (tmp_path / "boxes.tsv").exists()
    journal = json.loads((tmp_path / "boxes.tsv.journal").read_text())
    assert journal["progress"]["samples"] == 13  # none was read twice
    assert convert(path, tmp_path, workers=2) == 0
    assert_same(tmp_path, whole)


def test_what_was_written_after_the_last_journal_entry_is_made_again(photos, tmp_path, monkeypatch):
    path, whole = photos
    convert_until(monkeypatch, 7, path, tmp_path)
    for name in ("boxes.tsv.part", "boxes.rejected.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"half a ro")
    assert convert(path, tmp_path) == 0
    assert_same(tmp_path, whole)


def test_a_complete_file_is_left_as_it_is(photos, tmp_path, capsys):
    path, whole = photos
    assert convert(path, tmp_path) == 0
    before = (tmp_path / "boxes.tsv").stat().st_mtime_ns
    said = capsys.readouterr().out
    assert convert(path, tmp_path) == 0
    assert (tmp_path / "boxes.tsv").stat().st_mtime_ns == before
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("is_finished", [False, True])
def test_other_arguments_are_refused_with_the_remedy(photos, tmp_path, monkeypatch, capsys, is_finished):
    path, _ = photos
    if is_finished:
        convert(path, tmp_path)
    else:
        convert_until(monkeypatch, 7, path, tmp_path)
    capsys.readouterr()
    assert convert(path, tmp_path, "--max-side", "32") == 2
    error = capsys.readouterr().err
    assert "was started with max_side None, not 32" in error and "delete boxes.tsv" in error


def test_a_source_that_changed_is_refused(tmp_path, monkeypatch, capsys):
    path = write_photos(tmp_path)
    convert_until(monkeypatch, 3, path, tmp_path)
    path.write_text(path.read_text() + "photos/0.jpg,new,1,1,9,9\n")
    assert convert(path, tmp_path) == 2
    assert f"{path} is not, or no longer, what" in capsys.readouterr().err


def test_a_file_from_elsewhere_is_not_overwritten(photos, tmp_path, capsys):
    (tmp_path / "boxes.tsv").write_text("precious\n")
    assert convert(photos[0], tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "boxes.tsv").read_text() == "precious\n"


def test_bad_rows_are_named_counted_and_left_out(photos, tmp_path, capsys):
    path, _ = photos
    assert convert(path, tmp_path) == 0
    lines = [json.loads(line) for line in (tmp_path / "boxes.rejected.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == ["line 6 of photos.csv", "line 15 of photos.csv"]
    assert "the image cannot be used: it does not decode" in lines[0]["reason"] and "photos/4.jpg" in lines[0]["reason"]
    said = capsys.readouterr().out
    assert "18 rows" in said and "2 of 20 samples are left out" in said and "line 6 of photos.csv" in said


def test_on_error_stop_ends_at_the_first_and_skip_resumes_there(photos, tmp_path, capsys):
    path, whole = photos
    assert convert(path, tmp_path, "--on-error", "stop") == 2
    assert "error: line 6 of photos.csv: the image cannot be used: it does not decode" in capsys.readouterr().err
    assert not (tmp_path / "boxes.tsv").exists()
    assert convert(path, tmp_path) == 0
    assert_same(tmp_path, whole)


def test_a_conversion_without_any_row_is_an_error_and_leaves_the_way_free(tmp_path, capsys):
    path = write_photos(tmp_path, rows=2, broken=(0, 1))
    assert convert(path, tmp_path) == 2
    assert "would have no row; 2 of 2 samples are left out" in capsys.readouterr().err
    write_photos(tmp_path, rows=2)
    assert convert(path, tmp_path, "--max-side", "30") == 0


def test_a_full_disk_is_a_clear_error_and_the_next_start_resumes(photos, tmp_path, capsys):
    path, whole = photos
    size = (whole / "boxes.tsv").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        assert convert(path, tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "boxes.tsv cannot be written" in error and "the same command resumes after sample" in error
    assert error.count("\n") == 1
    assert json.loads((tmp_path / "boxes.tsv.journal").read_text())["progress"]["samples"] > 0
    assert convert(path, tmp_path) == 0
    assert_same(tmp_path, whole)


def test_a_shortened_part_is_refused(photos, tmp_path, monkeypatch, capsys):
    convert_until(monkeypatch, 7, photos[0], tmp_path)
    (tmp_path / "boxes.tsv.part").write_bytes(b"")
    assert convert(photos[0], tmp_path) == 2
    assert "is shorter than" in capsys.readouterr().err


def test_a_file_that_was_deleted_is_written_again_whatever_the_arguments(photos, tmp_path):
    path, whole = photos
    assert convert(path, tmp_path, "--max-side", "32") == 0
    (tmp_path / "boxes.tsv").unlink()
    assert convert(path, tmp_path) == 0
    assert_same(tmp_path, whole)


def test_workers_that_die_are_one_sentence(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writer, "_make_lines", _die)
    assert convert(photos[0], tmp_path, workers=2) == 2
    assert "a worker process ended" in capsys.readouterr().err


def _die(samples, layout, tsv, bounds):
    import os

    os._exit(1)
