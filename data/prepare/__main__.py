"""The command: `python -m data.prepare NAME ...` turns raw data into the TSV files that training reads."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.prepare.answers import convert_answers
from data.prepare.published import SNLIVE, VQA, KarpathyCaptions, Refer
from data.prepare.records import Bounds, Source
from data.prepare.tables import CSVTable, HuggingFace
from data.prepare.writer import Options, convert, describe_left_out
from ofa.errors import UserError

SOURCES: dict[str, Source] = {
    "refcoco": Refer("refcoco", "refcoco", split_by="unc"),
    "refcocoplus": Refer("refcocoplus", "refcoco+", split_by="unc"),
    "refcocog": Refer("refcocog", "refcocog", split_by="umd"),
    "caption": KarpathyCaptions(),
    "snli_ve": SNLIVE(),
    "vqa": VQA(),
    "hf": HuggingFace(),
    "csv": CSVTable(),
}
_NO_CONTENT = ("name", "out", "workers", "on_error", "splits", "config_dir")  # no file's content depends on them


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = parse_arguments(argv)
    try:
        if arguments.name == "answers":
            count = convert_answers(arguments.pickle, arguments.json)
            print(f"{count} answers written to {arguments.json}")
        else:
            run(SOURCES[arguments.name], arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes where this one stopped", file=sys.stderr)
        return 130
    return 0


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command; None: those of the process."""
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description="Raw data to the TSV files of a task.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, source in SOURCES.items():
        command = commands.add_parser(name, help=source.help, description=source.help)
        source.add_arguments(command)
        command.add_argument("--out", type=Path, required=True, metavar=source.makes, help="the output")
        _add_common_arguments(command)
    answers = commands.add_parser("answers", help="a published answer list, a pickle, to JSON")
    answers.add_argument("pickle", type=Path, help="the published file, trainval_ans2label.pkl")
    answers.add_argument("json", type=Path, help="the file to write")
    return parser.parse_args(argv)


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-side", type=_positive, metavar="PIXELS", help="resize larger images to this size, boxes with them"
    )
    parser.add_argument(
        "--quality",
        type=int,
        choices=range(1, 101),
        default=90,
        metavar="1..100",
        help="JPEG quality of resized images, default %(default)s",
    )
    parser.add_argument(
        "--workers", type=_positive, default=min(8, os.cpu_count() or 1), help="processes, default %(default)s"
    )
    parser.add_argument(
        "--on-error", choices=("skip", "stop"), default="skip", help="at an unusable sample; default skip"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def run(source: Source, arguments: argparse.Namespace) -> None:
    """Makes every file of the source, and prints the number of rows and of samples left out."""
    bounds = Bounds(arguments.max_side, arguments.quality)
    options = Options(bounds, arguments.workers, stop=arguments.on_error == "stop")
    settings = {name: str(value) for name, value in vars(arguments).items() if name not in _NO_CONTENT}
    for conversion in source.conversions(arguments):
        progress = convert(conversion, settings, options)
        print(f"{conversion.file}: {progress.rows} rows")
        if progress.left_out:
            print(f"  {describe_left_out(conversion.file, progress)}")


if __name__ == "__main__":
    sys.exit(main())
