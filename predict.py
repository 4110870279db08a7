"""Answer questions about pictures: `python predict.py task=refcoco checkpoint=RUN input=FOLDER text="the red mug"`."""

import sys
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console
from tqdm import tqdm

from ofa.checkpoint import read_task, weight_files
from ofa.config import check_choice
from ofa.errors import UserError
from ofa.pipeline import Pipeline, pipeline
from ofa.processors.settings import to_task_settings
from prediction.answering import answer_each, check_texts
from prediction.journal import Journal
from prediction.pictures import save_picture
from prediction.questions import read_questions
from runtime.command_line import command

PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16}
TEXTS = ("text", "caption", "objects")


@command("predict", verbatim=TEXTS)
def predict(config: DictConfig) -> None:
    """Writes predictions.jsonl and annotated pictures, and goes on where an interrupted run stopped."""
    for word in HydraConfig.get().overrides.task:
        if word.startswith("task."):
            raise UserError(f"{word}: predict.py follows the settings kept with the checkpoint; leave it out")
    check_choice(config.precision, "precision", PRECISIONS)
    name = _pipeline_name(config)
    folder = Path(config.output)
    given = {text: config[text] for text in TEXTS if config[text] is not None}
    questions = read_questions(Path(config.input), name, given, leave_out=folder)
    pipe = pipeline(
        name,
        config.checkpoint,
        tokenizer=config.tokenizer,
        device=config.device,
        dtype=PRECISIONS[config.precision],
        batch_size=config.batch_size,
        answers=config.answers,
    )
    check_texts(pipe, questions)
    with Journal(folder, _settings(config, pipe), questions) as journal:
        numbers = {question: number for number, question in journal.waiting}
        for question, image, answer in tqdm(answer_each(pipe, list(numbers)), name, len(numbers)):
            if config.pictures and "error" not in answer:
                save_picture(folder / "pictures", numbers[question], question, image, answer)
            journal.write(question, answer)
    console = Console()
    answered = len(questions) - journal.n_failed
    console.print(f"{answered} answers in {journal.file}", soft_wrap=True)
    if journal.n_failed:
        console.print(f"{journal.n_failed} questions could not be answered; their lines say why", soft_wrap=True)
    if not answered:
        sys.exit(1)


def _pipeline_name(config: DictConfig) -> str:
    if config.get("task") is not None:
        return get_class(config.task["_target_"]).processor_class.pipeline
    kept = read_task(config.checkpoint)
    if kept is None:
        raise UserError(f"{config.checkpoint} does not say what it was trained for: set task=, such as task=refcoco")
    return kept.pipeline


def _settings(config: DictConfig, pipe: Pipeline) -> dict[str, Any]:
    """What the answers depend on beside the questions."""
    stats = [(str(file.resolve()), file.stat()) for file in weight_files(config.checkpoint)]
    return {
        "asked": to_task_settings(pipe.processor, pipe.options).to_json(),
        "weights": [[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats],
        "vocabulary": pipe.processor.tokenizer.digest(),
        "precision": config.precision,
    }


if __name__ == "__main__":
    predict()
