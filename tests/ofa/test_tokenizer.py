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
    """A vocabulary that can spell "a", "ab" and "aab" and nothing else."""
    return Tokenizer.from_pretrained(write_model_folder(tmp_path, ["Ġ", "a", "b", "ab"], ["a b"]))


def test_ids_stand_where_the_published_dictionary_has_them():
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


def test_encode_puts_the_space_in_front(published_tokenizer):
    cases = [case for case in RECORDED["tokenization"] if case["text"].startswith(" ")]
    assert cases
    for case in cases:
        assert published_tokenizer.encode(case["text"][1:]) == case["ids"]


def test_recorded_special_ids_are_written_as_published(published_tokenizer):
    recorded = RECORDED["special_tokens"]
    assert published_tokenizer.decode(recorded["ids"]) == recorded["decoded"]


def test_decode_inverts_encode(published_tokenizer):
    text = "naïve café — 東京 🙂  two  spaces"
    assert published_tokenizer.decode([0, *published_tokenizer.encode(text), 2, 1, 1]) == text


def test_bins_and_codes_are_written_with_their_number(small):
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


def test_an_id_without_a_piece_decodes_to_nothing(small):
    assert small.decode([7, 20_000, 7]) == "abab"


def test_saving_gives_the_same_files_back(small, tmp_path):
    small.save(tmp_path / "new" / "copy")
    for file in ("vocab.json", "merges.txt"):
        assert (tmp_path / "new" / "copy" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_a_tokenizer_travels_to_worker_processes(small):
    assert pickle.loads(pickle.dumps(small)).encode("aab") == small.encode("aab")


def test_the_demo_vocabulary_spells_any_text_and_is_known_as_the_demo_s(small, tmp_path):
    demo = Tokenizer.demo()
    text = "the small red circle, naïve 東京"
    assert demo.decode(demo.encode(text)) == text
    assert vocabulary.UNK not in demo.encode(text)
    assert demo.is_demo and not small.is_demo
    demo.save(tmp_path / "demo")
    assert Tokenizer.from_pretrained(tmp_path / "demo").is_demo


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"vocab\.json is missing"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(SPECIALS))
    with pytest.raises(UserError, match=r"merges\.txt is missing"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_chinese_vocabulary_is_refused_by_its_name(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(UserError, match="WordPiece.*not supported yet"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_path_that_is_no_folder_is_refused():
    with pytest.raises(UserError, match="there is no folder /no/such/folder; give one with"):
        Tokenizer.from_pretrained("/no/such/folder")


def test_the_vocabulary_of_another_model_is_refused(tmp_path):
    write_model_folder(tmp_path, ["a"], [], specials=SPECIALS | {"<mask>": 50_000})
    with pytest.raises(UserError, match="<mask> at id 50000, OFA has it at 50264"):
        Tokenizer.from_pretrained(tmp_path)


def test_merges_of_another_vocabulary_are_refused(tmp_path):
    write_model_folder(tmp_path, ["a", "b"], ["a b"])
    with pytest.raises(UserError, match=r"merges\.txt does not fit vocab\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_broken_vocabulary_file_is_refused(tmp_path):
    write_model_folder(tmp_path, ["a"], [])
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UserError, match=r"vocab\.json is not JSON"):
        Tokenizer.from_pretrained(tmp_path)
