"""What loggers get, from the first step to the last, and across a resumed run."""

import csv
import json
import logging
import re
import subprocess
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from helpers import wandb_files
from helpers.runs import ROOT
from helpers.trainers import make_trainer
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from wandb.errors import CommError

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from data.batch import Sample
from data.module import OFADataModule
from data.tsv import TSVSource
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from runtime.lightning_internals import StepProgressBar
from runtime.resume import ResumePoint, find_resume_point, truncate_csv_logs
from tracking.csv_logger import StepCSVLogger
from tracking.progress import ProgressLines, build_progress
from tracking.sample_predictions import PredictionBatch, SamplePrediction
from tracking.tracking import git_state, provenance
from tracking.wandb_logger import Wandb
from training.freezing import Freezing
from training.module import TrainingModule
from training.optim import Optim
from training.trainer import build_loggers, training_callbacks

MICRO = OFAConfig.from_name("micro")


@dataclass(frozen=True)
class Said:
    answer: str
    box: tuple[float, ...]


class Answering(TrainingModule):
    """Predicts the same for every sample; the score is the number of steps, or its entry in `scores`."""

    scores = {}

    def on_validation_epoch_start(self):
        pass

    def validation_step(self, batch, batch_idx):
        predictions = [SamplePrediction(name, Said("yes", (0.0, 1.0)), None) for name in batch.ids]
        return PredictionBatch("val", batch, predictions)

    def on_validation_epoch_end(self):
        self.log("val/acc@0.5", float(self.scores.get(self.global_step, self.global_step)))


def encode(row, rng, train):
    image = torch.from_numpy(rng.standard_normal((3, 32, 32), "float32"))
    return Sample(row.values["id"], [0, 11, 2], [8, 9, 2], image, truth=None)


