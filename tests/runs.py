"""Runs of train.py and evaluate.py as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

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
