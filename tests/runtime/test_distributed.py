"""Runs of several processes on the CPU, compared with the same runs of one."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.fakes import write_scontrol
from helpers.runs import ROOT, run

from ofa.config import OFAConfig
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from runtime.sharding import WORKS_ON_CPUS

DEMO = ["task=vqa", "task.image_size=32", "data.rows.train=64", "data.scenes.grid=2"]
CPU = "trainer.accelerator=cpu"
EVALUATE = [*DEMO, CPU, "data.rows.evaluation=101", "checkpoint=start", "split=val", "data.eval_batch_size=16"]
# Batch norm is frozen, for each process would have the statistics of its own batches; the recipe is without dropout.
TRAIN = [*DEMO, CPU, "data.rows.evaluation=4", "model=micro", "freezing.batch_norm=true", "trainer.max_steps=20"]
TRAIN += ["validate_every=20", "trainer.log_every_n_steps=1", "trainer.accumulate_grad_batches=2"]

# With dropout, which differs between processes, and a checkpoint between the batches of a step.
RESUMED = [*TRAIN, "trainer=ddp", "trainer.devices=2", "data.batch_size=4", "model.dropout=0.2", "trainer.max_steps=6"]
RESUMED += ["validate_every=4", "data.rows.train=52", "freezing.backbone=true"]
SHARDED = "trainer=fsdp"
STOPPED = [*RESUMED, "resume=auto", "hydra.run.dir=stopped"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a checkpoint `start` and the runs by one and by several processes, of evaluation and of training."""
    folder = tmp_path_factory.mktemp("distributed")
    torch.manual_seed(0)
    model = OFAModel(OFAConfig.from_name("micro", init_std=0.2))
    (folder / "start/checkpoints").mkdir(parents=True)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    content = {"state_dict": weights, "hyper_parameters": {"model": model.config.to_dict()}}
    torch.save(content, folder / "start/checkpoints/best.ckpt")
    Tokenizer.demo().save(folder / "start/tokenizer")
    jobs = [
        ["evaluate", 1, [*EVALUATE, "hydra.run.dir=evaluation1"], 0],
        ["evaluate", 3, [*EVALUATE, "trainer=ddp", "trainer.devices=3", "hydra.run.dir=evaluation3"], 0],
        ["train", 1, [*TRAIN, "data.batch_size=8", "hydra.run.dir=train1"], 0],
        ["train", 2, [*TRAIN, "trainer=ddp", "trainer.devices=2", "data.batch_size=4", "hydra.run.dir=train2"], 0],
        ["train", 2, [*RESUMED, "hydra.run.dir=whole"], 0],
        *([["train", 2, [*RESUMED, SHARDED, "hydra.run.dir=whole_sharded"], 0]] if WORKS_ON_CPUS else []),
        ["train_signalled", 2, STOPPED, 75],
        ["train_spoilt", 2, [*RESUMED, "hydra.run.dir=spoilt"], 1],
        ["train_spoilt", 2, [*RESUMED, "on_nonfinite=skip", "hydra.run.dir=skipped"], 0],
    ]
    write_scontrol(folder, "JobId=7 JobState=RUNNING Requeue=1 BatchFlag=1")
    process = start(forked(jobs), folder, PATH=f"{folder}:{os.environ['PATH']}", SLURM_JOB_ID="7")
    (folder / "stderr.txt").write_text(process.stderr)
    return folder


def forked(jobs):
    return [sys.executable, ROOT / "tests/helpers/forked.py", json.dumps(jobs)]


