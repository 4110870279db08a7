import base64
import io

import numpy as np
import pytest
import torch
from conftest import refcoco_line
from helpers.golden import load_json
from PIL import Image

from data.cells import CLIPPED
from data.module import OFADataModule
from data.source import Row, RowError
from data.tsv import TSVSource
from ofa.errors import UserError
from ofa.generation import Hypothesis
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BIN_OFFSET, BINS, BOS, EOS
from tasks.refcoco import BoxPrediction, RefCOCO, RefCOCOg, Region

RECORDED = load_json("fairseq_data.json")
PROMPT = 'which region does the text " {} " describe?'
RNG = np.random.default_rng(0)


def make_row(text="The red circle", box="10,5,30,35", width=90, height=60):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    return Row(values={"uniq_id": "r7", "text": text, "box": box, "image": image}, source="train.tsv", number=3)


def hypothesis(*bins, score=-0.25):
    return Hypothesis(tokens=[*(BIN_OFFSET + number for number in bins), EOS], score=score, token_scores=[0.0] * 5)


@pytest.fixture(scope="module")
def task():
    return RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=64, max_image_size=64)


@pytest.mark.parametrize("index", range(3))
def test_recorded_examples_are_encoded_as_published(published_tokenizer, index):
    recorded = RECORDED["refcoco_dataset"]["examples"][index]
    image = RECORDED["images"][index]
    height, width = image["size_hw"]
    expression = published_tokenizer.decode(recorded["source"]).split('"')[1]
    row = make_row(expression.strip(), ",".join(map(str, image["box"])), width, height)
    sample = RefCOCO.build(tokenizer=published_tokenizer, image_size=64, max_image_size=64).encode(row, RNG, True)
    assert sample.source == recorded["source"]
    assert sample.target == recorded["target"]
    assert sample.truth.box == pytest.approx(recorded["region_coord"], abs=1e-4)
    assert (64 / sample.truth.width, 64 / sample.truth.height) == pytest.approx(
        (recorded["w_resize_ratio"], recorded["h_resize_ratio"]), abs=1e-4
    )


def test_a_row_becomes_prompt_bins_image_and_truth(task):
    sample = task.encode(make_row(), RNG, True)
    assert sample.id == "r7"
    assert task.processor.tokenizer.decode(sample.source) == PROMPT.format("the red circle")
    assert task.processor.tokenizer.decode(sample.target) == "<bin_111><bin_83><bin_333><bin_583>"
    assert sample.source[0] == BOS and sample.source[-1] == sample.target[-1] == EOS
    assert sample.image.shape == (3, 64, 64)
    assert sample.truth == Region((10.0, 5.0, 30.0, 35.0), 90, 60, "the red circle")
    assert sample.notes == ()


def test_a_generated_box_comes_back_in_pixels_of_the_original_image(task):
    sample = task.encode(make_row(), RNG, True)
    prediction = task.decode(hypothesis(111, 83, 333, 583), sample.truth)
    assert prediction.score == -0.25
    assert prediction.box == pytest.approx(sample.truth.box, abs=0.05)


def test_the_right_box_scores_one_and_a_wrong_one_zero(task):
    truth = Region((0.0, 0.0, 10.0, 10.0), 90, 60, "it")
    metric = task.metric()
    task.score(metric, BoxPrediction((0.0, 0.0, 10.0, 10.0), 0.0), truth)
    task.score(metric, BoxPrediction((20.0, 20.0, 30.0, 30.0), 0.0), truth)
    assert metric.compute()[task.monitor] == 0.5


def test_tokens_that_are_not_a_box_are_refused_with_the_options_to_use(task):
    truth = task.encode(make_row(), RNG, True).truth
    for tokens in ([EOS], [BIN_OFFSET] * 3 + [EOS], [BIN_OFFSET] * 3 + [5, EOS]):
        with pytest.raises(UserError, match="max_len and min_len 4"):
            task.decode(Hypothesis(tokens=tokens, score=0.0, token_scores=[0.0] * len(tokens)), truth)


def test_generation_writes_exactly_four_bins(task):
    options = task.processor.generation
    assert (options.beam_size, options.min_len, options.max_len, options.constraint_range) == (5, 4, 4, BINS)


def test_a_box_over_the_edge_is_clipped_and_noted(task):
    sample = task.encode(make_row(box="-5,5,30,100"), RNG, True)
    assert (sample.truth.box, sample.notes) == ((0.0, 5.0, 30.0, 60.0), (CLIPPED,))


