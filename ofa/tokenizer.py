"""Text to token ids and back: `Tokenizer`, byte-level BPE followed by image codes and bins; `clean_caption` before it.

Ids of `<code_i>` and `<bin_i>` are computed (see `ofa.vocabulary`). Text never becomes a special, code or bin id: a
literal "<mask>" is split into pieces, as in the published implementation.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from tokenizers import Tokenizer as PieceTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from ofa.errors import UserError
from ofa.vocabulary import BIN_OFFSET, BOS, CODE_OFFSET, EOS, MASK, PAD, UNK

VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
WORDPIECE_FILE = "vocab.txt"  # of the Chinese models
DEMO_FOLDER = Path(__file__).parent / "demo_vocabulary"
WEIGHT_SUFFIXES = (".pt", ".pth", ".pkl", ".bin", ".ckpt", ".safetensors")  # of files, never of Hugging Face ids
SPECIAL_IDS = {"<s>": BOS, "<pad>": PAD, "</s>": EOS, "<unk>": UNK, "<mask>": MASK}


class Tokenizer:
    """Byte-level BPE as GPT-2 defines it, with OFA's ids.

    Construction from the content of vocab.json and merges.txt raises UserError, with `name`, if they do not match or
    the special tokens do not have OFA's ids.

    >>> tokenizer = Tokenizer.demo()
    >>> tokenizer.decode(tokenizer.encode("the red circle"))
    'the red circle'
    """

    def __init__(self, vocabulary: str, merges: str, name: str) -> None:
        self._vocabulary = vocabulary
        self._merges = merges
        self._pieces = PieceTokenizer(_bpe(vocabulary, merges, name))
        self._pieces.pre_tokenizer = ByteLevel(add_prefix_space=False)
        self._pieces.decoder = ByteLevelDecoder()

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Tokenizer:
        """The vocabulary of a model folder or a Hugging Face model ("OFA-Sys/ofa-tiny"); UserError if unusable."""
        folder = Path(source)
        if (folder / WORDPIECE_FILE).is_file() and not (folder / VOCABULARY_FILE).is_file():
            raise UserError(
                f"{folder} holds vocab.txt, the WordPiece vocabulary of the Chinese models, which is not supported "
                f"yet; use a model with {VOCABULARY_FILE} and {MERGES_FILE}"
            )
        if not folder.is_dir() and not is_hub_id(str(source)):
            raise UserError(
                f"there is no folder {source}; give one with {VOCABULARY_FILE} and {MERGES_FILE}, or a Hugging Face id "
                "(OWNER/NAME)"
            )
        names = (VOCABULARY_FILE, MERGES_FILE)
        files = [folder / name if folder.is_dir() else _from_hub(str(source), name) for name in names]
        return cls(*map(_read, files), name=str(source))

    @classmethod
    def demo(cls) -> Tokenizer:
        """The small vocabulary of the demo data, which is part of this package."""
        return cls.from_pretrained(DEMO_FOLDER)

    @property
    def is_demo(self) -> bool:
        """Whether this is the vocabulary of the demo, from any folder; real data needs a published one."""
        return self._merges == _read(DEMO_FOLDER / MERGES_FILE)

    def has_pieces_of(self, other: Tokenizer) -> bool:
        """Whether the same ids mean the same text in both."""
        return self._pieces.get_vocab() == other._pieces.get_vocab()

    def digest(self) -> str:
        """A hash of vocabulary and merges."""
        return hashlib.sha256(f"{self._vocabulary}\0{self._merges}".encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Ids of a text after a leading space, as for every prompt and answer; without special tokens."""
        return self.encode_verbatim(" " + text)

    def encode_verbatim(self, text: str) -> list[int]:
        """Ids of exactly this text."""
        return self._pieces.encode(text).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The inverse of `encode`: text without its leading space and without `<s>`, `<pad>` and `</s>`.

        Bins and codes are written `<bin_12>`, `<code_3>`; ids without a piece in this vocabulary are left out.
        """
        pieces = [self._piece(token) for token in ids if token not in (BOS, PAD, EOS)]
        return self._pieces.decoder.decode(pieces).removeprefix(" ")

    def save(self, folder: str | Path) -> None:
        """Writes vocab.json and merges.txt, unchanged, into a folder, which is created if missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file, content in self.files().items():
            Path(folder, file).write_bytes(content.encode())

    def files(self) -> dict[str, str]:
        """The unchanged content of vocab.json and merges.txt."""
        return {VOCABULARY_FILE: self._vocabulary, MERGES_FILE: self._merges}

    def _piece(self, token: int) -> str:
        if token >= BIN_OFFSET:
            return f"<bin_{token - BIN_OFFSET}>"
        if token >= CODE_OFFSET:
            return f"<code_{token - CODE_OFFSET}>"
        return self._pieces.id_to_token(token) or ""


