"""Whether weights and a vocabulary belong together: `check_vocabulary`."""

from __future__ import annotations

import logging
from pathlib import Path

from ofa.checkpoint.content import Checkpoint
from ofa.checkpoint.places import kept_tokenizer
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def check_vocabulary(source: str | Path | Checkpoint, tokenizer: Tokenizer) -> None:
    """Refuse the weights of `source`, as `Checkpoint.open` takes it, if they read ids otherwise than `tokenizer` does.

    Weights without a vocabulary beside them are taken to belong to it.

    Raises:
        UserError: the ids of the weights mean other things, or there is no checkpoint.
    """
    checkpoint = Checkpoint.open(source)
    given, other = checkpoint.given, checkpoint.other_ids
    if other is not None:
        raise UserError(
            f"{given} was trained with {other}, so that its ids are no numbering that is read here; it can be loaded, "
            "but neither asked nor trained"
        )
    folder = kept_tokenizer(checkpoint.path)
    if folder is None:
        log.info("there is no vocabulary with %s; it is taken to be the one that is used", given)
    elif not Tokenizer.from_pretrained(folder).has_pieces_of(tokenizer):
        raise UserError(
            f"{given} was trained with another vocabulary, so that the same ids mean other words; set "
            f"tokenizer={folder}"
        )
