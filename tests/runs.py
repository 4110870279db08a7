"""Runs of train.py and evaluate.py as a user starts them, and what comes of them."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from ofa import pipeline

ROOT = Path(__file__).parents[1]


def run(script, *words, folder, check=True, timeout=300):
    """Run a script, or a module behind "-m", in `folder`; its process, with stdout and stderr as text."""
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "OFA_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    environment["PYTHONPATH"] = str(ROOT)
    process = subprocess.run(
        [sys.executable, script if script == "-m" else ROOT / script, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert process.returncode == 0, process.stdout + process.stderr
    return process


def predictions_of(run_folder, split):
    records = map(json.loads, (run_folder / "predictions.jsonl").read_text().splitlines())
    return [record for record in records if record["split"] == split]


def answers_of_pipeline(run_folder, name, file, **columns):
    """What the pipeline `name` of the model that a run exports says of the rows of a TSV file.

    Args:
        columns: number of the column of the image, and of each text.
    """
    rows = [line.split("\t") for line in file.read_text().splitlines()]
    texts = {text: [row[number] for row in rows] for text, number in columns.items()}
    images = [Image.open(io.BytesIO(base64.urlsafe_b64decode(_url_safe(cell)))) for cell in texts.pop("image")]
    return pipeline(name, run_folder, device="cpu")(images, **texts)


def _url_safe(text):
    return text.replace("+", "-").replace("/", "_")
