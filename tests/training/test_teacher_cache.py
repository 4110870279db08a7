"""The files of a teacher cache: what they survive, and what is refused."""

import json
import resource
from types import SimpleNamespace

import pytest
from helpers.distillation import STUDENT, make_model, make_plan, save

from data.batch import Sample
from data.module import OFADataModule
from data.teacher_answers import TeacherAnswers
from data.tsv import TSVSource
from ofa.errors import UserError
from ofa.generation import PrefixTree
from ofa.tokenizer import Tokenizer
from training.distillation import cache as teacher_cache
from training.distillation.cache import TeacherCache


@pytest.fixture
def open_cache(tmp_path):
    """Opens the cache as another process would."""
    return lambda **more: TeacherCache(tmp_path / "cache", **{"n_keys": 8, "fingerprint": {"seed": 1}, **more})


def found(cache, *keys):
    return [cache.read(key) for key in keys]


def test_records_are_found_by_their_key_by_whoever_opens_the_cache(open_cache, tmp_path):
    cache = open_cache()
    cache.write([5, 0], [50, 2**32 - 1], [b"five", b""])
    cache.write([3], [30], [b"three"])
    for reader in (cache, open_cache()):
        assert found(reader, 0, 3, 5) == [b"", b"three", b"five"]
        assert reader.has([0, 1, 3]).tolist() == [True, False, True]
        assert reader.checks([5, 0]).tolist() == [50, 2**32 - 1]
        assert (len(reader), reader.n_keys) == (3, 8)
    assert cache.n_bytes == sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.bin"))


def test_shards_stay_below_their_size(open_cache, tmp_path):
    cache = open_cache(shard_bytes=10)
    for key in range(6):
        cache.write([key], [0], [bytes([key]) * 4])
    sizes = [file.stat().st_size for file in sorted((tmp_path / "cache").glob("shard-*.bin"))]
    assert sizes == [8, 8, 8]
    assert found(open_cache(), *range(6)) == [bytes([key]) * 4 for key in range(6)]


def test_two_writers_fill_one_cache(open_cache):
    first, second = open_cache(), open_cache()
    for key in range(0, 8, 2):
        first.write([key], [key], [b"even"])
        second.write([key + 1, key], [key + 1, key], [b"odd", b"even"])  # a row that both were given
    for cache in (first, second, open_cache()):
        assert found(cache, *range(8)) == [b"even", b"odd"] * 4


def test_a_cache_grows_with_its_keys_and_serves_a_part_of_them(open_cache, tmp_path):
    open_cache().write([1, 7], [0, 0], [b"one", b"seven"])
    grown = open_cache(n_keys=24)
    assert (len(grown), grown.n_keys) == (2, 24)
    grown.write([23], [0], [b"last"])
    assert found(open_cache(n_keys=24), 1, 7, 23) == [b"one", b"seven", b"last"]
    part = open_cache(n_keys=4)
    assert (len(part), part.n_keys, found(part, 1)) == (1, 4, [b"one"])
    assert (tmp_path / "cache/index.bin").stat().st_size == 24 * 16


def test_an_index_that_cannot_grow_stays_as_it_was(open_cache, tmp_path):
    open_cache()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(UserError, match="distill.cache=.*cache cannot be written \\(File too large\\)"):
            open_cache(n_keys=24)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "cache/index.bin").stat().st_size == 8 * 16


def test_a_writer_killed_between_values_and_index_leaves_a_usable_cache(open_cache, monkeypatch, tmp_path):
    cache = open_cache()
    cache.write([1], [0], [b"one"])
    monkeypatch.setattr(teacher_cache.os, "fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cache.write([2], [0], [b"two"])
    monkeypatch.undo()
    assert (tmp_path / "cache/shard-00001.bin").read_bytes() == b"onetwo"
    after = open_cache()
    assert after.has([1, 2]).tolist() == [True, False]
    after.write([2], [0], [b"TWO"])
    assert found(after, 1, 2) == [b"one", b"TWO"]


def test_a_cache_of_something_else_is_refused_by_what_differs(open_cache):
    open_cache(fingerprint={"seed (seed)": 1, "teacher": ["a", "b"], "task": {"size": 3}})
    open_cache(fingerprint={"seed (seed)": 1, "teacher": ("a", "b"), "task": {"size": 3}})
    with pytest.raises(
        UserError, match=r"was filled with another seed \(seed\), another task; give another folder, or"
    ):
        open_cache(fingerprint={"seed (seed)": 2, "teacher": ["a", "b"], "task": {"size": 4}})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "cache.json").write_text("{"), "cache.json cannot be read"),
        (lambda folder: (folder / "cache.json").write_text("[]"), "cache.json cannot be read"),
        (lambda folder: (folder / "cache.json").write_text(json.dumps({"format": 0, "fingerprint": {}})), "format 0"),
        (lambda folder: (folder / "index.bin").unlink(), "index.bin has 0 bytes"),
        (lambda folder: (folder / "index.bin").write_bytes(b"0" * 100), "index.bin has 100 bytes, not 16 for each key"),
        (lambda folder: (folder / "shard-00001.bin").unlink(), "shard-00001.bin cannot be read"),
        (lambda folder: (folder / "shard-00001.bin").write_bytes(b"o"), "shard-00001.bin is truncated"),
        (lambda folder: (folder / "shard-00001.bin").write_bytes(b""), "shard-00001.bin is truncated"),
    ],
)
def test_damage_is_noticed(damage, message, open_cache, tmp_path):
    open_cache().write([1], [0], [b"one"])
    damage(tmp_path / "cache")
    with pytest.raises(UserError, match=f"{message}.*; give another folder, or delete this one"):
        open_cache().read(1)


