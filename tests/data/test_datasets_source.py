"""`data=datasets`: rows of local files in every format, straight from the library `datasets`."""

import base64
import csv
import json
import pickle
import shutil

import datasets
import pytest
import torch
from helpers.datasets import write_jpeg
from helpers.runs import predictions_of, run

from data.cells import decode_image
from data.datasets_source import DatasetsSource
from data.source import RowError, RowFormat
from ofa.errors import UserError

COLUMNS = {"uniq_id": 0, "image_id": 1, "caption": 2, "image": 3}
CAPTION = RowFormat("caption", COLUMNS, 4, ("val", "test"), {})
MAP = {"image": "photo", "caption": "text"}
N = 10


@pytest.fixture(autouse=True)
def apart(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.getbasetemp() / "datasets"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))  # for the processes of a run
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of photos."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(N):
        write_jpeg(folder / f"photos/{i}.jpg", seed=i)
    return folder


def photo(root, i):
    return (root / f"photos/{i}.jpg").read_bytes()


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_parquet(root):
    rows = [{"photo": {"bytes": photo(root, i), "path": None}, "text": f"cup {i}"} for i in range(N)]
    features = datasets.Features({"photo": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(root / "photos.parquet")
    return "photos.parquet"


def write_json_lines(root):
    write_lines(root / "photos.jsonl", *({"photo": f"photos/{i}.jpg", "text": f"cup {i}"} for i in range(N)))
    return "photos.jsonl"


def write_csv(root):
    with (root / "photos.csv").open("w", newline="") as file:
        rows = [[base64.b64encode(photo(root, i)).decode(), f"cup {i}"] for i in range(N)]
        csv.writer(file).writerows([["photo", "text"], *rows])
    return "photos.c*"


def write_image_folder(root):
    write_lines(root / "photos/metadata.jsonl", *({"file_name": f"{i}.jpg", "text": f"cup {i}"} for i in range(N)))
    return "photos"


def write_saved(root):
    lines = [{"photo": photo(root, i), "text": f"cup {i}"} for i in range(N)]
    datasets.Dataset.from_list(lines).save_to_disk(root / "saved")
    return "saved"


def open_source(source, **options):
    return DatasetsSource(CAPTION, str(source), **{"split": {"train": "train[2:6]"}, "map": MAP, **options})


def rows_of(path, *lines, task=CAPTION, map=None):
    source = DatasetsSource(task, str(write_lines(path, *lines)), {"train": "train"}, map)
    return source.rows("train", task.columns)


@pytest.mark.parametrize("write", [write_parquet, write_json_lines, write_csv, write_image_folder, write_saved])
def test_every_format_gives_the_rows_of_a_slice_with_their_images(root, write):
    source = root / write(root)
    image = "image" if write is write_image_folder else "photo"
    rows = open_source(source, map=MAP | {"image": image}).rows("train", COLUMNS)
    assert len(rows) == 4
    row = pickle.loads(pickle.dumps(rows))[1]
    assert {name: row.values[name] for name in ("uniq_id", "image_id", "caption")} == {
        "uniq_id": "2", "image_id": "2", "caption": "cup 3",
    }  # fmt: skip
    assert decode_image(row.values["image"], row).size == (60, 40)
    assert str(row.error("it is odd")).startswith(f"row 2 of {source} (train[2:6]): it is odd; ")
    assert rows[-1].values["caption"] == "cup 5"
    with pytest.raises(IndexError):
        rows[4]


def test_a_table_of_any_length_travels_to_a_worker_by_its_path(root):
    rows = open_source(root / write_parquet(root), split={"train": "train"}).rows("train", COLUMNS)
    assert len(pickle.dumps(rows)) < 20_000 < (root / "photos.parquet").stat().st_size


def test_splits_are_those_of_the_source_where_none_are_chosen(root):
    write_parquet(root)
    datasets.DatasetDict(
        {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "validation", "other")}
    ).save_to_disk(root / "with_splits")
    source = DatasetsSource(CAPTION, str(root / "with_splits"), map={"image": None, "caption": "text"})
    assert source.splits == {"train": "train", "val": "validation"}
    assert source.rows("val", COLUMNS)[0].values["caption"] == "validation"
    per_split = DatasetsSource(CAPTION, {"val": str(root / "photos.parquet")}, map=MAP)
    assert list(per_split.splits) == ["val"] and len(per_split.rows("val", COLUMNS)) == N


@pytest.mark.parametrize(
    ("column", "value", "cell"),
    [
        ("caption", ["a cup", "one&&cup"], "a cup&&one&cup"),
        ("caption", None, ""),
        ("caption", 7, "7"),
        ("box", [1, 2, 30, 40.5], "1.0,2.0,30.0,40.5"),
        ("box", "1,2,30,40.5", "1,2,30,40.5"),
        ("answers", ["red", "red", "dark red"], "1.0|!+red&&1.0|!+dark red"),
        ("answers", "0.6|!+red", "0.6|!+red"),
        ("answers", "red", "1.0|!+red"),
        ("answers", {"red": 1.0, "dark red": 0.3}, "1.0|!+red&&0.3|!+dark red"),
        ("answers", [{"answer": "red", "answer_id": 1}], "1.0|!+red"),
    ],
)
def test_values_become_the_cells_of_the_published_format(tmp_path, column, value, cell):
    task = RowFormat("x", {column: 0}, 1, (), {})
    assert rows_of(tmp_path / "rows.jsonl", {column: value}, {column: value}, task=task)[1].values == {column: cell}


def test_labels_are_read_by_name_and_nested_columns_by_their_path(tmp_path):
    features = datasets.Features(
        {"label": datasets.ClassLabel(names=["no", "yes"]), "about": {"box": datasets.List(datasets.Value("int64"))}}
    )
    rows = [{"label": 1, "about": {"box": [1, 2, 3, 4]}}, {"label": -1, "about": {"box": None}}]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    task = RowFormat("x", {"label": 0, "box": 1}, 2, (), {})
    source = DatasetsSource(task, str(tmp_path / "rows.parquet"), {"train": "train"}, {"box": "about.box"})
    found = [row.values for row in source.rows("train", task.columns)]
    assert found == [{"label": "yes", "box": "1,2,3,4"}, {"label": "", "box": ""}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "none.jpg", "caption": ""}, "column 'image' .image. cannot be used: .*No such file.*none.jpg"),
        ({"image": "https://x.org/a.jpg", "caption": ""}, "is an address, not a file; download it first"),
        ({"image": 5, "caption": ""}, "column 'image' .image. cannot be used: it is of kind int, not an image"),
        ({"image": "a", "caption": {"x": [1]}}, "column 'caption' .caption. cannot be used: it is of kind dict, not"),
    ],
)
def test_a_value_that_cannot_be_used_names_source_row_and_column(tmp_path, line, message):
    rows = rows_of(tmp_path / "rows.jsonl", line)
    with pytest.raises(RowError, match=f"^row 1 of {tmp_path}/rows.jsonl .train.: .*{message}"):
        rows[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": {"imge": "photo"}}, "data.map: imge is not one of .*did you mean 'image'"),
        (
            {"map": {"image": "foto", "caption": "text"}},
            "data.map.image of .*: foto is not one of .*mean 'photo'",
        ),
        ({"map": {"image": "photo"}}, "has no column 'caption', which task=caption reads, .*data.map=.caption: COLUMN"),
        ({"split": {"trian": "train"}}, "data.split: trian is not one of train, val, test; did you mean 'train'"),
        ({"split": {"train": "tran"}}, 'data.split: .* cannot be read as tran: Unknown split "tran"'),
        ({"split": {"train": "train[10:]"}}, "data.split: .* cannot be read as train.10:.: it has no rows"),
        ({"source": "nowhere.parquet"}, "data.source=nowhere.parquet does not exist"),
        ({"source": "org/name"}, "data.source=org/name: the Hugging Face hub cannot be reached"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(root, options, message):
    settings = {"source": root / write_parquet(root), "split": {"train": "train"}, "map": MAP, **options}
    with pytest.raises(UserError, match=message) as error:
        open_source(**settings).rows("train", COLUMNS)
    assert "\n" not in str(error.value)


def test_broken_files_and_folders_without_data_are_refused_by_name(tmp_path):
    (tmp_path / "odd.txt").write_text("a")
    (tmp_path / "broken.parquet").write_text("a")
    for name, message in {"": "neither Parquet", "odd.txt": "one of the files", "broken.parquet": "cannot be"}.items():
        folder = tmp_path / "empty" if not name else tmp_path
        folder.mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"data.source={folder / name}.*{message}"):
            open_source(folder / name).rows("train", COLUMNS)


QUICK = [(write_json_lines, 1), (write_parquet, 2)]
SLOW = [(write_parquet, 1), (write_image_folder, 1), (write_image_folder, 2), (write_json_lines, 2)]


@pytest.mark.parametrize(("write", "processes"), [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)])
def test_a_source_trains_resumes_exactly_and_is_evaluated(root, vocabulary, tmp_path, write, processes):
    source = root / write(root)
    image = "image" if write is write_image_folder else "photo"
    data = ["task=caption", "data=datasets", f"data.source={source}", f"data.map={{image: {image}, caption: text}}",
            "data.split={train: 'train[:7]', val: 'train[7:]'}", f"tokenizer={vocabulary}", "task.image_size=32",
            f"data.num_workers={2 - processes}"]  # fmt: skip
    cpu = ["trainer.accelerator=cpu"]
    several = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else []
    words = [*data, *several, "model=micro", "model.dropout=0.2", "trainer.max_steps=3", "validate_every=2",
             "save_every=1", "data.batch_size=2", "trainer.accumulate_grad_batches=1", *cpu]  # fmt: skip
    run("train.py", *words, "hydra.run.dir=whole", folder=tmp_path)
    run("evaluate.py", *data, "checkpoint=whole", *cpu, "hydra.run.dir=scored", folder=tmp_path)
    found = predictions_of(tmp_path / "scored", "val")
    assert [answer["uniq_id"] for answer in found] == ["1", "2", "3"]
    tested = predictions_of(tmp_path / "whole", "val")
    assert [answer["caption"] for answer in found] == [answer["caption"] for answer in tested]

    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    (tmp_path / "stopped/checkpoints/last.ckpt").unlink()  # the checkpoint before it is left, after step 2
    run("train.py", *words, "resume=stopped", "hydra.run.dir=resumed", folder=tmp_path)
    last = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "resumed")]
    assert last[0]["global_step"] == last[1]["global_step"] == 3
    assert all(torch.equal(value, last[1]["state_dict"][name]) for name, value in last[0]["state_dict"].items())
    assert predictions_of(tmp_path / "resumed", "val") == tested


def test_a_source_depends_on_its_tables_and_on_the_names_and_sizes_of_images(root, tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {"photo": "a.jpg", "text": "a"})
    source = open_source(path, split={"train": "train"})
    source.prepare(["train"])
    assert source.depends_on("train") == [path]
    write_image_folder(root)
    folder = open_source(root / "photos")
    metadata, listing = folder.depends_on("train")
    assert metadata == root / "photos/metadata.jsonl"
    write_jpeg(root / "photos/0.jpg", size=(64, 64))
    assert open_source(root / "photos").depends_on("train")[1] != listing
