import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers.published import options, write_nested
from omegaconf import ListConfig
from PIL import Image

from ofa import OFAConfig, OFAModel, generate, pipeline
from ofa.checkpoint import TaskSettings, export, load_model
from ofa.errors import UserError
from ofa.generation import Hypothesis
from ofa.inputs import InputError
from ofa.padding import pad
from ofa.processors import PROCESSORS, GroundingProcessor
from ofa.processors.settings import from_task_settings, to_task_settings
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BIN_OFFSET

SIZE = {"image_size": 32}
SETTINGS = dict.fromkeys(PROCESSORS, SIZE) | {"visual-grounding": {**SIZE, "max_image_size": 32}}
TEXTS = {
    "image-captioning": {},
    "visual-grounding": {"text": "the red circle"},
    "visual-entailment": {"text": "there is a circle", "caption": "a red circle"},
    "visual-question-answering": {"text": "what color is the circle?"},
}
ANSWERS = ("red", "blue", "two", "yes")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of a small model for each pipeline."""
    torch.manual_seed(0)
    model = OFAModel(OFAConfig.from_name("micro", init_std=0.3)).eval()
    folder = tmp_path_factory.mktemp("models")
    for name, settings in SETTINGS.items():
        answers = ANSWERS if name == "visual-question-answering" else None
        export(folder / name, model, Tokenizer.demo(), TaskSettings(name, settings, answers=answers))
    return folder


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for h, w in ((40, 90), (70, 30), (33, 32))]


def agree(first, second):
    """Whether two answers say the same, their numbers up to rounding."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(agree(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return all(map(agree, first, second))
    return first == (second if isinstance(first, str) else pytest.approx(second, abs=1e-4))


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_batch_is_answered_as_one_by_one_and_in_bfloat16(name, models, photos):
    pipe = pipeline(name, models / name, device="cpu", batch_size=2)
    answers = pipe(photos, **TEXTS[name])
    for photo, answer in zip(photos, answers, strict=True):
        assert agree(answer, pipe(photo, **TEXTS[name]))
    half = pipeline(name, models / name, device="cpu", dtype=torch.bfloat16)
    assert next(half.model.parameters()).dtype == torch.bfloat16
    assert half(photos[0], **TEXTS[name]).keys() == answers[0].keys()


def test_a_caption_is_what_beam_search_finds(models, photos):
    pipe = pipeline("image-captioning", models / "image-captioning")
    source, images = pad([pipe.processor.build_prompt().source]), pipe.processor.pixels(photos[0])[None]
    best = generate(pipe.model, {"input_ids": source, "patch_images": images}, pipe.options)[0][0]
    answer = pipe(photos[0])
    assert answer["text"] == pipe.processor.postprocess(best) and answer["score"] == pytest.approx(np.exp(best.score))


def test_a_box_is_in_pixels_of_the_image_as_it_was_given(models, photos, monkeypatch):
    pipe = pipeline("visual-grounding", models / "visual-grounding")
    bins = [111, 222, 888, 999]
    found = Hypothesis([BIN_OFFSET + b for b in bins] + [2], -0.5, [-0.1] * 5)
    monkeypatch.setattr(GroundingProcessor, "generate", lambda *_: [[found]] * 3)
    for photo, answer in zip(photos, pipe(photos, "the red circle"), strict=True):
        w, h = photo.size
        expected = [w * 111 / 999, h * 222 / 999, w * 888 / 999, h]
        assert answer == {"boxes": [pytest.approx(expected, rel=1e-5)], "scores": [pytest.approx(np.exp(-0.5))]}