def fit(folder, *loggers, checkpoint=None, interrupt=None):
    """Six steps of two samples each, a validation of three batches after every second step, and three images of it."""
    folder.mkdir(exist_ok=True)
    file = folder.parent / "rows.tsv"
    if not file.exists():
        file.write_text("".join(f"{i}\n" for i in range(12)))
    pl.seed_everything(1, verbose=False)
    data = OFADataModule(
        TSVSource({"train": file, "val": file}, {"id": 0}), ["id"], encode, batch_size=2, eval_batch_size=4
    )
    red = Image.new("RGB", (32, 40), "red")
    task = SimpleNamespace(processor=SimpleNamespace(tree=None), monitor="acc@0.5", draw=lambda *answer: red)
    module = Answering(
        OFAModel(MICRO), task, GenerationOptions(), LabelSmoothedCrossEntropy(0.1), Optim(lr=1e-3), Freezing()
    )
    settings = {"pictures": 3, "log_every": 15.0, "ema": {"decay": None}, "save_every": None, "signals": []}
    config = OmegaConf.create({**settings, "optim": {"lr": 1e-3}})
    trainer = make_trainer(
        folder, training_callbacks(config, task, folder, {}), interrupt, max_epochs=1, logger=list(loggers),
        val_check_interval=2,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def make_wandb(folder, interrupted=None, mode="offline"):
    return Wandb(str(folder), mode, project="ofa", entity=None, name="a run", group=None, interrupted=interrupted)


@pytest.fixture(scope="module")
def make_mlflow(tmp_path_factory):
    """Makes loggers of one database, which takes seconds to be there."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from tracking.mlflow_logger import MLflow

    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder}/mlflow.db"
    mlflow.MlflowClient(address).create_experiment("ofa", artifact_location=str(folder / "artifacts"))
    return lambda folder, interrupted=None: MLflow(str(folder), address, "ofa", "a run", interrupted)


TRAINING = {
    "train/loss", "train/gradient_norm", "lr", "speed/samples_per_second", "memory/resident_peak_gib",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_wandb_offline_has_every_kind_of_value_and_a_resumed_run_continues_it(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(InterruptedError):
        fit(first, make_wandb(first), interrupt=5)
    logger = make_wandb(second, interrupted=str(first))
    fit(second, logger, checkpoint=first / "checkpoints/last.ckpt")
    logger.experiment.finish()
    for folder in (first, second):
        wandb_files.wait_for_end(folder)

    assert wandb_files.run_record(first).run_id == wandb_files.run_record(second).run_id
    rows = wandb_files.history(first), wandb_files.history(second)
    assert [row["_step"] for row in rows[0]] == [0, 1, 2, 3, 4]  # the last is after the checkpoint of step 4
    assert [row["_step"] for row in rows[1]] == [4, 5, 6]  # of six steps, and of the end
    assert not {*TRAINING, "train/nll"} & rows[0][4].keys() & rows[1][0].keys()  # each value of that row once
    for row in (*rows[0][:4], rows[0][4] | rows[1][0], rows[1][1]):
        assert TRAINING <= row.keys(), row
    validated = [row for row in (*rows[0], *rows[1]) if "val/acc@0.5" in row]
    assert [row["val/acc@0.5"] for row in validated] == [2, 4, 6]
    for row, folder in zip(validated, (first, first, second), strict=True):
        assert row["predictions/val/nrows"] == 3
        files = list((folder / "wandb").glob(f"offline-run-*/files/{row['answers/val/filenames'][0]}"))
        assert row["answers/val/count"] == 3 and Image.open(files[0]).size == (32, 40)
        assert row["answers/val/captions"] == ["0", "1", "2"]
    assert rows[1][-1]["best/val/acc@0.5"] == 6
    assert wandb_files.configuration(second)["optim"] == {"lr": 1e-3}
    assert wandb_files.configuration(second)["provenance"]["versions"]["torch"] == torch.__version__


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_continues_its_run_of_mlflow_without_a_repeated_step(tmp_path, make_mlflow):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(InterruptedError):
        fit(first, make_mlflow(first), interrupt=5)
    second.mkdir()
    logger = make_mlflow(second, interrupted=str(first))
    assert logger.experiment.get_run(logger.run_id).info.status == "RUNNING"
    fit(second, logger, checkpoint=first / "checkpoints/last.ckpt")

    assert (first / "mlflow.json").read_text() == (second / "mlflow.json").read_text()
    history = {
        name: [value.step for value in logger.experiment.get_metric_history(logger.run_id, name)]
        for name in (*TRAINING, "val/acc0.5", "best/val/acc0.5")
    }
    assert history == {
        **dict.fromkeys(TRAINING, list(range(6))), "val/acc0.5": [1, 3, 5], "best/val/acc0.5": [6],
    }  # fmt: skip
    run = logger.experiment.get_run(logger.run_id)
    assert run.info.status == "FINISHED" and run.data.params["optim/lr"] == "0.001"
    (first / "mlflow.json").write_text('{"id": "abc"}')
    with pytest.raises(UserError, match=r"tracking_uri=sqlite:.* \(.*abc.*\); .* has the run abc, which is resumed"):
        make_mlflow(second, interrupted=str(first)).log_metrics({"lr": 1.0}, 0)


def test_offline_the_last_row_of_a_run_interrupted_in_its_test_gets_the_scores(tmp_path):
    first = make_wandb(tmp_path)
    first.log_metrics({"lr": 1.0}, 5)
    first.log_metrics({"best/val/score": 0.5}, 6)
    first.finalize("failed")
    wandb_files.wait_for_end(tmp_path)
    (tmp_path / "wandb").rename(tmp_path / "before")
    second = make_wandb(tmp_path, interrupted=str(tmp_path))
    for name, step in (("lr", 5), ("best/val/score", 6), ("test/score", 6)):
        second.log_metrics({name: 0.5}, step)
    second.experiment.finish()
    wandb_files.wait_for_end(tmp_path)
    (row,) = wandb_files.history(tmp_path)
    assert (row["_step"], row["test/score"]) == (6, 0.5) and not {"lr", "best/val/score"} & row.keys()


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The configuration of a run whose folder has the files of its loggers, and which may resume from them."""
    (tmp_path / "wandb.json").write_text('{"id": "a1b2c3d4", "step": 7}')
    overrides = ["logger=[csv,tensorboard,wandb]", "logger.wandb.mode=offline", "resume=auto"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*overrides, f"+hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", config)
    before = SummaryWriter(tmp_path / "tensorboard")
    for step in range(10):
        before.add_scalar("lr", 0.1, step)
    before.close()
    return config


def steps_of_tensorboard(logger):
    logger.log_metrics({"loss": 1.0}, 8)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    return [event.step for name in events.Tags()["scalars"] for event in events.Scalars(name) if name == "lr"]


def test_the_configured_loggers_of_a_resumed_run_continue(found, tmp_path):
    interrupted = ResumePoint(
        tmp_path, tmp_path / "last.ckpt", step=8, validates_first=False, in_place=True, is_tested=False
    )
    files, tensorboard, wandb = build_loggers(found, interrupted)
    assert isinstance(files, StepCSVLogger) and (wandb.version, wandb.last_step) == ("a1b2c3d4", 7)
    assert steps_of_tensorboard(tensorboard) == list(range(8))


def test_the_loggers_of_a_run_without_a_checkpoint_start_from_scratch_as_training_does(found, tmp_path):
    _, tensorboard, wandb = build_loggers(found, find_resume_point(found, tmp_path))
    assert wandb.version != "a1b2c3d4" and wandb.last_step == -1
    assert steps_of_tensorboard(tensorboard) == []


def test_csv_tensorboard_and_mlflow_have_the_same_values(tmp_path, make_mlflow):
    folder = tmp_path / "run"
    tensorboard, mlflow = TensorBoardLogger(folder, "tensorboard", "", default_hp_metric=False), make_mlflow(folder)
    fit(folder, StepCSVLogger(folder, "", ""), tensorboard, mlflow)
    expected = {*TRAINING, "val/acc@0.5", "best/val/acc@0.5"}

    assert expected <= set().union(*read_csv(folder))
    assert OmegaConf.load(folder / "hparams.yaml").provenance.versions.torch == torch.__version__
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert expected <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("answers/val")] == [1, 3, 5]
    for name, content in {"configuration": b"transformers:", "predictions/val": b"uniq_id | answer | box"}.items():
        assert content in events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0]
    run = mlflow.experiment.get_run(mlflow.run_id)
    assert {name.replace("@", "") for name in expected} <= run.data.metrics.keys()
    assert run.data.params["optim/lr"] == "0.001"
    for kind, end in {"answers": "png", "predictions": "json"}.items():
        files = mlflow.experiment.list_artifacts(mlflow.run_id, kind)
        assert [file.path for file in files] == [f"{kind}/val_{step}.{end}" for step in (1, 3, 5)]


