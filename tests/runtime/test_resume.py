"""A resumed run equals, bit for bit, one that was not interrupted."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from helpers.distillation import make_model, make_plan, save
from helpers.runs import ROOT, run
from helpers.trainers import make_trainer
from omegaconf import OmegaConf

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from data.batch import Sample
from data.module import OFADataModule
from data.teacher_answers import TeacherAnswers
from data.tsv import TSVSource
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from runtime.checkpoints import CheckpointFiles
from runtime.preemption import Preempted
from runtime.resume import ResumePoint, find_resume_point, truncate_csv_logs
from tracking.csv_logger import StepCSVLogger
from training.build import build_teacher
from training.distillation.cache import TeacherCache
from training.distillation.module import DistillationModule
from training.distillation.teacher import Teacher
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim
from training.trainer import training_callbacks, training_files

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed")

MICRO = OFAConfig.from_name("micro", dropout=0.2, init_std=0.1)
TEACHER = OFAConfig.from_name("micro", d_model=96, encoder_attention_heads=6, decoder_attention_heads=6)


@pytest.fixture(autouse=True)
def signal_handler():
    """Restores the handler after a test, as a stopped run does not."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def read(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)


def logged(folder, kind="train/loss", names=("step", "train/loss", "train/nll", "train/gradient_norm", "lr")):
    """What was logged in training, by step, or the `names` of rows of another kind."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [{name: row.get(name) for name in names} for row in rows if row[kind]]


def validated(folder):
    """After which step each validation was."""
    return logged(folder, "val/score", ["step"])


def learning_rates(folder):
    return logged(folder, "lr", ["lr"])


def assert_equal(first, second):
    """The whole state of training: weights, their average, optimizer, schedule, position, random states."""
    assert first.keys() == second.keys()
    for key in first.keys() - {"callbacks", "loops"}:
        assert same(first[key], second[key]), key
    loops = [checkpoint["loops"]["fit_loop"] for checkpoint in (first, second)]
    assert loops[0].keys() == loops[1].keys()
    for key in loops[0].keys() - {"epoch_loop.val_loop.batch_progress"}:  # of runs that validate at other times
        assert same(loops[0][key], loops[1][key]), key


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


class FallingScore:
    """Validates by a score that falls with each step, so that the first validation is the best."""

    def on_validation_epoch_start(self):
        pass

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log("val/score", -float(self.global_step))


class Scored(FallingScore, TrainingModule):
    pass


class ScoredStudent(FallingScore, DistillationModule):
    pass


def encode(row, rng, train):
    image = torch.from_numpy(rng.standard_normal((3, 32, 32), "float32"))
    return Sample(row.values["id"], [0, 11, int(row.values["id"]) + 20, 2], [8, 9, 2], image, truth=None)


def write_rows(path, rows=10):
    path.write_text("".join(f"{i}\n" for i in range(rows)))
    return path


def make_module(teacher, cache):
    """The trained module; with a teacher, a student of its cached logits."""
    parts = OFAModel(MICRO), SimpleNamespace(processor=SimpleNamespace(tree=None)), GenerationOptions()
    optim, freezing = Optim(lr=1e-3, warmup_steps=2), Freezing()
    if teacher is None:
        return Scored(*parts, LabelSmoothedCrossEntropy(0.1), optim, freezing)
    plan = make_plan(teacher, cache=str(cache), kd_schedule="growing")
    teacher = build_teacher(plan, TeacherCache(cache, 10, {}))
    return ScoredStudent(*parts, plan.criterion, optim, freezing, teacher=teacher)


def fit(
    file, folder, checkpoint=None, interrupt=None, workers=0, seed=1, teacher=None, cache=None, files=None,
    save_every=None, continues=None, more=(), **options,
):  # fmt: skip
    pl.seed_everything(seed, verbose=False)
    data = OFADataModule(
        TSVSource({"train": file, "val": file}, {"id": 0}), ["id"], encode, batch_size=2, eval_batch_size=5,
        num_workers=workers, train_views=None if cache is None else 1,
    )  # fmt: skip
    module = make_module(teacher, cache)
    config = OmegaConf.create({
        "pictures": 0, "ema": {"decay": 0.9}, "save_every": save_every, "log_every": 30.0, "signals": ["SIGUSR1"],
    })  # fmt: skip
    callbacks = training_callbacks(config, SimpleNamespace(monitor="score"), folder, files or {})
    trainer = make_trainer(
        folder, [*callbacks, *more], interrupt, max_epochs=3, logger=StepCSVLogger(folder, "", ""),
        gradient_clip_val=1.0, plugins=[CheckpointFiles()], **options,
    )  # fmt: skip
    if continues is not None:
        truncate_csv_logs(trainer.loggers, *continues)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.mark.parametrize(
    ("every", "accumulate", "interrupt", "saved", "workers", "save_every"),
    [
        (3, 1, 5, 3, 0, None),  # in the middle of an epoch
        (3, 1, 8, 6, 1, None),  # of the second, with a worker
        (5, 1, 7, 5, 0, None),  # at the end of an epoch
        (3, 2, 4, 3, 0, None),  # between the two batches of a step
        (4, 1, 8, 7, 0, 7),  # after a step without a validation, in the middle of an epoch
        (6, 2, 8, 7, 0, 4),  # after a step of two batches
        (3, 1, 6, 5, 0, 5),  # at the end of an epoch without a validation
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, every, accumulate, interrupt, saved, workers, save_every):
    file, options = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": every, "workers": workers}
    options |= {"save_every": save_every, "accumulate_grad_batches": accumulate}
    fit(file, tmp_path / "whole", **options)
    with pytest.raises(InterruptedError):
        fit(file, tmp_path / "first", interrupt=interrupt, **options)
    (process,) = read(tmp_path / "first")["processes"]
    assert bool(process["gradients"]) == (saved % 5 % accumulate > 0)
    first_best = read(tmp_path / "first", "best")
    trainer = fit(file, tmp_path / "second", tmp_path / "first/checkpoints/last.ckpt", seed=2, **options)

    assert_equal(read(tmp_path / "whole"), read(tmp_path / "second"))
    done = read(tmp_path / "first")["global_step"]
    whole, second = (logged(tmp_path / name) for name in ("whole", "second"))
    assert second == [row for row in whole if int(row["step"]) >= done]
    rates = learning_rates(tmp_path / "second")
    assert rates and rates == learning_rates(tmp_path / "whole")[-len(rates) :]
    assert trainer.checkpoint_callback.best_model_path == str((tmp_path / "second/checkpoints/best.ckpt").resolve())
    assert_equal(read(tmp_path / "second", "best"), first_best)


class Counted(pl.Callback):
    """Does something in one of the batches."""

    def __init__(self, batch, action):
        self.left, self.action = batch, action

    def count(self, *args):
        self.left -= 1
        if not self.left:
            self.action()


class SendSignal(Counted):
    on_train_batch_start = Counted.count


class SendSignalInValidation(Counted):
    on_validation_batch_start = Counted.count


class Change(Counted):
    on_train_batch_end = Counted.count


def send_signal():
    signal.raise_signal(signal.SIGUSR1)


@pytest.mark.parametrize(
    ("every", "accumulate", "batch", "step", "workers"),
    [
        (4, 1, 5, 5, 1),  # at the end of an epoch
        (3, 1, 6, 6, 0),  # where a validation is due
        (4, 2, 1, 1, 0),  # in the first of two batches of a step, before any validation
    ],
)
def test_a_run_that_a_signal_stops_resumes_after_the_same_step(tmp_path, every, accumulate, batch, step, workers):
    file = write_rows(tmp_path / "rows.tsv")
    options = {"val_check_interval": every, "accumulate_grad_batches": accumulate, "workers": workers}
    fit(file, tmp_path / "whole", **options)
    with pytest.raises(Preempted, match=f"SIGUSR1: stopped after step {step}; checkpoint: "):
        fit(file, tmp_path / "first", more=[SendSignal(batch, send_signal)], **options)
    assert read(tmp_path / "first")["global_step"] == step
    fit(file, tmp_path / "second", tmp_path / "first/checkpoints/last.ckpt", seed=2, **options)

    for name in ("last", "best"):
        assert_equal(read(tmp_path / "whole", name), read(tmp_path / "second", name))
    whole, first, second = (logged(tmp_path / name) for name in ("whole", "first", "second"))
    assert first + second == whole


def stop_in_validation(file, folder, batch, start=None, **options):
    """Sends a signal in a batch of the validations, of two batches each; the message of the stop.

    A sanity check comes first, except in a resumed run, where `start` is resume_in_place.
    """
    handler = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Preempted) as stop:
        (start or fit)(file, folder, more=[SendSignalInValidation(batch, send_signal)], **options)
    signal.signal(signal.SIGUSR1, handler)
    return str(stop.value)


@pytest.mark.parametrize("every", [None, 3])
def test_a_run_that_a_signal_stops_in_a_validation_resumes_with_it(tmp_path, whole, every):
    file, options = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": 3, "save_every": every}
    last = tmp_path / "first/checkpoints/last.ckpt"
    message = stop_in_validation(file, tmp_path / "first", 4, **options)
    assert message == f"SIGUSR1: stopped in the validation after step 3; checkpoint: {last}"
    trainer = fit(file, tmp_path / "second", last, seed=2, **options)
    assert trainer.checkpoint_callback.best_model_score == -3
    assert_equal(read(whole), read(tmp_path / "second"))
    assert same(read(whole, "best")["state_dict"], read(tmp_path / "second", "best")["state_dict"])
    assert logged(tmp_path / "second") == logged(whole)[3:]


@pytest.mark.parametrize("steps", [3, 5])  # in the middle and at the end of an epoch
def test_a_run_that_is_stopped_in_its_last_validation_resumes_with_it(tmp_path, steps):
    file, run = write_rows(tmp_path / "rows.tsv"), tmp_path / "run"
    options = {"val_check_interval": steps, "max_steps": steps}
    fit(file, tmp_path / "whole", **options)
    message = stop_in_validation(file, run, 3, **options)
    assert message.startswith(f"SIGUSR1: stopped in the validation after step {steps}; checkpoint: ")
    trainer = resume_in_place(file, run, **options)
    assert trainer.max_steps == steps
    for name in ("last", "best"):
        assert_equal(read(tmp_path / "whole", name), read(run, name))
    assert logged(run) == logged(tmp_path / "whole")
    assert validated(run) == validated(tmp_path / "whole")


def test_a_run_that_is_stopped_in_a_validation_reports_which_step_was_saved(tmp_path):
    file, run = write_rows(tmp_path / "rows.tsv"), tmp_path / "run"
    options = {"val_check_interval": 3, "accumulate_grad_batches": 2}  # between the two batches of a step
    message = stop_in_validation(file, run, 3, **options)
    assert message == "SIGUSR1: stopped in a validation; there is no checkpoint yet"
    message = stop_in_validation(file, run, 5, **options)
    last = run / "checkpoints/last.ckpt"
    assert message == f"SIGUSR1: stopped in the validation after step 3; checkpoint of step 1: {last}"
    assert read(run)["global_step"] == 1


def test_a_run_can_be_stopped_repeatedly_in_the_validation_at_the_end_of_an_epoch(tmp_path):
    file, options, run = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": 5}, tmp_path / "run"
    fit(file, tmp_path / "whole", **options)
    saved = f"checkpoint: {run / 'checkpoints/last.ckpt'}"
    message = stop_in_validation(file, run, 3, **options)
    assert message == f"SIGUSR1: stopped in the validation after step 5; {saved}"
    message = stop_in_validation(file, run, 2, resume_in_place, **options)
    assert message == f"SIGUSR1: stopped in the validation after step 5; {saved}"
    with pytest.raises(InterruptedError):
        resume_in_place(file, run, interrupt=2, **options)
    assert read(run)["global_step"] == 5 and read(run, "best")["global_step"] == 5
    message = stop_in_validation(file, run, 2, resume_in_place, **options)
    assert message == f"SIGUSR1: stopped in the validation after step 10; {saved}"
    trainer = resume_in_place(file, run, **options)
    assert trainer.checkpoint_callback.best_model_score == -5
    assert_equal(read(run), read(tmp_path / "whole"))
    assert logged(run) == logged(tmp_path / "whole")
    assert validated(run) == validated(tmp_path / "whole")


def resume_in_place(file, folder, **options):
    """Resumes a run in its folder, as train.py does."""
    last = folder / "checkpoints/last.ckpt"
    continues = (read(folder)["global_step"], read(folder)["validates_first"])
    return fit(file, folder, last, seed=2, continues=continues, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    fit(write_rows(folder / "rows.tsv"), folder, val_check_interval=3)
    return folder


def test_a_run_resumes_in_its_own_folder(tmp_path, whole):
    file, options = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": 3, "save_every": 2}
    for start, interrupt in ((fit, 5), (resume_in_place, 3)):
        with pytest.raises(InterruptedError):
            start(file, tmp_path / "run", interrupt=interrupt, **options)
    trainer = resume_in_place(file, tmp_path / "run", **options)
    assert_equal(read(tmp_path / "run"), read(whole))
    assert_equal(read(tmp_path / "run", "best"), read(whole, "best"))
    assert trainer.checkpoint_callback.best_model_score == -3
    assert logged(tmp_path / "run") == logged(whole)
    assert learning_rates(tmp_path / "run") == learning_rates(whole)


def test_a_lost_best_checkpoint_is_reported_and_replaced(tmp_path, caplog):
    file, options = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": 3}
    with pytest.raises(InterruptedError):
        fit(file, tmp_path / "run", interrupt=8, **options)
    best = tmp_path / "run/checkpoints/best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    trainer = resume_in_place(file, tmp_path / "run", **options)
    assert f"{best} is lost (File is not a zip file): the best checkpoint is chosen among future" in caplog.text
    assert trainer.checkpoint_callback.best_model_score == -9
    assert read(tmp_path / "run", "best")["global_step"] == 9


def test_a_data_file_that_is_deleted_in_mid_epoch_does_no_harm(tmp_path, whole):
    file, options = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": 3}
    fit(file, tmp_path / "run", more=[Change(7, file.unlink)], **options)
    assert_equal(read(tmp_path / "run"), read(whole))
    with pytest.raises(UserError, match="rows.tsv does not exist"):
        resume_in_place(file, tmp_path / "run", **options)


def test_a_data_file_that_is_truncated_in_mid_epoch_ends_the_run_after_its_last_step(tmp_path, whole):
    file, options = write_rows(tmp_path / "rows.tsv"), {"val_check_interval": 5, "workers": 1}
    content = file.read_bytes()
    with pytest.raises(UserError, match="was changed while it was read: it had 20 bytes and has 10; restore it"):
        fit(file, tmp_path / "run", more=[Change(6, lambda: os.truncate(file, 10))], **options)
    assert read(tmp_path / "run")["global_step"] > 5  # where the last validation was
    file.write_bytes(content)
    resume_in_place(file, tmp_path / "run", **options)
    assert_equal(read(tmp_path / "run"), read(whole))


def test_a_resumed_run_continues_its_half_filled_teacher_cache(tmp_path, monkeypatch):
    file, teacher = write_rows(tmp_path / "rows.tsv"), save(make_model(TEACHER, 1), tmp_path / "teacher")
    seen, call = [], Teacher.__call__
    monkeypatch.setattr(
        Teacher, "__call__", lambda self, batch, targets: (seen.extend(batch.ids), call(self, batch, targets))[1]
    )
    options = {"val_check_interval": 3, "teacher": teacher}
    fit(file, tmp_path / "whole", cache=tmp_path / "whole_cache", **options)
    assert len(seen) == len(set(seen)) == 10
    with pytest.raises(InterruptedError):
        fit(file, tmp_path / "first", cache=tmp_path / "cache", interrupt=4, **options)
    assert len(seen) == 18  # the batch after the checkpoint is cached as well
    last = tmp_path / "first/checkpoints/last.ckpt"
    fit(file, tmp_path / "second", last, cache=tmp_path / "cache", seed=2, **options)
    assert len(seen) == 20
    assert_equal(read(tmp_path / "whole"), read(tmp_path / "second"))
    assert logged(tmp_path / "second") == logged(tmp_path / "whole")[3:]


def test_a_run_resumes_only_with_files_of_the_same_content_and_number_of_rows(tmp_path):
    file, last = write_rows(tmp_path / "rows.tsv"), tmp_path / "first/checkpoints/last.ckpt"
    files = {"training file (data)": [file], "teacher (distill.teacher)": [tmp_path / "a", tmp_path / "b"]}
    for path in files["teacher (distill.teacher)"]:
        path.write_text("weights")
    options = {"val_check_interval": 3, "files": files}
    with pytest.raises(InterruptedError):
        fit(file, tmp_path / "first", interrupt=4, **options)
    (tmp_path / "b").write_text("Weights")
    with pytest.raises(UserError, match=r"the run of .*last.ckpt had another teacher \(distill.teacher\); give"):
        fit(file, tmp_path / "second", last, **options)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").write_text("weights")
    files["teacher (distill.teacher)"][0] = tmp_path / "c"
    fit(file, tmp_path / "second", last, **options)
    write_rows(file, rows=12)
    with pytest.raises(UserError, match="the run to resume had 10 training rows, and there are 12 now; resume it"):
        fit(file, tmp_path / "third", last, val_check_interval=3)


def test_a_run_resumes_only_with_all_files_it_is_trained_on(tmp_path):
    paths = {name: write_rows(tmp_path / name) for name in ("train", "val", "answers", "teacher")}
    data = OFADataModule(
        TSVSource({"train": paths["train"], "val": paths["val"]}, {"id": 0}), ["id"], encode,
        batch_size=2, eval_batch_size=5, teacher_answers=TeacherAnswers(paths["answers"], "id", {}),
    )  # fmt: skip
    files = training_files(data, SimpleNamespace(weight_files=[paths["teacher"]]))
    assert sorted(path.name for group in files.values() for path in group) == ["answers", "teacher", "train"]


@pytest.fixture
def interrupted(tmp_path):
    """The configuration and the folder of a run, whose last checkpoint contains only what is read of it here."""
    config = OmegaConf.create(
        {"resume": str(tmp_path / "run"), "seed": 1, "optim": {"lr": 0.1}, "ema": {"decay": None}, "distill": {},
         "data": {"root": "a", "num_workers": 0}, "logger": {"csv": {"x": 1}}}
    )  # fmt: skip
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    OmegaConf.save(OmegaConf.merge(config, {"resume": None}), tmp_path / "run/config.yaml")
    checkpoint = {"hyper_parameters": {"model": MICRO.to_dict()}, "global_step": 7}
    torch.save(checkpoint, tmp_path / "run/checkpoints/last.ckpt")
    return config, tmp_path / "run"


def test_the_place_of_files_and_the_logging_may_change(interrupted, tmp_path):
    config, folder = interrupted
    OmegaConf.update(config, "data", {"root": "b", "num_workers": 4})
    config.logger = {}
    found = find_resume_point(config, tmp_path)
    assert (found.run, found.checkpoint, found.step) == (folder, folder / "checkpoints/last.ckpt", 7)
    config.resume = None
    assert find_resume_point(config, tmp_path) is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", 2, "seed=2, but the run of .*run was started with seed=1; repeat its overrides"),
        ("optim.lr", 0.2, "optim.lr=0.2, but .* with optim.lr=0.1"),
        ("ema.decay", 0.9, "ema.decay=0.9, but .* with ema.decay=null"),
        ("distill", {"kd": "ce"}, "distill.kd=ce, but .* with distill.kd=null"),
    ],
)
def test_another_run_is_refused_by_its_first_different_setting(interrupted, tmp_path, key, value, message):
    config, _ = interrupted
    OmegaConf.update(config, key, value)
    with pytest.raises(UserError, match=message):
        find_resume_point(config, tmp_path)


def test_a_missing_or_damaged_run_is_refused_in_one_line(interrupted, tmp_path):
    config, folder = interrupted
    with pytest.raises(UserError, match="resume=.*run is hydra.run.dir, too"):
        find_resume_point(config, folder)
    message = "hydra.run.dir=.*run already contains the checkpoints of a run; resume it with"
    with pytest.raises(UserError, match=message):
        find_resume_point(OmegaConf.merge(config, {"resume": None}), folder)
    last = folder / "checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(UserError, match=r"last.ckpt is damaged \(.*\); start the run from scratch"):
        find_resume_point(config, tmp_path)
    last.unlink()
    with pytest.raises(UserError, match="there is no .*last.ckpt, which the first validation writes"):
        find_resume_point(config, tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="resume=True is neither the folder of a run nor auto"):
        find_resume_point(OmegaConf.create({"resume": True}), tmp_path / "new")
    with pytest.raises(UserError, match="resume=.*run is not the folder of a run"):
        find_resume_point(config, tmp_path)


def test_a_run_resumes_in_place_if_its_folder_contains_a_checkpoint(interrupted, tmp_path):
    config, folder = interrupted
    config.resume = "auto"
    found = find_resume_point(config, folder)
    assert found == ResumePoint(
        folder, folder / "checkpoints/last.ckpt", step=7, validates_first=False, in_place=True, is_tested=False
    )
    (folder / "metrics.json").write_text("{}")
    assert find_resume_point(config, folder).is_finished
    assert find_resume_point(config, tmp_path / "empty") is None
    config.seed = 2
    with pytest.raises(UserError, match="seed=2, but the run of .*run was started with seed=1"):
        find_resume_point(config, folder)


def test_the_checkpoint_before_replaces_a_damaged_last_one(interrupted, tmp_path, caplog):
    config, folder = interrupted
    last, previous = (folder / f"checkpoints/{name}.ckpt" for name in ("last", "last.previous"))
    shutil.copyfile(last, previous)
    last.write_bytes(last.read_bytes()[:-100])
    assert find_resume_point(config, tmp_path).checkpoint == previous
    assert f"{last} is damaged (" in caplog.text
    assert f"resuming from the checkpoint before it, {previous}" in caplog.text
    config.resume = "auto"
    assert find_resume_point(config, folder).checkpoint == previous
    assert not last.exists() and (folder / "checkpoints/last.damaged.ckpt").exists()
    assert find_resume_point(config, folder).checkpoint == previous
    previous.write_bytes(b"")
    message = r"last.previous.ckpt is damaged \(.*\); start the run from scratch in another folder"
    with pytest.raises(UserError, match=message):
        find_resume_point(config, folder)


SMALL_DEMO = ["model=micro", "data.rows.train=64", "data.rows.evaluation=10", "task.image_size=32",
              "data.batch_size=16", "data.scenes.grid=2", "model.dropout=0.2", "ema.decay=0.9", "trainer.max_steps=10",
              "validate_every=3", "trainer.log_every_n_steps=1", "distill=hidden", "distill.teacher=teacher",
              "distill.kd_schedule=growing", "distill.init_from_teacher=first"]  # fmt: skip


def test_a_killed_run_resumed_in_another_folder_equals_an_uninterrupted_one(tmp_path):
    torch.manual_seed(0)
    weights = {f"model.{name}": tensor for name, tensor in OFAModel(TEACHER).state_dict().items()}
    (tmp_path / "teacher/checkpoints").mkdir(parents=True)
    teacher = {"hyper_parameters": {"model": TEACHER.to_dict()}, "state_dict": weights}
    torch.save(teacher, tmp_path / "teacher/checkpoints/best.ckpt")
    run("train.py", *SMALL_DEMO, "hydra.run.dir=whole", folder=tmp_path)
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "OFA_CACHE": str(tmp_path / "cache")}  # the same as in `run`
    command = [sys.executable, ROOT / "train.py", *SMALL_DEMO, "hydra.run.dir=first"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while not (tmp_path / "first/checkpoints/last.ckpt").is_file() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()  # in training, when its first checkpoint is written
    assert read(tmp_path / "first")["global_step"] == 3
    process = run("train.py", *SMALL_DEMO, "resume=first", "hydra.run.dir=second", folder=tmp_path)
    assert "resuming after step 3 of first/checkpoints/last.ckpt" in process.stdout
    assert process.stdout.count("weights of teacher/checkpoints/best.ckpt") == 1  # the student does not start from it

    assert_equal(read(tmp_path / "whole"), read(tmp_path / "second"))
    assert {name.split(".")[0] for name in read(tmp_path / "second")["current_model_state"]} == {"model", "criterion"}
    best = [read(tmp_path / name, "best") for name in ("whole", "second")]  # loops differ, but none resumes from it
    assert all(same(best[0][key], best[1][key]) for key in best[0].keys() - {"callbacks", "loops"})
    assert logged(tmp_path / "second") == logged(tmp_path / "whole")[3:]
    for name in ("metrics.json", "predictions.jsonl"):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_runs_that_are_killed_repeatedly_equal_an_uninterrupted_one(tmp_path):
    process = run("run_scripts/kill_test.py", "--kills", "2", folder=tmp_path)
    assert process.stdout.startswith("2 kills: ")
    assert "all weights, states, scores and predictions equal" in process.stdout
