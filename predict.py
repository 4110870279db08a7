"""Answer questions about pictures: `python predict.py task=refcoco checkpoint=RUN input=FOLDER text="the red mug"`."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig
from rich.console import Console
from tqdm import tqdm

from ofa.checkpoint import read_task
from ofa.config import check_choice
from ofa.errors import UserError
from ofa.pipeline import pipeline
from prediction.answering import answer_each
from prediction.journal import Journal
from prediction.pictures import save_picture
from prediction.questions import read_questions
from training.command_line import command

PRECISIONS = {"32-true": torch.float32, "bf16-true": torch.bfloat16}


@command("predict")
def predict(config: DictConfig) -> None:
    """Writes predictions.jsonl and annotated pictures, and goes on where an interrupted run stopped."""
    for word in HydraConfig.get().overrides.task:
        if word.startswith("task."):
            raise UserError(f"{word}: predict.py follows the settings kept with the checkpoint; leave it out")
    check_choice(config.precision, "precision", PRECISIONS)
    name = _pipeline_name(config)
    folder = Path(config.output)
    questions = read_questions(Path(config.input), name, config.text, config.caption, leave_out=folder)
    settings = {"checkpoint": str(config.checkpoint), "pipeline": name, "precision": config.precision}
    settings |= {"answers": config.answers}
    with Journal(folder, settings, questions) as journal:
        pipe = pipeline(
            name,
            config.checkpoint,
            tokenizer=config.tokenizer,
            device=config.device,
            dtype=PRECISIONS[config.precision],
            batch_size=config.batch_size,
            answers=config.answers,
        )
        waiting = questions[journal.n_answered :]
        for number, (question, answer) in enumerate(
            tqdm(answer_each(pipe, waiting), name, len(questions), initial=journal.n_answered), journal.n_answered
        ):
            if config.pictures and "error" not in answer:
                save_picture(folder / "pictures" / f"{number:06}_{question.path.stem}.jpg", question, answer)
            journal.write(answer)
        console = Console()
        console.print(f"{len(questions)} answers in {journal.file}", soft_wrap=True)
        if journal.n_errors:
            console.print(f"{journal.n_errors} pictures could not be used; their lines say why", soft_wrap=True)


def _pipeline_name(config: DictConfig) -> str:
    if config.get("task") is not None:
        return get_class(config.task["_target_"]).pipeline
    kept = read_task(config.checkpoint)
    if kept is None:
        raise UserError(f"{config.checkpoint} does not say what it was trained for: set task=, such as task=refcoco")
    return kept.pipeline


if __name__ == "__main__":
    predict()