def start(words, folder, **more):
    """A command that succeeds, in `folder`, with `more` in its environment."""
    environment = {**os.environ, "OFA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= more
    process = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stdout + process.stderr
    return process


def contents(run_folder, names):
    return {name: (run_folder / name).read_bytes() for name in names}


def files_of(run_folder):
    files = (file.relative_to(run_folder) for file in run_folder.rglob("*") if file.is_file())
    return sorted(str(file) for file in files if "tfevents" not in file.name)


SCORES = ("predictions.jsonl", "metrics.json", "results_val.json", "pictures_val.png")


def test_three_processes_write_the_same_bytes_as_one(folder):
    assert len((folder / "evaluation1/predictions.jsonl").read_text().splitlines()) == 101
    assert contents(folder / "evaluation3", SCORES) == contents(folder / "evaluation1", SCORES)


def test_two_processes_started_by_the_command_write_the_same_once(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = set(Path(folder).iterdir())
    words = [*EVALUATE, "trainer=ddp", "trainer.devices=2", "hydra.run.dir=evaluation2"]
    process = run("evaluate.py", *words, folder=folder)
    assert contents(folder / "evaluation2", SCORES) == contents(folder / "evaluation1", SCORES)
    assert files_of(folder / "evaluation2") == files_of(folder / "evaluation1")
    assert process.stdout.count("Metrics, predictions and images are in") == 1
    assert set(Path(folder).iterdir()) - before == {folder / "evaluation2"}


def losses(run_folder):
    with (run_folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_two_processes_train_like_one_with_twice_the_batch_size(folder):
    alone, together = losses(folder / "train1"), losses(folder / "train2")
    assert len(alone) == 20 and alone[-1] < alone[0]
    assert together == pytest.approx(alone, abs=1e-4)
    assert files_of(folder / "train2") == files_of(folder / "train1")
    size = "effective batch size 16 = batch 4 x 2 processes x 2 accumulated batches"
    assert size in (folder / "train2/train.log").read_text()


def last(run_folder, name="last"):
    return torch.load(run_folder / f"checkpoints/{name}.ckpt", weights_only=True)


def assert_equal(first, second):
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


on_cpus = pytest.mark.skipif(not WORKS_ON_CPUS, reason="this PyTorch shards weights only on GPUs")


@on_cpus
def test_sharded_training_gives_the_same_losses_and_files(folder):
    runs = [folder / "whole", folder / "whole_sharded"]
    whole, sharded = map(losses, runs)
    assert len(whole) == 6 and sharded == pytest.approx(whole, abs=1e-4)
    assert files_of(runs[1]) == files_of(runs[0])
    whole, sharded = (last(run)["state_dict"] for run in runs)
    torch.testing.assert_close(sharded, whole, rtol=0, atol=1e-4)
    tied = [name for name in sharded if name.endswith(("embed_tokens.weight", "output_projection.weight"))]
    assert len(tied) == 3 and len({sharded[name].data_ptr() for name in tied}) == 1
    assert contents(runs[1], ["metrics.json"]) == contents(runs[0], ["metrics.json"])
    previous = [last(run, "last.previous")["processes"] for run in runs]
    whole, first, second = (process["gradients"] for process in (previous[0][0], *previous[1]))
    assert whole.keys() == first.keys() == second.keys()
    sizes = [sum(gradient.numel() for gradient in gradients.values()) for gradients in (whole, first, second)]
    assert sizes[0] == sizes[1] + sizes[2]  # each process has a shard
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.01)


@pytest.mark.parametrize("words", [[], pytest.param([SHARDED], marks=on_cpus)], ids=["whole", "sharded"])
def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one(folder, words):
    of_whole = folder / ("whole_sharded" if words else "whole")
    of_cut = folder / of_whole.name.replace("whole", "cut")
    shutil.copytree(of_whole / "checkpoints", of_cut / "checkpoints")
    shutil.copyfile(of_whole / "config.yaml", of_cut / "config.yaml")
    (of_cut / "checkpoints/last.ckpt").unlink()  # the one before it is that of the validation
    before = last(of_cut, "last.previous")
    assert before["global_step"] == 4 and all(process["gradients"] for process in before["processes"])
    start(forked([["train", 2, [*RESUMED, *words, "resume=auto", f"hydra.run.dir={of_cut.name}"], 0]]), folder)
    assert "resuming after step 4 of" in (of_cut / "train.log").read_text()
    whole, cut = last(of_whole), last(of_cut)
    assert_equal(whole["state_dict"], cut["state_dict"])
    first, second = ([process["random"]["torch"] for process in state["processes"]] for state in (whole, cut))
    assert all(map(torch.equal, first, second))
    assert not torch.equal(*first)


@on_cpus
def test_a_sharded_run_that_is_trained_but_not_tested_resumes_with_the_test(folder):
    metrics = folder / "whole_sharded/metrics.json"
    before = metrics.read_bytes()
    metrics.unlink()
    start(forked([["train", 2, [*RESUMED, SHARDED, "resume=auto", "hydra.run.dir=whole_sharded"], 0]]), folder)
    assert metrics.read_bytes() == before


def test_a_preempted_job_of_two_processes_is_requeued_once_and_resumes_under_torchrun(folder):
    assert last(folder / "stopped")["global_step"] == 3
    (message,) = (line for line in (folder / "stderr.txt").read_text().splitlines() if "SIGUSR1" in line)
    assert message.startswith("SIGUSR1: stopped after step 3; checkpoint: ")
    assert message.endswith("; job 7 requeued and will resume")
    assert (folder / "calls").read_text().splitlines().count("requeue 7") == 1
    before = set(folder.iterdir())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([*torchrun, ROOT / "train.py", *STOPPED], folder)
    assert "resuming after step 3 of" in process.stdout
    assert process.stdout.count("Metrics, predictions and images are in") == 1
    assert set(folder.iterdir()) == before and "Traceback" not in process.stderr
    assert_equal(last(folder / "stopped")["state_dict"], last(folder / "whole")["state_dict"])
    assert set(files_of(folder / "stopped")) == {*files_of(folder / "whole"), "stops.json"}


def test_a_nonfinite_loss_of_one_process_ends_all_with_one_error_or_is_skipped_by_all(folder):
    errors = [line for line in (folder / "stderr.txt").read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith("error: the loss of step 2 is nan, with the samples ")
    sample = errors[0].split("samples ")[1].split(",")[0]
    assert not (folder / "spoilt/model").exists()
    skipped = "8 samples skipped, as loss or gradient was not finite, among them "
    assert f"{skipped}{sample}, " in (folder / "skipped/train.log").read_text()
    first, second = (torch.load(folder / f"weights{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_equal(first, second)
    assert all(weights.isfinite().all() for weights in first.values())


def test_an_error_in_one_process_ends_all_with_one_error(folder, monkeypatch):
    files = (folder / "cache/demo").glob("vqa_*/val.tsv")
    rows, lines = max(((file, file.read_text().splitlines()) for file in files), key=lambda pair: len(pair[1]))
    rows.write_text("\n".join([*lines[:-1], lines[-1].replace("\t", " ")]) + "\n")
    words = [*EVALUATE, "trainer=ddp", "trainer.devices=2", "hydra.run.dir=broken"]
    process = run("evaluate.py", *words, folder=folder, check=False)
    assert process.returncode == 1
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and errors[0].startswith(f"error: line 101 of {rows}: ")
    assert "Traceback" not in process.stderr
