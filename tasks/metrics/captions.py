"""Caption metrics: `CaptionScores` during training, `CaptionReport` for the final test."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.spice import spice
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ofa.errors import UserError
from tasks.metrics.cider import CiderD, DocumentFrequencies

log = logging.getLogger(__name__)

Texts = dict[str, list[str]]  # by image: one caption, or its references
_Images = dict[str, tuple[str, list[str]]]  # by image: its caption and its references

# Without both, pycocoevalcap would download them.
SPICE_MODELS = [
    Path(spice.__file__).parent / "lib" / f"stanford-corenlp-3.6.0{suffix}.jar" for suffix in ("", "-models")
]
# What pycocoevalcap raises where a Java program ended early or wrote something unexpected.
_FAILURES = (OSError, RuntimeError, ValueError, LookupError, subprocess.SubprocessError)


class CaptionScores(Metric):
    """CIDEr-D, the mean over images, of captions as they are.

    Rows of one image are united: its first caption is compared with all of their references. The state is the rows as
    bytes, in the order of processes, in which evaluation shards them: the result is exactly that of a single process.

    Args:
        frequencies: how common n-grams are; None: as common as in the references that were collected.
    """

    def __init__(self, frequencies: DocumentFrequencies | None = None) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.set_dtype(torch.uint8)  # for a process without rows; must be that of the others

    def update(self, image_id: str, caption: str, references: list[str]) -> None:
        """Counts one sample.

        Raises:
            UserError: there are no references.
        """
        if not references:
            raise UserError(f"image {image_id} has no references to compare its caption with")
        line = json.dumps([image_id, caption, references]) + "\n"
        self.rows.append(torch.frombuffer(bytearray(line, "ascii"), dtype=torch.uint8).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """`cider_d`, from 0 to about 10; nothing where there are no rows."""
        images: _Images = {}  # in the order of their first rows
        for line in bytes(dim_zero_cat(self.rows).cpu().numpy()).splitlines() if len(self.rows) else ():
            image_id, caption, references = json.loads(line)
            images.setdefault(image_id, (caption, []))[1].extend(references)
        scores = self.image_scores(images) if images else {}
        return {name: torch.tensor(score, dtype=torch.float32, device=self.device) for name, score in scores.items()}

    def image_scores(self, images: _Images) -> dict[str, float]:
        captions, references = zip(*images.values(), strict=True)
        frequencies = self.frequencies or DocumentFrequencies.from_references(references)
        return {"cider_d": CiderD(frequencies).scores(captions, references).mean().item()}


class CaptionReport(CaptionScores):
    """CIDEr-D and the numbers of https://github.com/tylin/coco-caption, here the package pycocoevalcap.

    They are `bleu_1` to `bleu_4`, `rouge_l`, `meteor` and `cider` on captions split by the Penn Treebank tokenizer,
    and `spice` where its models are installed. The tokenizer, METEOR and SPICE are Java programs; what cannot be
    computed is left out, with a warning.
    """

    def image_scores(self, images: _Images) -> dict[str, float]:
        return super().image_scores(images) | _coco_scores(images)


def _coco_scores(images: _Images) -> dict[str, float]:
    references: Texts = {image_id: [_one_line(text) for text in own] for image_id, (_, own) in images.items()}
    captions: Texts = {image_id: [_one_line(caption)] for image_id, (caption, _) in images.items()}
    scorers = {"cider": lambda *texts: Cider().compute_score(*texts)[0]}
    try:
        _check_java()
        references, captions = _split_as_treebank(references), _split_as_treebank(captions)
        scorers["meteor"] = _meteor
        if all(path.exists() for path in SPICE_MODELS):
            scorers["spice"] = _spice
    except _FAILURES as error:
        references, captions = _split_plainly(references), _split_plainly(captions)
        log.warning(
            "%s: no METEOR and SPICE, and BLEU, ROUGE-L and CIDEr are of captions in lower case without punctuation, "
            "split at spaces, so they differ a little from published numbers, which need a Java that works",
            error,
        )
    bleu, _ = Bleu(4).compute_score(references, captions, verbose=0)
    scores = {f"bleu_{n}": score for n, score in enumerate(bleu, start=1)}
    scores["rouge_l"], _ = Rouge().compute_score(references, captions)
    for name, compute in scorers.items():
        try:
            scores[name] = compute(references, captions)
        except _FAILURES as error:
            log.warning("%s is left out, for it could not be computed: %s", name.upper(), error)
    return scores


def _one_line(text: str) -> str:
    """Single spaces only, for the Java programs take each line, Unicode's line separators included, for a text."""
    return " ".join(text.split())


def _check_java() -> None:
    if shutil.which("java") is None:
        raise RuntimeError("there is no java on the PATH")
    done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"java does not run ({_last_line(done.stderr) or f'exit status {done.returncode}'})")


def _split_as_treebank(texts: Texts) -> Texts:
    with _quiet():
        result = PTBTokenizer().tokenize({name: [{"caption": text} for text in own] for name, own in texts.items()})
    if {name: len(own) for name, own in result.items()} != {name: len(own) for name, own in texts.items()}:
        raise RuntimeError("the Penn Treebank tokenizer, a Java program, failed")
    return result


def _split_plainly(texts: Texts) -> Texts:
    return {name: [" ".join(re.findall(r"[\w']+", text.lower())) for text in own] for name, own in texts.items()}


def _meteor(references: Texts, captions: Texts) -> float:
    references, captions = (  # "|||" separates texts in METEOR's input
        {name: [_one_line(text.replace("|||", " ")) for text in own] for name, own in texts.items()}
        for texts in (references, captions)
    )
    meteor = Meteor()
    try:
        return meteor.compute_score(references, captions)[0]
    except _FAILURES as error:
        meteor.meteor_p.kill()
        reason = _last_line(meteor.meteor_p.stderr.read().decode(errors="replace"))
        raise RuntimeError(reason or str(error)) from error
    finally:
        # Its own clean-up runs some time later, and waits for ever for the lock that a failure leaves locked.
        if meteor.lock.locked():
            meteor.lock.release()
        meteor.meteor_p.kill()
        meteor.meteor_p.wait()
        for pipe in (meteor.meteor_p.stdin, meteor.meteor_p.stdout, meteor.meteor_p.stderr):
            with suppress(BrokenPipeError):
                pipe.close()


def _spice(references: Texts, captions: Texts) -> float:
    with _quiet():
        return spice.Spice().compute_score(references, captions)[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what is printed here, and by the programs started here, away from the console."""
    sys.stdout.flush()
    sys.stderr.flush()
    console = {stream: os.dup(stream) for stream in (1, 2)}
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            for stream in console:
                os.dup2(nowhere.fileno(), stream)
            yield
    finally:
        for stream, copy in console.items():
            os.dup2(copy, stream)
            os.close(copy)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
