"""The commands `python -m ofa.checkpoint inspect FILE` and `convert IN OUT`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ofa.checkpoint.content import Checkpoint
from ofa.checkpoint.exporting import export
from ofa.checkpoint.inspection import describe
from ofa.checkpoint.loading import load_model, read_task
from ofa.checkpoint.places import kept_tokenizer
from ofa.checkpoint.vocabularies import check_vocabulary
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ANY_FORM = "a file, a model folder, a run folder, or a Hugging Face id"


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ofa.checkpoint", description="Look into checkpoints, and convert them to model folders."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="print what a checkpoint holds")
    inspect.add_argument("file", metavar="FILE", help=ANY_FORM)
    convert = commands.add_parser("convert", help="write a checkpoint as a self-contained model folder")
    convert.add_argument("source", metavar="IN", help=ANY_FORM)
    convert.add_argument("folder", metavar="OUT", help="the model folder to write")
    convert.add_argument("--ema", action="store_true", help="take the averaged weights")
    convert.add_argument("--tokenizer", metavar="SOURCE", help="folder or Hugging Face id of the vocabulary")
    convert.add_argument("--dtype", choices=PRECISIONS, default="float32", help="of the weights, default %(default)s")
    convert.add_argument("--answers", metavar="FILE", help="JSON file of all answers to questions")
    convert.add_argument("--force", action="store_true", help="write into OUT even if it holds files")
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        if arguments.command == "inspect":
            Console(soft_wrap=False).print(*describe(arguments.file), sep="\n")
        else:
            convert_checkpoint(
                arguments.source,
                arguments.folder,
                ema=arguments.ema,
                tokenizer=arguments.tokenizer,
                dtype=PRECISIONS[arguments.dtype],
                answers=arguments.answers,
                force=arguments.force,
            )
            print(f"written to {arguments.folder}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def convert_checkpoint(
    source: str,
    folder: str,
    *,
    ema: bool = False,
    tokenizer: str | None = None,
    dtype: torch.dtype = torch.float32,
    answers: str | None = None,
    force: bool = False,
) -> None:
    """Writes the weights, vocabulary and task of `source`, as `find` takes it, as an export folder.

    Args:
        ema: take the averaged weights.
        tokenizer: where the vocabulary is; None: beside the weights.
        dtype: of the weights that are written.
        answers: JSON file of all answers to questions; None: those kept with the weights, if any.
        force: write into a folder that holds files.

    Raises:
        UserError: there is no such checkpoint or vocabulary, they do not belong together, or the folder is taken.
    """
    if not force and Path(folder).exists() and not (Path(folder).is_dir() and not any(Path(folder).iterdir())):
        raise UserError(f"{folder} is there and not an empty folder; give another, or --force to replace a model in it")
    checkpoint = Checkpoint.open(source, ema=ema)
    vocabulary = tokenizer or kept_tokenizer(checkpoint.path)
    if vocabulary is None:
        raise UserError(
            f"there is no vocabulary with {source}; give --tokenizer FOLDER_OR_ID with the vocab.json and merges.txt "
            "of an OFA model"
        )
    read = Tokenizer.from_pretrained(vocabulary)  # before the weights, which take longer
    check_vocabulary(checkpoint, read)
    task = read_task(checkpoint)
    if answers is not None:
        if task is None:
            raise UserError(f"--answers {answers}: {source} does not say that it answers questions; leave it out")
        task = task.with_answers(answers)
    if task is not None and task.lacks_answers:
        log.warning("%s has no list of answers with it and will be asked openly; --answers FILE gives one", source)
    export(folder, load_model(checkpoint).to(dtype), read, task)


if __name__ == "__main__":
    sys.exit(main())