def test_entailment_gives_the_probability_of_each_label(models, photos):
    answer = pipeline("visual-entailment", models / "visual-entailment")(photos[0], **TEXTS["visual-entailment"])
    assert answer["labels"].keys() == {"entailment", "neutral", "contradiction"}
    assert sum(answer["labels"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["score"] == answer["labels"][answer["label"]] == max(answer["labels"].values())


def test_questions_are_answered_out_of_the_list_or_unlisted(models, photos, caplog):
    name = "visual-question-answering"
    answer = pipeline(name, models / name)(photos[0], "what color is the circle?")
    assert answer["answers"].keys() == set(ANSWERS) and sum(answer["answers"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["text"] in ANSWERS and answer["score"] == max(answer["answers"].values())
    unlisted = pipeline(name, models / "image-captioning")  # made for another task: the published settings are used
    assert "was made for image-captioning" in caplog.text
    assert unlisted.processor.tree is None and unlisted.processor.image_size == 480
    assert isinstance(unlisted(photos[0], "what color is the circle?")["text"], str)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_pipeline_takes_the_texts_that_its_processor_names(name, models, photos):
    pipe = pipeline(name, models / name)
    assert agree(pipe(photos[0], *TEXTS[name].values()), pipe(image=photos[0], **TEXTS[name]))
    with pytest.raises(TypeError, match="unexpected keyword argument 'question'"):
        pipe(photos[0], **TEXTS[name], question="what?")
    for text in (text for text, is_required in PROCESSORS[name].text_inputs.items() if is_required):
        with pytest.raises(TypeError, match=f"missing a required argument: '{text}'"):
            pipe(photos[0], **{other: TEXTS[name][other] for other in TEXTS[name] if other != text})


def test_one_image_may_have_many_texts_and_of_several_items_the_one_at_fault_is_named(models, photos):
    pipe = pipeline("visual-grounding", models / "visual-grounding")
    texts = ["the red circle", "the blue square"]
    assert all(map(agree, pipe(photos[0], texts), [pipe(photos[0], text) for text in texts]))
    with pytest.raises(InputError, match="lists of 2 and 3 items"):
        pipe(photos, texts)
    assert pipe([], "the red circle") == []
    with pytest.raises(InputError, match="item 2 of 3: an array of int64 is not an image"):
        pipe([photos[0], np.zeros((2, 2), np.int64), photos[1]], "the red circle")
    with pytest.raises(InputError, match="item 3 of 3: the text is empty"):
        pipe(photos, ["a circle", "a square", " "])
    with pytest.raises(InputError, match="^the text is empty"):
        pipe(photos[:1], [" "])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"text": "a circle"}, "give caption="),
        ({"text": "  ", "caption": "a circle"}, "the hypothesis is empty"),
        ({"text": 3, "caption": "a circle"}, "text has to be a string, not a int"),
    ],
)
def test_texts_without_a_prompt_are_refused(models, photos, texts, message):
    with pytest.raises(InputError, match=message):
        pipeline("visual-entailment", models / "visual-entailment")(photos[0], **texts)


def test_a_caption_is_refused_by_a_model_that_reads_none(models, photos, tmp_path):
    pipe = pipeline("visual-entailment", models / "visual-entailment")
    settings = TaskSettings("visual-entailment", {**SIZE, "use_caption": False})
    export(tmp_path, pipe.model, Tokenizer.demo(), settings)
    without = pipeline("visual-entailment", tmp_path)
    assert without(photos[0], "there is a circle")["label"]
    with pytest.raises(InputError, match="leave caption out"):
        without(photos[0], "there is a circle", "a circle")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("text-to-image", {}, "the pipeline text-to-image is not there yet"),
        ("image-captionin", {}, "did you mean 'image-captioning'"),
        ("image-captioning", {"dtype": torch.int8}, "float32 or torch.bfloat16"),
        ("image-captioning", {"batch_size": 0}, "batch_size=0"),
        ("image-captioning", {"batch_size": 2.5}, "batch_size=2.5"),
        ("image-captioning", {"device": "gpu"}, "device=gpu cannot be used .*; give cpu, cuda or a GPU"),
        ("image-captioning", {"device": "cuda:99"}, "device=cuda:99 cannot be used .*; give cpu, cuda or a GPU"),
        ("image-captioning", {"device": "meta:x"}, "device=meta:x cannot be used .*; give cpu, cuda or a GPU"),
    ],
)
def test_settings_that_cannot_work_are_refused(models, name, settings, message):
    with pytest.raises(UserError, match=message):
        pipeline(name, models / "image-captioning", **settings)


def test_images_larger_than_the_position_table_are_refused(tmp_path):
    model = OFAModel(OFAConfig.from_name("micro"))
    export(tmp_path, model, Tokenizer.demo(), TaskSettings("image-captioning", {"image_size": 688}))
    with pytest.raises(UserError, match="has positions for 672 px"):
        pipeline("image-captioning", tmp_path)


def test_a_list_of_answers_can_be_given_and_is_missed_where_there_is_none(models, photos, tmp_path, caplog):
    name = "visual-question-answering"
    network = load_model(models / name)
    cfg = {"model": options(network.config), "task": {"_name": "vqa_gen", "patch_image_size": 32}}
    file = write_nested(network, tmp_path / "vqa.pt", cfg=cfg)
    Tokenizer.demo().save(tmp_path)
    assert pipeline(name, file).processor.tree is None
    assert "vqa.pt has no list of answers with it, so any answer is possible; answers=FILE gives one" in caplog.text
    caplog.clear()
    (tmp_path / "answers.json").write_text(json.dumps({"blue": 1, "red": 0}))
    pipe = pipeline(name, file, answers=tmp_path / "answers.json")
    assert pipe.processor.scores_candidates and pipe.processor.image_size == 32
    assert pipe(photos[0], "what color is it?")["answers"].keys() == {"red", "blue"}
    cfg["task"]["unconstrained_training"] = True
    assert pipeline(name, write_nested(network, tmp_path / "open.pt", cfg=cfg)).processor.tree is None
    assert "no list of answers" not in caplog.text
    with pytest.raises(UserError, match="image-captioning has no list of answers"):
        pipeline("image-captioning", models / "image-captioning", answers=tmp_path / "answers.json")


