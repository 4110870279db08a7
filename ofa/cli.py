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
            answers, dtype = options.answers, DTYPES[options.dtype]
            settings = {"ema": options.ema, "tokenizer": options.tokenizer, "force": options.force}
            convert(options.source, options.folder, dtype=dtype, answers=answers, **settings)
            print(f"written to {options.folder}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ofa", description="Use OFA models and checkpoints.")
    parser.add_argument("--version", action="version", version=f"ofa {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    predict = commands.add_parser("predict", help="predict for an image, a folder or a CSV file")
    predict.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)
    predict.add_argument("input", metavar="INPUT", help="an image, a folder of images, or a CSV file with column image")
    predict.add_argument("--output", metavar="FOLDER", help="default outputs/predict/NAME_OF_INPUT")
    predict.add_argument("--task", choices=PROCESSORS, help="default: the task of the checkpoint")
    predict.add_argument("--text", help="text for all images, such as a question or an expression")
    predict.add_argument("--caption", help="caption of all images, for visual entailment")
    predict.add_argument("--objects", help="names of visible objects, separated by commas, for question answering")
    predict.add_argument("--no-images", action="store_true", help="do not draw predictions on the images")
    predict.add_argument("--tokenizer", metavar="SOURCE", help="folder or Hugging Face id of the vocabulary")
    predict.add_argument("--answers", metavar="FILE", help="JSON file of all answers to questions")
    predict.add_argument("--device", help="such as cuda:1; default: a GPU if there is one")
    predict.add_argument("--precision", choices=PRECISIONS, default="32-true", help="default %(default)s")
    predict.add_argument("--batch-size", type=int, metavar="N", help="images at once")

    inspect = commands.add_parser("inspect", help="print what a checkpoint contains")
    inspect.add_argument("checkpoint", metavar="CHECKPOINT", help=CHECKPOINT)

    convert = commands.add_parser("convert", help="write a checkpoint as a self-contained model folder")
    convert.add_argument("source", metavar="IN", help=CHECKPOINT)
    convert.add_argument("folder", metavar="OUT", help="the model folder to write")
    convert.add_argument("--ema", action="store_true", help="take the averaged weights")
    convert.add_argument("--tokenizer", metavar="SOURCE", help="folder or Hugging Face id of the vocabulary")
    convert.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights, default %(default)s")
    convert.add_argument("--answers", metavar="FILE", help="JSON file of all answers to questions")
    convert.add_argument("--force", action="store_true", help="write into OUT even if it contains files")
    return parser


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
