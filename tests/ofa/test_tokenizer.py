import json
import pickle

import pytest
from helpers.golden import load_json

from ofa import vocabulary
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer

RECORDED = load_json("fairseq_text.json")
SPECIALS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 50264}


def write_model_folder(folder, pieces, merges, specials=SPECIALS):
    vocabulary = specials | {piece: 4 + i for i, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return folder


@pytest.fixture
def small(tmp_path):
    """A tokenizer for texts of the letters a and b."""
    return Tokenizer.from_pretrained(write_model_folder(tmp_path, ["Ġ", "a", "b", "ab"], ["a b"]))


def test_ids_equal_those_of_the_published_dictionary():
    recorded = RECORDED["dictionary"]
    assert vocabulary.VOCABULARY_SIZE == recorded["size"]
    names = {"bos": "BOS", "pad": "PAD", "eos": "EOS", "unk": "UNK", "mask": "MASK"}
    names |= {"first_code": "CODE_OFFSET", "first_bin": "BIN_OFFSET"}
    assert all(getattr(vocabulary, ours) == recorded[theirs] for theirs, ours in names.items())
    assert vocabulary.BINS == (58457, 59457)
    assert (vocabulary.CODE_OFFSET, vocabulary.BIN_OFFSET) == (50265, 58457)


@pytest.mark.parametrize("case", RECORDED["tokenization"], ids=lambda case: repr(case["text"]))
def test_recorded_texts_get_the_published_ids(published_tokenizer, case):
    assert published_tokenizer.encode_verbatim(case["text"]) == case["ids"]
    assert published_tokenizer.decode(case["ids"]) == case["decoded"].removeprefix(" ")


def test_encode_adds_a_leading_space_and_decode_inverts_it(published_tokenizer):
    cases = [case for case in RECORDED["tokenization"] if case["text"].startswith(" ")]
    assert cases
    for case in cases:
        assert published_tokenizer.encode(case["text"][1:]) == case["ids"]
    text = "naïve café — 東京 🙂  two  spaces"
    assert published_tokenizer.decode([0, *published_tokenizer.encode(text), 2, 1, 1]) == text


def test_special_ids_bins_and_codes_are_decoded_as_published(published_tokenizer, small):
    recorded = RECORDED["special_tokens"]
    assert published_tokenizer.decode(recorded["ids"]) == recorded["decoded"]
    assert small.decode([58457 + 12, 50265 + 3]) == "<bin_12><code_3>"


@pytest.mark.parametrize("text", ["<mask>", "<s>", "</s>", "<pad>", "<unk>", "<bin_5>", "<code_5>"])
def test_a_special_token_spelled_in_a_text_stays_text(published_tokenizer, text):
    tokens = published_tokenizer.encode(text)
    assert len(tokens) > 1
    assert all(4 <= token < vocabulary.MASK for token in tokens)
    assert published_tokenizer.decode(tokens) == text


def test_pieces_are_merged_and_unknown_ones_become_unk(small):
    assert small.encode("aab") == [4, 5, 7]
    assert small.encode("azb") == [4, 5, vocabulary.UNK, 6]
    assert small.decode([7, 20_000, 7]) == "abab"  # an id without a piece decodes to nothing


def test_saved_files_equal_the_loaded_ones_and_a_tokenizer_can_be_pickled(small, tmp_path):
    small.save(tmp_path / "new" / "copy")
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / "new" / "copy" / file).read_bytes() == (tmp_path / file).read_bytes()
    assert pickle.loads(pickle.dumps(small)).encode("aab") == small.encode("aab")


def test_the_demo_vocabulary_encodes_any_text_and_is_recognised(small, tmp_path):
    demo = Tokenizer.demo()
    text = "the small red circle, naïve 東京"
    assert demo.decode(demo.encode(text)) == text
    assert vocabulary.UNK not in demo.encode(text)
    assert demo.is_demo and not small.is_demo
    demo.save(tmp_path / "demo")
    assert Tokenizer.from_pretrained(tmp_path / "demo").is_demo


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"vocab\.json is missing"),
        ({"vocab.json": json.dumps(SPECIALS)}, r"merges\.txt is missing"),
        ({"vocab.txt": "[PAD]\n"}, "WordPiece.*not supported yet"),  # a Chinese vocabulary
        ({"vocab.json": "{", "merges.txt": ""}, r"vocab\.json is not JSON"),
    ],
)
def test_a_folder_without_a_usable_vocabulary_is_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="there is no folder /no/such/folder; give one with"):
        Tokenizer.from_pretrained("/no/such/folder")


@pytest.mark.parametrize(
    ("pieces", "merges", "specials", "message"),
    [
        (["a"], [], {"<mask>": 50_000}, "<mask> at id 50000, OFA has it at 50264"),
        (["a", "b"], ["a b"], {}, r"merges\.txt does not fit vocab\.json"),
    ],
)
def test_the_vocabulary_or_merges_of_another_model_are_refused(tmp_path, pieces, merges, specials, message):
    with pytest.raises(UserError, match=message):
        Tokenizer.from_pretrained(write_model_folder(tmp_path, pieces, merges, SPECIALS | specials))
