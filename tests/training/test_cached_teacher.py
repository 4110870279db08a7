"""Training with a teacher cache equals training with the teacher."""

import copy
import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.distillation import SMALL_DEMO, STUDENT, make_model, make_plan, outputs, save
from helpers.runs import run

from data.batch import Sample, collate
from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree
from training.build import build_teacher
from training.distillation.cache import TeacherCache
from training.distillation.module import DistillationModule
from training.distillation.plan import DistillationPlan
from training.distillation.teacher import Teacher
from training.freezing import Freezing
from training.optim import Optim

VOCABULARY = STUDENT.vocab_size
TASK = SimpleNamespace(processor=SimpleNamespace(tree=None))
RANGE = {"constraint_range": [7, 16]}
ANSWERS = [[7], [8, 9], [8, 10]]
# Half precision rounds a log-probability by a share of 2 ** -11: probabilities err by 0.5 % where they are 4e-5.
HALF = dict(rtol=1e-3, atol=1e-3)


def make_module(teacher, cache=None, *, dropout=0.0, **settings):
    """A student whose teacher is live or, with a folder, cached; the plan's cache has room for eight samples."""
    folder = None if cache is None else str(cache)
    plan = make_plan(teacher, cache=folder, **settings)
    model = make_model(replace(STUDENT, dropout=dropout), 3)
    store = None if cache is None else TeacherCache(plan.cache.folder, 8, {})
    parts = (model, TASK, GenerationOptions(), plan.criterion, Optim(lr=1e-3), Freezing())
    module = DistillationModule(*parts, teacher=build_teacher(plan, store), allowed=plan.allowed).eval()
    module.total_steps = 10
    return module


@pytest.fixture
def samples():
    torch.manual_seed(4)
    return [
        Sample("a", [0, 11, 12, 2], [8, 9, 2], torch.randn(3, 32, 32), truth=None, prefix=[11, 12], key=0),
        Sample("b", [0, 13, 2], [7, 2], torch.randn(3, 32, 32), truth=None, prefix=[13], key=5),
        Sample("c", [0, 13, 14, 15, 2], [8, 10, 2], torch.randn(3, 32, 32), truth=None, key=7),
    ]


def losses(module, samples):
    """The distillation loss of each sample."""
    return [module.loss(collate([sample])).terms["kd"] for sample in samples]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": {"base": 2.0}},
        {"temperature": {"schedule": "flsw", "beta": 0.1}},  # 1 makes temperatures near 0, which magnify any rounding
        {"temperature": {"schedule": "cwsm", "beta": 0.01}},
        {"probability_shift": True},
        {"kd": "mse"},
    ],
)
@pytest.mark.parametrize("allowed", ["range", "tree", "whole"])
def test_cached_and_live_teacher_give_each_sample_the_same_loss(allowed, settings, teacher, samples, tmp_path):
    if allowed == "range":
        settings = {**settings, **RANGE}
    if allowed == "tree":
        settings = {**settings, "tree": PrefixTree(ANSWERS)}
    kept = {"cache_top_k": VOCABULARY} if allowed == "whole" else {}
    live = make_module(teacher, **settings)
    cached = make_module(teacher, tmp_path / "cache", **settings, **kept)
    expected = losses(live, samples)
    torch.testing.assert_close(losses(cached, samples), expected, **HALF)
    assert losses(cached, samples) == losses(cached, samples)
    together = live.loss(collate(samples)).terms["kd"]
    torch.testing.assert_close(cached.loss(collate(samples)).terms["kd"], together, **HALF)


def test_the_dropout_of_the_student_is_the_same_with_a_live_and_a_cached_teacher(teacher, samples, tmp_path):
    found, states = [], []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):  # the second one is full
        module = make_module(teacher, cache, dropout=0.3, **RANGE).train()
        found.append([module.loss(collate(samples)).sum for _ in range(2)])
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])
    live, filling, reading = found
    assert live[0] != live[1]
    assert filling == reading
    torch.testing.assert_close(filling, live, **HALF)


@pytest.mark.parametrize("kd", ["ce_with_mask", "mse"])
def test_the_mean_of_several_teachers_is_kept(kd, teacher, samples, tmp_path):
    teachers = [teacher, save(make_model(STUDENT, 2), tmp_path / "second")]
    live = make_module(teachers, kd=kd, **RANGE)
    cached = make_module(teachers, tmp_path / "cache", kd=kd, **RANGE)
    torch.testing.assert_close(losses(cached, samples), losses(live, samples), **HALF)


@pytest.mark.parametrize("top_k", [1, 64, 5000])
def test_with_the_best_ids_the_error_of_the_loss_is_bounded_by_the_rest(top_k, teacher, samples, tmp_path):
    """Spreading the others' probability r moves at most r between ids: an error of r times the range of -log s."""
    live, cached = make_module(teacher), make_module(teacher, tmp_path / "cache", cache_top_k=top_k)
    batch = collate(samples)
    tokens = batch.target != 1
    ours, theirs = (outputs(m, batch).logits[tokens].log_softmax(-1) for m in (live.model, live.teacher.models[0]))
    left = 1 - theirs.exp().topk(top_k).values.sum(-1)
    bound = (left * (ours.amax(-1) - ours.amin(-1))).mean()
    expected = live.loss(batch).terms["kd"]
    error = (cached.loss(batch).terms["kd"] - expected).abs()
    assert error <= bound + 1e-3 * expected
    size = 8 * (4 + 6 * top_k)
    assert (tmp_path / "cache/shard-00001.bin").stat().st_size == size