@pytest.fixture
def clock(monkeypatch):
    """A step takes ten seconds, and so does a batch of a validation."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    for module in ("tracking.progress", "runtime.progress"):
        monkeypatch.setattr(f"{module}.time", clock)
    for hook in ("on_train_batch_start", "on_validation_batch_start"):
        monkeypatch.setattr(Answering, hook, lambda *args: setattr(clock, "now", clock.now + 10), raising=False)


def test_progress_is_logged_at_intervals_and_metrics_csv_has_one_row_per_step(tmp_path, monkeypatch, clock, caplog):
    monkeypatch.setattr(Answering, "scores", {4: 1})
    folder = tmp_path / "run"
    with caplog.at_level(logging.INFO, "tracking.progress"):
        fit(folder, StepCSVLogger(folder, "", ""), make_wandb(folder, mode="disabled"))
    messages = [record.getMessage() for record in caplog.records if record.name == "tracking.progress"]
    lines = [re.sub(r"loss \d+\.\d{3}", "loss L", message) for message in messages]
    assert lines == [  # at most every 15 seconds
        "training: step 0 of 6",
        "step 2 of 6: loss L, 0.2 samples/s, 0:00:40 left",
        "validation after step 2: 2 of 3 batches",
        "validation after step 2: acc@0.5 2.000; the best so far",
        "step 4 of 6: loss L, 0.2 samples/s, 0:00:20 left",
        "validation after step 4: 2 of 3 batches",
        "validation after step 4: acc@0.5 1.000; the best so far is 2.000",
        "step 6 of 6: loss L, 0.2 samples/s, 0:00:00 left",
        "validation after step 6: 2 of 3 batches",
        "validation after step 6: acc@0.5 6.000; the best so far",
    ]
    rows = read_csv(folder)
    assert [row["step"] for row in rows] == list("0123456")  # of six steps, and of the end
    assert all(TRAINING <= row.keys() for row in rows[:6])
    assert [row["step"] for row in rows if "val/acc@0.5" in row] == ["1", "3", "5"]
    assert rows[6] == {"step": "6", "best/val/acc@0.5": "6.0"}
    assert {row["speed/samples_per_second"] for row in rows[:6]} == {"0.2"}  # without the time of validations
    assert not (folder / "wandb").exists()  # where it is disabled, its id is all that is written
    assert json.loads((folder / "wandb.json").read_text())["step"] == 6


def test_a_terminal_has_a_progress_bar_instead_of_lines(monkeypatch):
    assert isinstance(build_progress(30.0), ProgressLines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert isinstance(build_progress(30.0), StepProgressBar)


def read_csv(folder):
    """The rows of metrics.csv, with the values they have."""
    rows = csv.DictReader((folder / "metrics.csv").open())
    return [{name: value for name, value in row.items() if value} for row in rows]


def test_metrics_csv_is_complete_after_each_save(tmp_path):
    logger = StepCSVLogger(tmp_path, "", "")
    expected = []
    for values, step in (({"lr": 0.1}, 0), ({"loss": 2.0}, 0), ({"lr": 0.2, "loss": 1.5}, 1), ({"val/acc": 0.5}, 1),
                         ({"loss": 1.25}, 4), ({"lr": 0.3}, 4), ({"val/acc": 0.25}, 4)):  # fmt: skip
        logger.log_metrics(values, step)
        logger.save()
        if not expected or expected[-1]["step"] != str(step):
            expected.append({"step": str(step)})
        expected[-1].update({name: str(value) for name, value in values.items()})
        assert read_csv(tmp_path) == expected


def test_a_resumed_run_continues_metrics_csv_also_one_with_several_rows_per_step(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "epoch,lr,step,train/loss,val/acc\n,0.1,0,,\n0,,0,2.0,\n,0.2,1,,\n0,,1,1.5,\n0,,1,,0.5\n,0.3,2,,\n0,,2,1.0,\n0,,3"
    )
    logger = StepCSVLogger(tmp_path, "", "")
    truncate_csv_logs([logger], step=2, validates_first=True)
    first = {"epoch": "0", "step": "0", "lr": "0.1", "train/loss": "2.0"}
    second = {"epoch": "0", "step": "1", "lr": "0.2", "train/loss": "1.5"}
    assert read_csv(tmp_path) == [first, second]
    logger.log_metrics({"val/acc": 0.75, "epoch": 0}, 1)
    logger.log_metrics({"lr": 0.4}, 2)
    logger.save()
    assert read_csv(tmp_path) == [first, second | {"val/acc": "0.75"}, {"lr": "0.4", "step": "2"}]


def test_wandb_online_without_a_login_is_refused_without_a_prompt(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="nobody is logged in: run `wandb login`, or set logger.wandb.mode=offline"):
        make_wandb(tmp_path, mode="online")
    with pytest.raises(UserError, match="logger.wandb.mode=ofline is not one of .*did you mean 'offline'"):
        make_wandb(tmp_path, mode="ofline")


def test_a_server_that_does_not_answer_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    def fail(**settings):
        raise CommError("Timed out\nConsider ...")

    monkeypatch.setattr("tracking.wandb_logger.wandb.init", fail)
    with pytest.raises(UserError, match=r"wandb does not answer \(Timed out\); set logger.wandb.mode=offline"):
        fit(tmp_path / "run", make_wandb(tmp_path))


def test_no_logger_and_one_that_is_not_installed_are_refused_by_name(monkeypatch):
    with pytest.raises(UserError, match="logger=\\[\\] names no logger"):
        build_loggers(OmegaConf.create({}))
    monkeypatch.setattr("training.trainer.find_spec", lambda name: None)
    with pytest.raises(UserError, match="logger=mlflow needs a package .*pip install"):
        build_loggers(OmegaConf.create({"logger": {"mlflow": {}}}))


def test_provenance_has_the_commit_and_whether_tracked_files_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(tmp_path) is None
    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "untracked").write_text("")
    assert not git_state(tmp_path)["dirty"]
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path)["dirty"]
    (tmp_path / "installed").mkdir()
    assert git_state(tmp_path / "installed") is None  # a copy of the code inside another repository
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None
    assert provenance()["versions"]["transformers"]
