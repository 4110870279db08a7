"""Runs of train.py, evaluate.py and other commands as a user starts them, and their results."""

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
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

from PIL import Image

from ofa import pipeline

ROOT = Path(__file__).parents[2]


def run(script, *arguments, folder, check=True, timeout=300, path=None):
    """Runs a script, or after "-m" a module, in `folder`; returns the completed process with its output as text.

    The process is forked from one with the imports of every command, which take longer than most runs. `path` is a
    folder of modules of the user's own.
    """
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "OFA_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    environment["PYTHONPATH"] = ":".join(map(str, filter(None, (path, ROOT))))
    command = [script if script == "-m" else str(ROOT / script), *map(str, arguments)]
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
    """The context of processes that are forked from one server; the first run starts the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.preloaded"])
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": before.get("OMP_NUM_THREADS", "2"), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)
    return context


def _run_forked(command, environment, folder, out, err):
    """Does what `python` does with the arguments of a command, in a process of its own."""
    # Data workers start in the default way, not as this process did.
    multiprocessing.set_start_method(None, force=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(":")
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
    """Results of the pipeline `name` for the rows of a TSV file; the model is, for example, a run's folder.

    Args:
        columns: number of the column of the image and of each text.
    """
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    texts = {text: [row[number] for row in rows] for text, number in columns.items()}
    cells = [cell.replace("+", "-").replace("/", "_") for cell in texts.pop("image")]
    images = [Image.open(io.BytesIO(base64.urlsafe_b64decode(cell))) for cell in cells]
    return pipeline(name, model, device="cpu")(images, **texts)