def test_a_folder_with_other_files_is_refused_and_not_changed(open_cache, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="contains files that are not a cache; give a new or empty folder"):
        open_cache()
    (tmp_path / "cache/thesis.tex").unlink()
    open_cache()
    assert {file.name for file in tmp_path.iterdir()} == {"cache"}


def test_an_empty_folder_is_filled_and_not_replaced_by_another(open_cache, tmp_path):
    """It may be mounted, or its parent be closed to the user."""
    (tmp_path / "cache").mkdir()
    before = (tmp_path / "cache").stat()
    open_cache().write([1], [0], [b"one"])
    after = (tmp_path / "cache").stat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)
    assert {file.name for file in (tmp_path / "cache").iterdir()} == {"cache.json", "index.bin", "shard-00001.bin"}


def test_what_a_killed_process_has_begun_is_finished_by_the_next(open_cache, tmp_path):
    (tmp_path / "cache/unfinished.x").mkdir(parents=True)
    (tmp_path / "cache/index.bin").write_bytes(bytes(16))
    open_cache().write([7], [0], [b"seven"])
    assert found(open_cache(), 7) == [b"seven"]


def test_of_two_processes_that_make_a_cache_at_once_the_first_one_stays(open_cache, tmp_path):
    first = open_cache()
    first.write([1], [0], [b"one"])
    teacher_cache._create(tmp_path / "cache", 8, {"seed": 2})
    assert found(open_cache(), 1) == [b"one"]


def test_a_folder_that_cannot_be_created_is_a_clear_error(open_cache, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="distill.cache=.*file/cache cannot be created"):
        TeacherCache(tmp_path / "file/cache", 8, {})


def encode(row, rng, train):
    return Sample(row.values["id"], [0, 2], [7, 2], None, truth=None)


@pytest.fixture
def world(tmp_path):
    """Everything that a fingerprint is taken of, to be changed."""
    (tmp_path / "train.tsv").write_text("a\nb\n")
    return SimpleNamespace(
        teacher=save(make_model(STUDENT, 1), tmp_path / "teacher"),
        settings={"cache": str(tmp_path / "cache")},
        seed=1,
        task={"name": "refcoco", "image_size": 32},
        tree=None,
        tokenizer=Tokenizer.demo(),
        file=tmp_path / "train.tsv",
        predictions=None,
    )


def parts(world):
    plan = make_plan(world.teacher, tree=world.tree, **world.settings)
    answers = None if world.predictions is None else TeacherAnswers(world.predictions, "id", {})
    data = OFADataModule(
        TSVSource({"train": world.file}, {"id": 0}), ["id"], encode, batch_size=1, eval_batch_size=1, seed=world.seed,
        teacher_answers=answers,
    )  # fmt: skip
    return plan.fingerprint(data, world.task, world.tokenizer)


CHANGES = {
    "distill.teacher": lambda world, tmp_path: setattr(world, "teacher", save(make_model(STUDENT, 2), tmp_path / "b")),
    "data": lambda world, tmp_path: world.file.write_text("a\nc\n"),
    "distill.predictions": lambda world, tmp_path: setattr(world, "predictions", world.file),
    "task": lambda world, tmp_path: setattr(world, "task", {"image_size": 64}),
    "tokenizer": lambda world, tmp_path: setattr(world, "tokenizer", SimpleNamespace(digest=lambda: "other")),
    "criterion.constraint_range": lambda world, tmp_path: setattr(world, "tree", PrefixTree([[7]])),
    "distill.cache_top_k": lambda world, tmp_path: world.settings.update(cache_top_k=2),
    "distill.teacher_precision": lambda world, tmp_path: world.settings.update(teacher_precision="bf16-true"),
    "distill.teacher_image_size": lambda world, tmp_path: world.settings.update(teacher_image_size=64),
    "distill.kd": lambda world, tmp_path: world.settings.update(kd="mse", cache_top_k=STUDENT.vocab_size),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_the_teacher_depends_on_is_in_the_fingerprint(name, world, tmp_path):
    if name == "distill.kd":
        world.teacher = [world.teacher, world.teacher]
        world.settings["cache_top_k"] = STUDENT.vocab_size
    before = parts(world)
    assert parts(world) == before == json.loads(json.dumps(before))
    CHANGES[name](world, tmp_path)
    after = parts(world)
    changed = [part for part in before if before[part] != after[part]]
    assert any(f"({name}" in part for part in changed)
    assert len(changed) == (2 if world.tree else 1)  # with a tree no top k is kept


def test_the_same_weights_and_rows_elsewhere_another_seed_and_more_views_are_the_same(world, tmp_path):
    before = parts(world)
    world.teacher = save(make_model(STUDENT, 1), tmp_path / "copy")
    world.file = world.file.rename(tmp_path / "moved.tsv")
    world.settings.update(kd_weight=2.0, cache_views=2)
    world.seed = 2
    assert parts(world) == before
