"""The tasks by name; each is one file, from TSV columns to prompt and target, from model output to answer and score."""

from tasks.base import Task
from tasks.refcoco import RefCOCO, RefCOCOg

TASKS: dict[str, type[Task]] = {
    "refcoco": RefCOCO,
    "refcocoplus": RefCOCO,
    "refcocog": RefCOCOg,
}
