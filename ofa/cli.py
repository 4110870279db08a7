"""The command `ofa`: predict, inspect and convert."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from ofa import __version__
from ofa.checkpoint import convert
from ofa.checkpoint.inspection import describe
from ofa.errors import UserError
from ofa.prediction import PRECISIONS, predict
from ofa.processors import PROCESSORS

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHECKPOINT = "a file, a model folder, a run folder, or a Hugging Face id"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 if no input has a prediction, 2 for an error of the user."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        if options.command == "predict":
            return _predict(options)
        if options.command == "inspect":
            Console(soft_wrap=False).print(*describe(options.checkpoint), sep="\n")
        else:
            _convert(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ofa", description="Use OFA models and checkpoints.")
    parser.add_argument("--version", action="version", version=f"ofa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_predict(commands.add_parser("predict", help="predict for an image, a folder or a CSV file"))
    inspect = commands.add_parser("inspect", help="print what a checkpoint contains")
    inspect.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    _add_convert(commands.add_parser("convert", help="write a checkpoint as a self-contained model folder"))
    return parser


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument("input", metavar="INPUT", help="an image, a folder of images, or a CSV file with column image")
    parser.add_argument("--output", metavar="FOLDER", help="default outputs/predict/NAME_OF_INPUT")
    parser.add_argument("--task", choices=PROCESSORS, help="default: the task of the checkpoint")
    parser.add_argument("--text", help="text for all images, such as a question or an expression")
    parser.add_argument("--caption", help="caption of all images, for visual entailment")
    parser.add_argument("--objects", help="names of visible objects, separated by commas, for question answering")
    parser.add_argument("--no-images", action="store_true", help="do not draw predictions on the images")
    parser.add_argument("--tokenizer", metavar="SOURCE", help="folder or Hugging Face id of the vocabulary")
    parser.add_argument("--answers", metavar="FILE", help="JSON file of all answers to questions")
    parser.add_argument("--device", help="such as cuda:1; default: a GPU if there is one")
    parser.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default %(default)s")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at once")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IN", help=CHECKPOINT)
    parser.add_argument("folder", metavar="OUT", help="the model folder to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights")
    parser.add_argument("--tokenizer", metavar="SOURCE", help="folder or Hugging Face id of the vocabulary")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights, default %(default)s")
    parser.add_argument("--answers", metavar="FILE", help="JSON file of all answers to questions")
    parser.add_argument("--force", action="store_true", help="write into OUT even if it contains files")


def _predict(options: argparse.Namespace) -> int:
    texts = {"text": options.text, "caption": options.caption, "objects": options.objects}
    n_predicted = predict(
        options.checkpoint,
        options.input,
        options.output or Path("outputs", "predict", Path(options.input).resolve().stem),
        task=options.task,
        texts={name: text for name, text in texts.items() if text is not None},
        images=not options.no_images,
        precision=options.precision,
        batch_size=options.batch_size,
        tokenizer=options.tokenizer,
        answers=options.answers,
        device=options.device,
    )
    return 0 if n_predicted else 1


def _convert(options: argparse.Namespace) -> None:
    convert(
        options.source,
        options.folder,
        ema=options.ema,
        tokenizer=options.tokenizer,
        dtype=DTYPES[options.dtype],
        answers=options.answers,
        force=options.force,
    )
    print(f"written to {options.folder}")
