"""Runs of train.py and evaluate.py as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(script, *words, folder, check=True, timeout=300):
    """Run train.py or evaluate.py in `folder`; its process, with stdout and stderr as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OFA_CACHE": str(folder / "cache"), "COLUMNS": "200"}
    process = subprocess.run(
        [sys.executable, ROOT / script, *words],
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
