"""Table and plot of the runs of `demo_distill.sh`: `python run_scripts/demo_distill_report.py FOLDER`."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

METRICS = {"refcoco": "acc@0.5", "caption": "cider_d", "snli_ve": "accuracy"}
STUDENTS = {"plain": "tab:grey", "distilled": "tab:blue"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tasks = [task for task in METRICS if all(runs(folder / task, student) for student in STUDENTS)]
    if not tasks:
        parser.error(f"{folder} contains no task with finished runs of both students")
    table = "\n".join(["| task, split | metric | teacher | plain | distilled | gain |", "|---|---|---|---|---|---|",
                       *(line for task in tasks for line in rows(folder / task, METRICS[task]))])  # fmt: skip
    (folder / "table.md").write_text(table + "\n")
    plot(folder, tasks)
    print(f"{table}\n\nmean ± standard deviation (seeds); also in {folder}/table.md, curves in {folder}/curves.png")


def runs(folder: Path, student: str) -> list[Path]:
    """Finished runs, by seed."""
    return sorted(file.parent for file in folder.glob(f"{student}_*/metrics.json"))


def rows(folder: Path, metric: str) -> list[str]:
    """A line of the table for each split of a task."""
    teacher = json.loads((folder / "teacher/metrics.json").read_text())
    found = {name: [json.loads((run / "metrics.json").read_text()) for run in runs(folder, name)] for name in STUDENTS}
    lines = []
    for split, values in teacher.items():
        plain, distilled = ([metrics[split][metric] for metrics in found[name]] for name in STUDENTS)
        scores = f"{values[metric]:.3f} | {spread(plain)} | {spread(distilled)} | {mean(distilled) - mean(plain):+.3f}"
        lines.append(f"| {folder.name}, {split} | {metric} | {scores} |")
    return lines


def spread(values: list[float]) -> str:
    """Mean, standard deviation and number of seeds."""
    deviation = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{deviation} ({len(values)})"


def plot(folder: Path, tasks: list[str]) -> None:
    """Validation scores over steps: thin lines for seeds, a thick one for their mean."""
    figure, axes = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for name, colour in STUDENTS.items():
            curves = [validations(run, METRICS[task]) for run in runs(folder / task, name)]
            for steps, scores in curves:
                axis.plot(steps, scores, colour, linewidth=0.7, alpha=0.6)
            if curves:
                axis.plot(curves[0][0], [mean(scores) for scores in zip(*(c[1] for c in curves), strict=True)], colour,
                          linewidth=2.5, label=name)  # fmt: skip
        axis.set(title=task, xlabel="steps", ylabel=f"val {METRICS[task]}")
        axis.legend()
    figure.tight_layout()
    figure.savefig(folder / "curves.png", dpi=120)


def validations(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Steps and scores of a run's validations; the last line of a step is kept, a test repeats the best."""
    with (run / "metrics.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line.get(f"val/{metric}")]
    found = {int(line["step"]) + 1: float(line[f"val/{metric}"]) for line in lines[:-1]}
    return list(found), list(found.values())


if __name__ == "__main__":
    main()
