import errno
import json
import os
import sys
from contextlib import nullcontext

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from ofa.atomic_write import part_of
from ofa.errors import UserError
from runtime import command_line
from runtime.checkpoints import CheckpointFiles
from runtime.command_line import command
from runtime.overrides import check_cluster, check_folder, check_overrides
from runtime.preemption import Preempted
from runtime.subprocess_run import FILE_STATUS, OUTCOME, RunFailed


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=refcocog", "model=large", "optim.lr=1e-4", "trainer.max_steps=5", "+trainer.fast_dev_run=true"],
        ["logger=wandb"],
        ["logger=[csv,wandb]", "trainer.devices=[1]"],
        ["optim.lr=1e-5,3e-5", "task=refcoco"],  # of a sweep
        ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optim.lr=tag(log,interval(1,2))"],
    ],
)
def test_valid_overrides_pass(monkeypatch, overrides):
    monkeypatch.setattr("runtime.overrides.find_spec", lambda name: name)  # as if the search were installed
    check_overrides("train", overrides)


@pytest.mark.parametrize("task", ["refcoco", "caption", "snli_ve"])
def test_the_published_distillations_compose_and_ask_for_their_teacher(task):
    words = [f"experiment={task}_tiny_from_large", "data.root=."]
    check_overrides("train", [*words, "distill.teacher=[a,b]", "distill.temperature.base=2"])
    assert_refused("train", words, "distill.teacher has to be given: train.py distill.teacher=...")


def assert_refused(name, words, message):
    with pytest.raises(UserError, match=message) as error:
        check_overrides(name, words)
    assert "\n" not in str(error.value)


def test_a_search_without_its_packages_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr("runtime.overrides.find_spec", lambda name: None)
    assert_refused("train", ["hydra/sweeper=search"], "hydra/sweeper=search needs packages .*pip install")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task=refcok", "task=refcok is not one of .*; did you mean 'refcoco'"),
        ("model=tinny", "model=tinny is not one of .*; did you mean 'tiny'"),
        ("logger=[csv,wandbb]", "logger=wandbb is not one of csv, .*; did you mean 'wandb'"),
        ("optim.lrr=3", "there is no setting 'optim.lrr'; did you mean 'optim.lr'"),
        ("modle=tiny", "there is no setting 'modle'; did you mean 'model'"),
        ("optim.lr=fast", "optim.lr=fast is not a number"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5 is not a whole number"),
        ("model.compile=3", "model.compile=3 is not true or false"),
        ("data=tsv data.rows=3", "there is no setting 'data.rows'"),
        ("task", "'task' is not of the form key=value"),
        ("data.rows=3", "data.rows=3: it is a group of settings; set one of data.rows.train"),
        ("optim=5", "must be a string or a list"),
        ("data.scenes.image_size=${task.imgsize}", "imgsize"),
        ("optim.lr=[", "is not of the form key=value"),
        ("hydra.run.dri=x", "there is no setting 'hydra.run.dri'; did you mean 'hydra.run.dir'"),
        ("hydra/launcher=slurm", "hydra/launcher=slurm is not one of basic"),
        ("recipe=tsv/refcok", "recipe=tsv/refcok is not one of .*; did you mean 'tsv/refcoco'"),
        ("distill.teacher=RUN",
         "distill.teacher has no effect with distill=none; choose one of distill=attention, .*, distill=sequence$"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_refused_in_one_line_with_the_closest_name(words, message):
    assert_refused("train", words.split(), message)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("evaluate", ["model=base", "checkpoint=RUN"], "evaluate.py does not use .*; leave model=base out"),
        ("evaluate", ["optim=adamw", "checkpoint=RUN"], "evaluate.py does not use .*; leave optim=adamw out"),
        ("evaluate", ["distill=logits", "checkpoint=RUN"], "evaluate.py does not use .*; leave distill=logits out"),
        ("evaluate", ["task=refcoco"], "checkpoint has to be given: evaluate.py checkpoint=..."),
        ("fill_cache", ["distill=logits"], "given: python -m training.fill_cache distill.teacher=..."),
    ],
)
def test_groups_and_settings_that_a_command_does_not_use_or_needs_are_named_with_it(name, words, message):
    assert_refused(name, words, message)


@pytest.mark.parametrize(
    ("arguments", "is_sweep", "message"),
    [
        (["resume=auto"], False, "resume=auto needs hydra.run.dir=FOLDER: without it, each start has another folder"),
        (["resume=auto", "seed=1,2", "hydra.run.dir=FOLDER"], True, "resume=auto needs hydra.sweep.dir=FOLDER"),
        (["resume=auto", "hydra.run.dir=FOLDER/new/${task.name}"], False, None),
        (["hydra.run.dir=FOLDER/file/run"], False, "hydra.run.dir=.*file/run: .*file cannot be written; give a folder"),
    ],
)
def test_a_folder_has_to_be_writable_and_known_to_a_run_that_resumes_in_it(tmp_path, arguments, is_sweep, message):
    (tmp_path / "file").write_text("")
    config = check_overrides("train", [word.replace("FOLDER", str(tmp_path)) for word in arguments])
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        check_folder(config, is_sweep)


