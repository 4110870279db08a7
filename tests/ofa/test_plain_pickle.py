import os
import pickle
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
from helpers.fakes import Payload

from ofa.errors import UserError
from ofa.plain_pickle import load_plain_pickle

PLAIN = {
    "text": ["a", "é", ""],
    "numbers": (1, -(2**70), 0.5, 1 + 2j, True, None),
    ("n", "gram"): {1, 2},
    "frozen": frozenset({"x"}),
    "bytes": [b"\x00\xff", b""],
}


def write(tmp_path, content):
    (tmp_path / "file.pkl").write_bytes(content)
    return tmp_path / "file.pkl"


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_is_read_in_every_protocol(tmp_path, protocol):
    assert load_plain_pickle(write(tmp_path, pickle.dumps(PLAIN, protocol))) == PLAIN


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_collections_become_dicts_and_numpy_scalars_become_numbers(tmp_path, protocol):
    scalars = [np.float64(0.1), np.float32(0.5), np.int64(-3), np.uint8(200), np.bool_(True), np.dtype(">i4").type(7)]
    content = {
        "default": defaultdict(float, {("a", "b"): 2.0}),
        "lists": defaultdict(list, {1: [2]}),
        "ordered": OrderedDict([("z", 1), ("a", 2)]),
        "counter": Counter("aab"),
        "scalars": scalars,
    }
    read = load_plain_pickle(write(tmp_path, pickle.dumps(content, protocol)))
    assert read == content
    assert {type(read[key]) for key in ("default", "lists", "ordered", "counter")} == {dict}
    assert [type(number) for number in read["scalars"]] == [float, float, int, int, bool, int]


def python_2(*strings):
    """A list of byte strings as Python 2 writes them in protocol 2."""
    items = b"".join(b"U" + bytes([len(string)]) + string for string in strings)
    return b"\x80\x02](" + items + b"e."


def test_byte_strings_of_python_2_are_read_as_utf8_or_else_latin_1(tmp_path):
    assert load_plain_pickle(write(tmp_path, python_2("é".encode(), b"a"))) == ["é", "a"]
    assert load_plain_pickle(write(tmp_path, python_2("é".encode("latin-1"), b"a"))) == ["é", "a"]


def test_names_and_numbers_of_python_2_are_read(tmp_path):
    defaults = b"\x80\x02ccollections\ndefaultdict\nc__builtin__\nfloat\n\x85RU\x01aG?\xe0\x00\x00\x00\x00\x00\x00s."
    assert load_plain_pickle(write(tmp_path, defaults)) == {"a": 0.5}
    assert load_plain_pickle(write(tmp_path, b"\x80\x02c__builtin__\nset\n](K\x01K\x02e\x85R.")) == {1, 2}
    for number in (0.5, -1.1):  # the bytes of the second are not UTF-8
        data = np.float64(number).tobytes()
        scalar = b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
        scalar += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08" + data + b"\x86R."
        assert load_plain_pickle(write(tmp_path, b"\x80\x02" + scalar)) == number


class Plain:
    pass


def python_code(mark):
    return f"__import__('os').system('touch {mark}')"


ATTACKS = {
    "system": lambda mark: Payload(f"touch {mark}", function=os.system),
    "eval": lambda mark: Payload(python_code(mark), function=eval),
    "getattr": lambda mark: Payload(Plain, "__init__", function=getattr),
    "measure": lambda mark: Payload(python_code(mark), function=np.testing.measure),
    "(Plain|_reconstructor)": lambda mark: Plain(),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ATTACKS)
def test_code_in_a_pickle_is_named_and_does_not_run(tmp_path, name, protocol):
    mark = tmp_path / "executed"
    path = write(tmp_path, pickle.dumps({"a": [ATTACKS[name](mark)]}, protocol))
    with pytest.raises(UserError, match=rf"names \S+\.{name}, which could execute code") as error:
        load_plain_pickle(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch MARK'\ntR.",
        b"(S'touch MARK'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch MARK'\no.",
        b"\x80\x04\x8c\x08builtins\x8c\x15set.__init__.__call__\x93.",
        b"c__builtin__\ngetattr\n(c__builtin__\nset\nS'__subclasses__'\ntR(tR.",
        b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(S'os'\ntRS'system'\ntR(S'touch MARK'\ntR.",
        b"ccopy_reg\n_reconstructor\n(c__builtin__\nset\nc__builtin__\nset\n(ltR.",
    ],
)
def test_no_way_of_calling_bypasses_the_check_of_names(tmp_path, program):
    mark = tmp_path / "executed"
    path = write(tmp_path, program.replace(b"MARK", bytes(mark)))
    with pytest.raises(UserError, match="could execute code"):
        load_plain_pickle(path)
    assert not mark.exists()


def test_a_pickle_cannot_change_how_the_next_one_is_read(tmp_path):
    # BUILD with the state (None, {"__defaults__": ()}) on the function that stands for defaultdict.
    load_plain_pickle(write(tmp_path, b"\x80\x02ccollections\ndefaultdict\nN}U\x0c__defaults__)s\x86b."))
    assert load_plain_pickle(write(tmp_path, pickle.dumps(defaultdict(None, a=1)))) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04", pickle.dumps(PLAIN)[:-20], b"\x80\x02}K\x01b."])
def test_an_incomplete_or_missing_pickle_is_an_error_with_the_file(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match="not a whole pickle") as error:
        load_plain_pickle(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="none.pkl cannot be read"):
        load_plain_pickle(tmp_path / "none.pkl")
