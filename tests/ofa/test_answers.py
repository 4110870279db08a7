import pytest

from ofa.answers import read_answers
from ofa.errors import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.json"


@pytest.mark.parametrize("text", ['{"no": 1, "yes": 0, "café": 2}', '["yes", "no", "café"]'])
def test_answers_have_the_order_of_their_indices(path, text):
    path.write_text(text, encoding="utf-8")
    assert read_answers(path) == ["yes", "no", "café"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("yes, no", "is not JSON"),
        ('["café"]', "is not JSON"),  # in another encoding
        ("{}", "is empty"),
        ("[]", "is empty"),
        ('"yes"', "expected"),
        ('{"yes": "0"}', "expected"),
        ('{"yes": true}', "expected"),
        ('{"yes": 0.0}', "expected"),
        ('["yes", 1]', "expected"),
        ('[["yes", 0]]', "expected"),
        ('{"yes": 0, "yes": 1}', "'yes' twice"),
        ('["no", "yes", "yes"]', "'yes' twice"),
        ('{"yes": 0, "no": 0}', "indices 0 to 1, but none has 1"),
        ('{"yes": 1, "no": 2}', "indices 0 to 1, but none has 0"),
    ],
)
def test_a_broken_file_is_an_error_with_its_name(path, text, complaint):
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=complaint) as error:
        read_answers(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_an_error_and_for_a_pickle_the_converter_is_named(tmp_path):
    with pytest.raises(UserError, match="none.json cannot be read"):
        read_answers(tmp_path / "none.json")
    with pytest.raises(UserError, match="python -m data.prepare answers .*ans2label.pkl .*ans2label.json"):
        read_answers(tmp_path / "ans2label.pkl")
