import pytest

from data.cells import CLIPPED, clip_box, parse_box
from data.source import Row, RowError

WHERE = Row({}, "refcoco_train.tsv", 17)


def test_a_box_is_read_from_its_column():
    assert parse_box("1,2.5, 30,4e1", WHERE) == (1.0, 2.5, 30.0, 40.0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1,2,3", "not four numbers"),
        ("1,2,3,4,5", "not four numbers"),
        ("1,2,three,4", "not four numbers"),
        ("", "not four numbers"),
        ("1,2,nan,4", "not finite"),
        ("1,2,inf,4", "not finite"),
        ("1,2,1,4", "no area"),
        ("3,2,1,4", "no area"),
    ],
)
def test_a_broken_box_is_an_error_that_names_file_and_line(text, complaint):
    with pytest.raises(RowError, match=complaint) as error:
        parse_box(text, WHERE)
    assert "refcoco_train.tsv" in str(error.value) and "17" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_box_partly_outside_the_image_is_clipped_with_a_note():
    assert clip_box((-3.0, 5.0, 30.0, 90.0), 20, 40, WHERE) == ((0.0, 5.0, 20.0, 40.0), CLIPPED)
    assert clip_box((0.0, 0.0, 20.0, 40.0), 20, 40, WHERE) == ((0.0, 0.0, 20.0, 40.0), None)


def test_a_box_altogether_outside_the_image_is_an_error():
    with pytest.raises(RowError, match="outside its image of 20 x 40 pixels"):
        clip_box((20.0, 5.0, 30.0, 9.0), 20, 40, WHERE)