def test_a_vocabulary_that_the_model_was_not_trained_with_is_refused(models, tmp_path):
    other = json.loads((models / "image-captioning/vocab.json").read_text())
    first, second = list(other)[10:12]
    other[first], other[second] = other[second], other[first]
    (tmp_path / "vocab.json").write_text(json.dumps(other))
    (tmp_path / "merges.txt").write_text((models / "image-captioning/merges.txt").read_text())
    with pytest.raises(UserError, match="image-captioning was trained with another vocabulary, .*; set tokenizer="):
        pipeline("image-captioning", models / "image-captioning", tokenizer=tmp_path)


def test_a_batch_that_does_not_fit_the_memory_is_halved(models, photos, monkeypatch):
    pipe = pipeline("visual-grounding", models / "visual-grounding")
    generate, sizes = GroundingProcessor.generate, []

    def limited(self, model, inputs, *rest):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("full")
        return generate(self, model, inputs, *rest)

    monkeypatch.setattr(GroundingProcessor, "generate", limited)
    assert len(pipe(photos, "the red circle")) == 3
    assert sizes == [3, 1, 1, 1]


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_is_the_same_after_it_was_kept(name, tmp_path):
    answers = {"answer_list": ANSWERS} if name == "visual-question-answering" else {}
    processor = PROCESSORS[name](tokenizer=Tokenizer.demo(), **SETTINGS[name], mean=(0.4, 0.5, 0.6), **answers)
    configured = dataclasses.replace(processor, mean=ListConfig([0.4, 0.5, 0.6]))
    task = to_task_settings(configured, processor.generation)
    (tmp_path / "task.json").write_text(task.to_json())
    again, options = from_task_settings(TaskSettings.from_json(tmp_path / "task.json"), processor.tokenizer, tmp_path)
    assert again == processor
    assert task.generation == {} and options.max_len == processor.generation.max_len


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"image_size": "48"}}, "image_size='48' is not of type int"),
        ({"settings": {"image_size": None}}, "image_size=None is not of type int"),
        ({"settings": {"image_size": True}}, "image_size=True is not of type int"),
        ({"settings": {"image_size": 8}}, "image_size=8 is less than one patch"),
        ({"settings": {"mean": 0.5}}, "mean=0.5 is not of type tuple"),
        ({"settings": {"mean": [0.5, 0.5]}}, "mean=.0.5, 0.5. is not of type tuple"),
        ({"settings": {"std": [0.5, 0, 0.5]}}, "std=.* has a value that is not above 0"),
        ({"settings": {"inference": ["beam_search"]}}, "inference=.* is not of type str"),
        ({"generation": {"beam_size": "five"}}, "beam_size='five' is not of type int"),
        ({"generation": {"temperature": "hot"}}, "temperature='hot' is not of type float"),
        ({"generation": {"constraint_range": [5]}}, "constraint_range="),
    ],
)
def test_kept_values_that_no_processor_can_have_are_named_with_their_model(change, message):
    task = TaskSettings(**{"pipeline": "visual-question-answering", "answers": ANSWERS, **change})
    with pytest.raises(UserError, match=f"the task settings of models/vqa cannot be used: .*{message}"):
        from_task_settings(task, Tokenizer.demo(), "models/vqa")


def test_changed_options_of_generation_are_kept():
    processor = PROCESSORS["image-captioning"](tokenizer=Tokenizer.demo())
    task = to_task_settings(processor, type(processor.generation)(beam_size=2, max_len=9, no_repeat_ngram_size=3))
    assert task.generation == {"beam_size": 2, "max_len": 9}
    assert from_task_settings(task, processor.tokenizer, "task.json")[1].beam_size == 2


def test_a_file_of_the_original_trainer_is_prompted_by_its_options(models, photos, tmp_path):
    model = load_model(models / "visual-grounding")
    task = {"patch_image_size": 64, "max_image_size": 64, "max_src_length": 3, "imagenet_default_mean_and_std": True}
    cfg = {"model": options(model.config), "task": {"_name": "refcoco", **task}}
    file = write_nested(model, tmp_path / "checkpoint_best.pt", cfg=cfg)
    Tokenizer.demo().save(tmp_path / "vocabulary")
    pipe = pipeline("visual-grounding", file, tokenizer=tmp_path / "vocabulary")
    asked = pipe.processor
    assert (asked.image_size, asked.max_image_size, asked.max_words) == (64, 64, 3)
    assert asked.mean == (0.485, 0.456, 0.406)
    assert asked.build_prompt("the very red circle").texts == ("the very red",)
    assert len(pipe(photos[0], "the red circle")["boxes"][0]) == 4
    with pytest.raises(UserError, match="there is no vocabulary with .*checkpoint_best.pt; set tokenizer="):
        pipeline("visual-grounding", file)
