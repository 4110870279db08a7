"""Runs of train.py and evaluate.py as a user starts them, and what comes of them."""

import atexit
import base64
import io
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import weakref
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

from PIL import Image

from ofa import pipeline

ROOT = Path(__file__).parents[2]


def run(script, *words, folder, check=True, timeout=300):
    """Run a script, or a module behind "-m", in `folder`; its process, with stdout and stderr as text.

    It is forked from a process that has imported what every command imports, which takes longer than most runs.
    """
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "OFA_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [script if script == "-m" else str(ROOT / script), *map(str, words)]
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        process = _server().Process(target=_run_forked, args=(command, environment, folder, out, err))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout, out.read_bytes(), err.read_bytes())
        completed = subprocess.CompletedProcess(command, process.exitcode, out.read_text(), err.read_text())
    if check:
        assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed


@cache
def _server():
    """Where processes are forked from; it is started with the first run, in the environment of runs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.runs_imports"])
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": before.get("OMP_NUM_THREADS", "2"), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)
    return context


def _run_forked(command, environment, folder, out, err):
    """What `python` does with the words of a command, in a process that is this run's own."""
    # What imports have left to be done at the end (wandb: to delete a folder) is left to the process they happened in.
    atexit._clear()
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    # The run's own processes, which read data, start as those of any command do, not as this one was started.
    multiprocessing.set_start_method(None, force=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for file, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def predictions_of(run_folder, split):
    records = map(json.loads, (run_folder / "predictions.jsonl").read_text().splitlines())
    return [record for record in records if record["split"] == split]


def answers_of_pipeline(model, name, file, **columns):
    """What the pipeline `name` of a model, such as a run's folder, says of the rows of a TSV file.

    Args:
        columns: number of the column of the image, and of each text.
    """
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    texts = {text: [row[number] for row in rows] for text, number in columns.items()}
    images = [Image.open(io.BytesIO(base64.urlsafe_b64decode(_url_safe(cell)))) for cell in texts.pop("image")]
    return pipeline(name, model, device="cpu")(images, **texts)


def _url_safe(text):
    return text.replace("+", "-").replace("/", "_")