def _bpe(vocabulary: str, merges: str, name: str) -> BPE:
    try:
        ids = json.loads(vocabulary)
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: {VOCABULARY_FILE} is not JSON ({error}); copy it again from the model") from error
    for token, expected in SPECIAL_IDS.items():
        if ids.get(token) != expected:
            raise UserError(
                f"{name}: {VOCABULARY_FILE} has {token} at id {ids.get(token)}, OFA has it at {expected}; "
                "use the vocabulary of an OFA model"
            )
    pairs = [tuple(line.split(" ")) for line in merges.splitlines() if line and not line.startswith("#version")]
    try:
        return BPE(ids, pairs, unk_token="<unk>")
    except Exception as error:  # the library raises the bare class
        raise UserError(f"{name}: {MERGES_FILE} does not fit {VOCABULARY_FILE} ({error}); copy both again") from error


def is_hub_id(source: str) -> bool:
    """Whether it can only be a Hugging Face id: OWNER/NAME, where OWNER is not a local folder."""
    is_pair = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) is not None
    return is_pair and not source.endswith(WEIGHT_SUFFIXES) and not Path(source).parent.is_dir()


def _from_hub(source: str, file: str) -> Path:
    try:
        return Path(hf_hub_download(source, file))
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{source} is neither a folder nor a Hugging Face model whose {file} can be fetched "
            f"({type(error).__name__}); give a folder with {VOCABULARY_FILE} and {MERGES_FILE}"
        ) from error


def _read(path: Path) -> str:
    """The file's text with its line ends untouched, so that saving gives the same bytes back."""
    if not path.is_file():
        raise UserError(f"{path} is missing; a model folder holds {VOCABULARY_FILE} and {MERGES_FILE}")
    return path.read_bytes().decode()


def clean_caption(text: str, max_words: int | None = None) -> str:
    """Lower-cased caption or referring expression without leading punctuation, cut to `max_words` words.

    >>> clean_caption("#*A <person> on-a    bike.")
    'a person on a bike.'
    """
    return _clean(text, max_words, {"-": " ", "/": " ", "<person>": "person"})


def clean_question(text: str, max_words: int | None = None) -> str:
    """The same for a question; it keeps `<person>` and always ends in a question mark, added after the cut.

    >>> clean_question("What's on the tv/monitor")
    "what's on the tv monitor?"
    """
    return _clean(text, max_words, {"-": " ", "/": " "}).removesuffix("?") + "?"


def cut_words(clean: Callable[[str, int | None], str], text: str, max_words: int) -> tuple[str, tuple[str, ...]]:
    """The cleaned text of at most `max_words` words, and a note where that cut it; `clean` is one of the above."""
    cut = clean(text, max_words)
    return cut, () if cut == clean(text, None) else (f"text cut to {max_words} words",)


def _clean(text: str, max_words: int | None, replacements: dict[str, str]) -> str:
    text = text.lower().lstrip(",.!?*#:;~")
    for old, new in replacements.items():
        text = text.replace(old, new)
    # Runs of two and more: a single tab or no-break space stays, as it did in the text the published models saw.
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:max_words])