def test_a_cluster_is_used_by_sweeps_on_machines_that_can_submit_jobs(monkeypatch):
    config = check_overrides("train", ["cluster=slurm", "trainer=ddp", "trainer.devices=2"])
    with pytest.raises(UserError, match="cluster=slurm needs -m"):
        check_cluster(config, is_sweep=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no command sbatch here"):
        check_cluster(config, is_sweep=True)
    check_cluster(check_overrides("train", []), is_sweep=False)
    monkeypatch.setenv("OFA_PARENT", "1")  # a further process of a job
    check_cluster(config, is_sweep=False)


def test_a_job_resumes_by_itself_and_saves_between_validations_by_default():
    assert check_overrides("train", []).resume is None
    config = check_overrides("train", ["cluster=slurm"])
    assert (config.resume, config.save_every) == ("auto", 100)
    assert check_overrides("train", ["cluster=slurm", "save_every=7"]).save_every == 7


def test_a_launcher_that_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch):
    Plugins.instance()  # has registered all that are installed
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], "submitit_slurm.yaml")
    message = r"cluster=slurm needs Hydra's launcher for it; .* pip install -e '.\[slurm\]'"
    assert_refused("train", ["cluster=slurm"], message)


@pytest.fixture
def own_configs(tmp_path):
    """A folder outside the project with an option of a group of the project, and a group of its own."""
    for name, content in {"model/atto": "defaults: [micro]\nresnet_drop_path_rate: 0.3", "extra/a": "x: 1"}.items():
        file = tmp_path / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(content)
    return tmp_path / "conf"


def test_configs_of_a_folder_outside_the_project_are_options_like_others(own_configs):
    words = [f"hydra.searchpath=[file://{own_configs}]"]
    config = check_overrides("train", [*words, "model=atto", "+extra=a", "model.init_std=0.1"])
    assert (config.model.name, config.model.resnet_drop_path_rate, config.extra.x) == ("micro", 0.3, 1)
    assert_refused("train", [*words, "model=ato"], "model=ato is not one of atto, base, .*; did you mean 'atto'")
    assert_refused("train", [*words, "+extra=a", "extra.y=1"], "extra.y.* 'extra.x'")


QUIET = ["hydra/job_logging=none", "hydra/hydra_logging=none"]  # "disabled" would outlast the test