def test_a_sample_reads_the_same_in_every_batch_and_order(teacher, samples, tmp_path):
    a, b, c = samples
    module = make_module(teacher, tmp_path / "cache", **RANGE)

    def logits(*samples):
        batch = collate(samples)
        found = module.teacher(batch, module.allowed.targets(batch.target)).logits
        return found.split((batch.target != 1).sum(1).tolist())

    first = dict(zip("abc", logits(a, b, c), strict=True))
    for order in ("cab", "b", "ca"):
        for name, found in zip(order, logits(*({"a": a, "b": b, "c": c}[x] for x in order)), strict=True):
            assert torch.equal(found, first[name])


def test_a_half_filled_cache_is_continued_and_a_full_one_needs_no_teacher(teacher, samples, tmp_path, monkeypatch):
    calls, answer = [], Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda *given: (calls.append(given[1].ids), answer(*given))[1])
    a, b, c = samples
    first = make_module(teacher, tmp_path / "cache")
    assert first.teacher.teacher is None
    first.loss(collate([a, b]))
    assert calls == [["a", "b"]]
    second = make_module(teacher, tmp_path / "cache")
    second.loss(collate([b, a]))
    assert calls == [["a", "b"]] and second.teacher.teacher is None
    expected = second.loss(collate([b, c])).terms["kd"]
    second.loss(collate([c]))
    assert calls == [["a", "b"], ["b", "c"]]
    monkeypatch.setattr(DistillationPlan, "load_teacher", None)
    third = make_module(teacher, tmp_path / "cache")
    assert third.loss(collate([b, c])).terms["kd"] == expected
    assert copy.deepcopy(third).teacher is third.teacher


def test_when_the_cache_is_full_the_teacher_leaves_memory(teacher, samples, tmp_path):
    module = make_module(teacher, tmp_path / "cache")
    module.loss(collate(samples))
    assert module.teacher.teacher is not None
    rest = [replace(samples[0], id=str(key), key=key) for key in (1, 2, 3, 4, 6)]
    module.loss(collate(rest))
    assert module.teacher.teacher is None
    module.loss(collate(samples + rest))
    assert module.teacher.teacher is None


def test_a_student_may_start_from_a_teacher_whose_cache_is_full(teacher, samples, tmp_path):
    make_module(teacher, tmp_path / "cache").loss(collate(samples))
    plan, student = make_plan(teacher, cache=str(tmp_path / "cache"), init_from_teacher="first"), make_model(STUDENT, 3)
    plan.initialize(student)
    embeddings = plan.load_teacher().models[0].encoder.embed_tokens.weight[:, :64]
    assert torch.equal(student.encoder.embed_tokens.weight, embeddings)


@pytest.mark.parametrize(
    "change", [{"id": "z"}, {"source": [0, 11, 13, 2]}, {"target": [8, 9, 9, 2]}, {"prefix": [11, 13]}]
)
def test_a_changed_row_is_noticed(change, teacher, samples, tmp_path):
    module = make_module(teacher, tmp_path / "cache")
    module.loss(collate(samples))
    changed = Sample(**{**vars(samples[0]), **change})
    with pytest.raises(UserError, match=f"sample {changed.id} has other tokens than when distill.cache=.* was filled"):
        module.loss(collate([changed, samples[1]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_views": 0}, "distill.cache_views=0 is not a whole number of at least 1"),
        ({"cache_views": None}, "distill.cache_views=None is not a whole number"),
        ({"cache_top_k": 0}, "distill.cache_top_k=0 is not a whole number of at least 1"),
        (
            {"feature_losses": "first:attention_mse_sum:encoder"},
            "distill.cache=kept keeps only logits .*, and distill.feature_losses",
        ),
        ({"on_policy": {"weight": 2.0}}, "distill.cache=kept keeps .* and distill.on_policy.weight=2.0 needs"),
        ({"kd": "mse"}, "distill.kd=mse reads the logits of all 59457 ids, of which distill.cache_top_k=64 keeps"),
        ({"temperature": {"schedule": "flsw"}}, "distill.temperature.schedule=flsw reads the logits of all"),
    ],
)
def test_what_a_cache_cannot_give_is_refused_before_weights_are_read(settings, message, teacher, monkeypatch):
    monkeypatch.setattr("training.distillation.plan.load_model", None)
    with pytest.raises(UserError, match=message):
        make_plan(teacher, cache="kept", **settings)


def curve(folder):
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if k.startswith("train/") and v} for row in csv.DictReader(file)]


def test_a_run_on_a_cache_filled_ahead_equals_the_run_that_filled_one(tmp_path, teacher):
    steps = ["data.rows.train=16", "data.batch_size=8", "trainer.max_steps=5", "validate_every=5"]  # two an epoch
    words = [*SMALL_DEMO, "model.dropout=0.1", *steps]
    distill = ["distill=logits", f"distill.teacher={teacher}", "distill.cache_views=2"]
    run("train.py", *words, *distill, "distill.cache=first", "hydra.run.dir=filling", folder=tmp_path)
    process = run("-m", "training.fill_cache", *words, *distill, "distill.cache=ahead", folder=tmp_path)
    assert "32 of 32 samples" in process.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "first", "filling", "ahead"}
    assert (tmp_path / "ahead/index.bin").stat().st_size == 32 * 16
    process = run("train.py", *words, *distill, "distill.cache=ahead", "hydra.run.dir=reading", folder=tmp_path)
    assert "teacher cache ahead: 32 of 32 samples" in process.stdout and f"weights of {teacher}" not in process.stdout
    filling, reading = curve(tmp_path / "filling"), curve(tmp_path / "reading")
    assert sum(math.isfinite(row["train/kd"]) for row in filling if "train/kd" in row) == 5
    assert filling == [pytest.approx(row, rel=1e-3) for row in reading]  # the teacher saw other batches
