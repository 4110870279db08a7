"""Whether weights and a vocabulary belong together: `check_vocabulary`."""

from __future__ import annotations

import logging
from pathlib import Path

from ofa.checkpoint.content import Checkpoint
from ofa.checkpoint.places import kept_tokenizer
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def check_vocabulary(path: str | Path, tokenizer: Tokenizer) -> None:
    """Refuse the weights of `path`, as `find` takes it, if they read ids otherwise than `tokenizer` writes them.

    Weights without a vocabulary beside them are taken to belong to it.

    Raises:
        UserError: the ids of the weights mean other things, or there is no checkpoint.
    """
    other = Checkpoint.open(path).other_ids
    if other is not None:
        raise UserError(
            f"{path} was trained with {other}, so that its ids are no numbering that is read here; it can be loaded, "
            "but neither asked nor trained"
        )
    folder = kept_tokenizer(path)
    if folder is None:
        log.info("there is no vocabulary with %s; it is taken to be the one that is used", path)
    elif not Tokenizer.from_pretrained(folder).has_pieces_of(tokenizer):
        raise UserError(
            f"{path} was trained with another vocabulary, so that the same ids mean other words; set tokenizer={folder}"
        )