def start(monkeypatch, function, *words):
    """What `python train.py WORDS` does, where training is `function`; the exit status or the last sentence."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words, *QUIET])
    with pytest.raises(SystemExit) as end:
        command("train")(function)()
    return end.value.code


def test_a_failed_run_of_a_sweep_does_not_end_the_others(monkeypatch, tmp_path, capsys):
    rates = []

    def train(config):
        rates.append(config.optim.lr)
        if config.optim.lr < 0:
            raise UserError("optim.lr=-1 is too small")
        if config.optim.lr > 1:
            raise RuntimeError("no memory left")

    words = ["-m", "optim.lr=-1,2,1e-3", f"hydra.sweep.dir={tmp_path}"]
    assert start(monkeypatch, train, *words) == f"error: 2 runs of the sweep failed: {tmp_path}/0, {tmp_path}/1"
    assert rates == [-1, 2, 1e-3]
    errors = capsys.readouterr().err
    assert "\nerror: optim.lr=-1 is too small\n" in f"\n{errors}" and "RuntimeError: no memory left" in errors


def test_a_search_survives_trials_that_fail_but_not_when_all_do(monkeypatch, tmp_path, capfd):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    rates = []

    def train(config):
        rates.append(config.optim.lr)
        if len(rates) != good:
            raise UserError(f"optim.lr is no good in run {len(rates)}")
        return 0.5

    words = ["-m", "hydra/sweeper=search", "hydra.sweeper.n_trials=3", "optim.lr=interval(1e-3,1.0)"]
    good = 2
    assert start(monkeypatch, train, *words, f"hydra.sweep.dir={tmp_path}").startswith("error: 2 runs of the sweep")
    best = OmegaConf.load(tmp_path / "optimization_results.yaml")
    assert (best.best_value, best.best_params["optim.lr"]) == (0.5, rates[1])
    rates, good = [], None
    assert start(monkeypatch, train, *words, f"hydra.sweep.dir={tmp_path}/none") == (
        f"error: all 3 trials of the search failed; the first, in {tmp_path}/none/0: optim.lr is no good in run 1"
    )
    assert "Traceback" not in capfd.readouterr().err


TWO_PROCESSES = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]


def test_a_run_of_a_sweep_of_several_processes_is_a_command_of_its_own(monkeypatch, tmp_path, own_configs):
    commands = []

    def subprocess_run(command, signals):
        commands.append(command)
        if "optim.lr=-1" in command:
            raise RunFailed

    monkeypatch.setattr(command_line, "subprocess_run", subprocess_run)
    of_runs = ["hydra.verbose=[data]", "+hydra.job.env_set.A=b"]
    of_sweep = ["hydra/sweeper=basic", "hydra.sweeper.max_batch_size=1", "hydra/launcher=basic"]
    overrides = [*TWO_PROCESSES, "model=atto", *of_sweep, *of_runs, "optim.lr=-1,1", f"hydra.sweep.dir={tmp_path}"]
    words = ["-m", "--config-dir", str(own_configs), *overrides]
    assert start(monkeypatch, pytest.fail, *words) == f"error: 1 runs of the sweep failed: {tmp_path}/0"
    search_path = f"hydra.searchpath=['file://{own_configs}']"
    for number, rate in enumerate((-1, 1)):
        task = [*TWO_PROCESSES, "model=atto", f"optim.lr={rate}"]
        assert commands[number][2:] == [*task, *of_runs, *QUIET, search_path, f"hydra.run.dir='{tmp_path}/{number}'"]


def test_the_configuration_is_composed_twice(monkeypatch, tmp_path, own_configs):
    compositions, original = [], ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl, "load_configuration", lambda *a, **k: (compositions.append(1), original(*a, **k))[1]
    )
    monkeypatch.setattr(sys, "argv", ["train.py", "-cd", str(own_configs), "model=atto", f"hydra.run.dir={tmp_path}"])
    command("train")(lambda config: None)()
    assert len(compositions) == 2


def test_such_a_run_reports_to_the_sweep_where_it_was_stopped(monkeypatch, tmp_path, capsys):
    def train(config):
        assert OUTCOME not in os.environ  # for the processes that it starts
        raise Preempted("SIGUSR1: stopped after step 3")

    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    assert start(monkeypatch, train, f"hydra.run.dir={tmp_path}") == 75
    assert json.loads((tmp_path / "outcome").read_text())["stopped"] == "SIGUSR1: stopped after step 3"
    assert "SIGUSR1" not in capsys.readouterr().err


def test_a_job_that_is_not_requeued_ends_with_an_error(monkeypatch, tmp_path):
    stop = fails(Preempted("SIGUSR1: stopped after step 3"))
    monkeypatch.setattr(command_line, "requeue_or_explain", fails(UserError("job 7 is not requeued")))
    message = "error: SIGUSR1: stopped after step 3; job 7 is not requeued"
    assert start(monkeypatch, stop, f"hydra.run.dir={tmp_path}") == message


def fails(error):
    """A training that ends with an error."""

    def train(config):
        raise error

    return train


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC])
def test_an_unusable_file_is_named_with_the_checkpoint_to_resume_from(monkeypatch, tmp_path, capsys, number):
    train = fails(OSError(number, os.strerror(number), "metrics.csv"))
    assert start(monkeypatch, train, f"hydra.run.dir={tmp_path}") == FILE_STATUS
    assert "; there was no checkpoint yet" in capsys.readouterr().err
    last = tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    assert start(monkeypatch, train, f"hydra.run.dir={tmp_path}") == FILE_STATUS
    sentence = capsys.readouterr().err
    assert sentence.startswith("error: metrics.csv") and f"then resume from {last}, " in sentence


def test_a_full_disk_ends_a_sweep_whatever_file_was_written(monkeypatch, tmp_path, capsys):
    def save(config):
        part_of(tmp_path / "last.ckpt").symlink_to("/dev/full")  # where every write finds the disk full
        CheckpointFiles().save_checkpoint({"global_step": 1}, tmp_path / "last.ckpt")

    words = ["-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}"]
    log = fails(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.csv"))
    for train, file in ((log, "metrics.csv"), (save, "last.ckpt")):
        assert start(monkeypatch, train, *words) == FILE_STATUS
        assert capsys.readouterr().err.count(f"{file} was not written: the disk") == 1  # by the first of two runs


def test_a_system_error_without_a_file_is_not_changed(monkeypatch, tmp_path, capsys):
    assert start(monkeypatch, fails(OSError(errno.EIO, "no file")), f"hydra.run.dir={tmp_path}") == 1
    assert "OSError" in capsys.readouterr().err
