"""What a file holds is reported as training reads it."""

import base64
import io
import re

import numpy as np
import pytest
from helpers.datasets import write_karpathy, write_photos, write_snli_ve, write_vqa
from PIL import Image

from data.inspect.__main__ import main
from data.inspect.survey import ROTATED, guess_task
from data.inspect.survey import survey as survey_layout
from data.layout import layout_of
from data.prepare.__main__ import main as prepare


def survey(path, task, *rest):
    return survey_layout(path, task, layout_of(task), *rest)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A prepared folder with files of every task; own.tsv has six rows of boxes."""
    folder = tmp_path_factory.mktemp("prepared")
    common = ["--workers", "1", "--out"]
    assert prepare(["csv", str(write_photos(folder)), "--task", "refcoco", *common, str(folder / "own.tsv")]) == 0
    for name, write in (("caption", write_karpathy), ("snli_ve", write_snli_ve), ("vqa", write_vqa)):
        assert prepare([name, *write(folder / name if name == "vqa" else folder), *common, str(folder)]) == 0
    return folder


@pytest.fixture
def lines(files):
    return (files / "own.tsv").read_text().splitlines()


def write(tmp_path, lines):
    path = tmp_path / "own.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("own", "refcoco"),
        ("caption_val", "caption"),
        ("snli_ve_dev", "snli_ve"),
        ("vqa_train", "vqa"),
        ("vqa_test", "vqa"),
    ],
)
def test_the_task_is_known_by_the_first_rows(files, name, task):
    assert guess_task(files / f"{name}.tsv") == task


def test_broken_rows_in_front_do_not_make_a_file_one_of_another_task(files, lines, tmp_path, capsys):
    lines[0] = lines[0].replace("0.0,2.0,20.0,30.0", "17,1,x,15")
    lines[1] = lines[1].replace("1.0,2.0,21.0,30.0", "")
    lines[3] = "\t".join([*lines[3].split("\t")[:4], "AAAA"])
    assert main([str(write(tmp_path, lines))]) == 1
    shown = capsys.readouterr().out
    assert "read as refcoco" in shown and "broken rows: 3" in shown and "'17,1,x,15' is not four numbers" in shown


def test_a_file_of_boxes_that_are_all_broken_is_one_of_boxes(lines, tmp_path):
    broken = [re.sub(r"\t[\d.]+,2\.0,[\d.]+,30\.0\t", "\t1 2 21 30\t", line) for line in lines]
    assert guess_task(write(tmp_path, broken)) == "refcoco"


def test_captions_with_objects_are_captions(files, tmp_path):
    cells = (files / "caption_val.tsv").read_text().split("\t")
    assert guess_task(write(tmp_path, ["\t".join([*cells[:3], "2 dogs&&tree", cells[4].strip()])])) == "caption"


def test_a_label_that_is_none_is_a_broken_row_of_entailment(files, tmp_path):
    rows = (files / "snli_ve_dev.tsv").read_text().splitlines()
    path = write(tmp_path, [row.replace("entailment", "yes").replace("neutral", "no") for row in rows])
    assert guess_task(path) == "snli_ve"


def test_rows_are_counted_and_measured(files):
    found = survey(files / "own.tsv", "refcoco", range(6))
    assert (found.rows, found.read, found.problems) == (6, 6, [])
    assert found.measures["text, words"] == [4] * 6
    assert found.measures["image width, px"] == [60] * 6 and found.measures["image height, px"] == [40] * 6
    assert found.measures["box width, px"] == [20] * 6
    assert found.measures["box, % of the image"] == pytest.approx([100 * 20 * 28 / 2400] * 6)
    assert not found.notes


def test_labels_answers_captions_and_empty_columns_are_counted(files):
    assert survey(files / "snli_ve_dev.tsv", "snli_ve", range(2)).counts["label"] == {"entailment": 1, "neutral": 1}
    assert survey(files / "vqa_val.tsv", "vqa", range(3)).counts["most confident answer"] == {"yes": 2, "2": 1}
    assert survey(files / "caption_val.tsv", "caption", range(1)).measures["caption, words"] == [1, 1]
    notes = survey(files / "vqa_test.tsv", "vqa", range(3)).notes
    assert notes.total() == 6 and any(note.startswith("answers empty: training refuses") for note in notes)


def test_broken_rows_are_named_by_their_lines_and_by_the_exit_status(lines, tmp_path, capsys):
    lines[1] = "x\ty"
    lines[3] = "\t".join([*lines[3].split("\t")[:4], "AAAA"])
    lines[4] = lines[4].replace("4.0,2.0,24.0,30.0", "4.0,2.0,24.0,50.0")
    lines[5] = lines[0]
    assert main([str(write(tmp_path, lines))]) == 1
    shown = capsys.readouterr().out
    assert "broken rows: 2" in shown
    assert "the row has 2 columns, this format has 5" in shown and "not an image of a known format" in shown
    assert "box clipped to the image" in shown and "uniq_id that occurs twice" in shown


def test_a_good_file_ends_well_with_a_grid_of_images(files, tmp_path, capsys):
    assert main([str(files / "own.tsv"), "--grid", str(tmp_path / "grid.png")]) == 0
    assert "no broken rows" in capsys.readouterr().out
    grid = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    green = (grid == (0, 255, 0)).all(-1)
    assert green[: grid.shape[0] // 2, : grid.shape[1] // 3].any(), "the first tile has its box"
    assert green[grid.shape[0] // 2 :, -grid.shape[1] // 3 :].any(), "and so has the sixth"


@pytest.mark.parametrize(
    ("grid", "complaint"), [("nodir/grid.png", "nodir is not a folder"), ("grid.txt", "name it grid.png")]
)
def test_a_grid_that_cannot_be_written_is_refused_before_rows_are_read(files, tmp_path, capsys, grid, complaint):
    assert main([str(files / "own.tsv"), "--grid", str(tmp_path / grid)]) == 2
    shown = capsys.readouterr()
    assert complaint in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_a_limit_takes_the_first_rows_and_a_seed_any(files, capsys):
    assert main([str(files / "own.tsv"), "--limit", "2"]) == 0
    assert "2 rows were read" in capsys.readouterr().out
    seen = []
    survey(files / "own.tsv", "refcoco", [4, 2], lambda example: seen.append(example.row.number))
    assert seen == [5, 3]
    assert main([str(files / "own.tsv"), "--limit", "3", "--seed", "1"]) == 0


def test_photos_that_are_to_be_shown_turned_are_noted(lines, tmp_path):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(file, "JPEG", exif=exif)
    cells = lines[0].split("\t")
    path = write(tmp_path, ["\t".join([*cells[:4], base64.b64encode(file.getvalue()).decode()]), lines[1]])
    assert survey(path, "refcoco", range(2)).notes == {ROTATED: 1}


@pytest.mark.parametrize(
    ("content", "words", "complaint"),
    [
        (None, (), "does not exist"),
        ("a\tb\n", (), "fits one of caption, refcoco, snli_ve, vqa; give --task"),
        ("17,1,x,15\tb\tc\td\te\n", (), "fits one of caption, refcoco"),
        ("a\tb\n", ("--task", "vqa", "--grid", "grid.png"), "grid.png would be empty"),
    ],
)
def test_what_cannot_be_inspected_is_a_clear_error(tmp_path, capsys, content, words, complaint):
    path = tmp_path / "own.tsv"
    if content:
        path.write_text(content)
    assert main([str(path), *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