def test_an_expression_of_too_many_words_and_a_prompt_of_too_many_tokens_are_cut_and_noted(task):
    sample = task.encode(make_row(text="very " * 100 + "red"), RNG, True)
    assert task.processor.tokenizer.decode(sample.source) == PROMPT.format(" ".join(["very"] * 80))
    assert sample.notes == ("text cut to 80 words",)
    task = RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=64, max_image_size=64, max_source_tokens=12)
    sample = task.encode(make_row(), RNG, True)
    assert (len(sample.source), sample.source[0], sample.source[-1]) == (12, BOS, EOS)
    assert sample.notes == ("prompt cut to 12 tokens",)


def test_image_size_and_max_image_size_must_agree():
    with pytest.raises(UserError, match="^image_size is 64 but max_image_size is 512"):
        RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=64)


def test_a_drawn_answer_shows_the_true_box_in_green_and_the_predicted_one_in_red(task):
    sample = task.encode(make_row(), RNG, True)
    picture = task.draw(sample.image, BoxPrediction((60.0, 50.0, 40.0, 20.0), 0.0), sample.truth)
    colours = {colour for _, colour in picture.getcolors(maxcolors=1 << 16)}
    assert {(0, 255, 0), (255, 0, 0), (255, 165, 0)} <= colours
    empty = task.draw(torch.zeros(3, 64, 64), BoxPrediction((0.0, 0.0, 0.0, 0.0), 0.0), sample.truth)
    assert empty.size == picture.size


def test_refcocog_differs_only_in_its_splits():
    assert (RefCOCO.splits, RefCOCOg.splits) == (("val", "testA", "testB"), ("val", "test"))


def loader(path, **options):
    task = RefCOCO.build(tokenizer=Tokenizer.demo(), image_size=32, max_image_size=32, max_words=3)
    files = {"train": path, "val": path}
    sizes = {"batch_size": 2, "eval_batch_size": 2, "num_workers": 1}
    data = OFADataModule(TSVSource(files, task.columns, task.n_columns), task.columns, task.encode, **sizes, **options)
    return data.dataloader("val")


@pytest.fixture
def write(tmp_path):
    """Writes six sound rows, the fourth changed by a function of its cells, and returns the file's path."""

    def write(change):
        rng = np.random.default_rng(0)
        rows = [refcoco_line(rng, f"r{i}").split("\t") for i in range(6)]
        rows[3] = change(rows[3])
        path = tmp_path / "rows.tsv"
        path.write_text("\n".join("\t".join(row) for row in rows))
        return path

    return write


BROKEN = {
    "a column too few": (lambda c: c[:4], "the row has 4 columns, this format has 5"),
    "no base64": (lambda c: [*c[:4], "%%%%"], "base64"),
    "a truncated JPEG": (lambda c: [*c[:4], c[4][:400]], "does not decode"),
    "no image": (lambda c: [*c[:4], "aGVsbG8gd29ybGQh"], "image"),
    "a box of three numbers": (lambda c: [*c[:3], "1,2,3", c[4]], "1,2,3"),
    "a box of words": (lambda c: [*c[:3], "1,2,x,4", c[4]], "1,2,x,4"),
    "a box without area": (lambda c: [*c[:3], "9,2,9,4", c[4]], "area"),
    "a box outside the image": (lambda c: [*c[:3], "500,500,600,600", c[4]], "outside"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_one_line_with_file_and_line_or_is_skipped_and_noted(write, change, message):
    path = write(change)
    with pytest.raises(RowError, match=message) as error:
        list(loader(path))
    assert str(error.value).startswith("line 4 of ") and "rows.tsv" in str(error.value)
    assert "\n" not in str(error.value)
    batches = list(loader(path, on_error="skip"))
    assert [name for batch in batches for name in batch.ids] == ["r0", "r1", "r2", "r4", "r5"]
    notes = [note for batch in batches for note in batch.notes]
    assert len(notes) == 1 and notes[0].startswith("skipped line 4 of ")


def test_repairs_are_noted_and_the_row_is_kept(write):
    batches = list(loader(write(lambda c: [*c[:2], "one two three four", "5,5,5000,50", c[4]])))
    assert sorted(note for batch in batches for note in batch.notes) == [
        "box clipped to the image",
        "text cut to 3 words",
    ]


def test_a_misspelt_on_error_is_refused(write):
    with pytest.raises(UserError, match="data.on_error=skp is neither stop nor skip"):
        loader(write(lambda c: c), on_error="skp")
