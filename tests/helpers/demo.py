"""Demo files of a task by its name."""

from data.demo.source import write_demo
from data.layout import find_task


def demo_files(task, root, config, rows, seed=1):
    """The file of each split."""
    return write_demo(task, find_task(task), root, config, rows, seed)
