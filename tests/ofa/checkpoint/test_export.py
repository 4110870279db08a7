"""Export folders and task settings."""

import json
import pickle

import pytest
import torch
from helpers import published
from helpers.golden import TIED
from safetensors import safe_open

from ofa.checkpoint import TaskSettings, exporting, load, load_model, read_task
from ofa.checkpoint.task_settings import NEGATED_PREFIX_COUNTS, PLANNED, from_fairseq
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.processors import PROCESSORS
from ofa.tokenizer import Tokenizer

TASK = TaskSettings(
    "visual-question-answering", {"image_size": 480, "prompt_type": "prev_output"}, {"beam_size": 3}, ("yes", "naïve")
)


@pytest.fixture(scope="module")
def model():
    return OFAModel(published.small_config(dropout=0.2, image_bucket_size=42))


@pytest.fixture
def folder(model, tmp_path):
    exporting.export(tmp_path / "run/model", model, Tokenizer.demo(), TASK)
    return tmp_path / "run/model"


def change_task(folder, change):
    """Changes fields of task.json."""
    file = folder / "task.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def modelscope_folder(folder, task, model):
    (folder / "config.json").write_text("{}")
    (folder / "configuration.json").write_text(json.dumps({"task": task, "model": model}))
    return folder


def test_a_model_comes_back_bit_for_bit(model, folder, tmp_path):
    loaded, tokenizer = load(folder)
    assert read_task(folder) == read_task(folder.parent) == TASK
    assert loaded.config == model.config and tokenizer.digest() == Tokenizer.demo().digest()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    exporting.export(tmp_path / "again", loaded, tokenizer, read_task(folder))
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "merges.txt", "model.safetensors", "task.json", "vocab.json"
    ]  # fmt: skip
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_tables_and_tied_matrices_are_not_written_and_config_json_equals_the_published_one(model, folder, tmp_path):
    published_file = published.write_bare(model, tmp_path / "pytorch_model.bin")
    assert published_file.stat().st_size - (folder / "model.safetensors").stat().st_size > 50e6
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == model.state_dict().keys() - set(TIED)
    config = json.loads((folder / "config.json").read_text())
    expected = published.hf_config(model.config)
    assert {key: config.get(key) for key in expected} == expected | {"use_cache": None}
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    assert ids.items() <= config.items()


def test_an_export_in_half_precision_loads_as_float32(model, tmp_path):
    halved = load_model(published.write_bare(model, tmp_path / "weights.bin")).half()
    exporting.export(tmp_path / "half", halved, Tokenizer.demo(), None)
    weights = load_model(tmp_path / "half").decoder.layers[0].fc1.weight
    assert torch.equal(weights, model.decoder.layers[0].fc1.weight.half().float())
    assert not (tmp_path / "half/task.json").exists() and read_task(tmp_path / "half") is None


@pytest.mark.parametrize("n_written", [0, 3])
def test_an_export_to_a_full_disk_leaves_the_old_model(model, folder, n_written, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    left = [None] * n_written

    def fill(_):
        if not left:
            raise OSError(28, "No space left on device")
        left.pop()

    monkeypatch.setattr(exporting.os, "fsync", fill)
    with pytest.raises(UserError, match="model cannot be written .*No space left"):
        exporting.export(folder, model, Tokenizer.demo(), None)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"pipeline": "image-captoning"},
            ": no processor .* did you mean 'image-captioning'.*; import the module",
        ),
        ({"generation": {"beams": 5}}, " .*generation has no option 'beams'; did you mean 'beam_size'"),
        ({"colour": 1}, " .*colour"),
        ({"settings": [1]}, r" .*settings=\[1\] does not map names to values"),
        ({"answers": "yes"}, " .*answers='yes'"),
        ({"answers": ["a", "a"]}, " .*the answer 'a' twice"),
        ({"answers": [5]}, " .*no answers"),
        ({"answers": []}, " .*it is empty"),
    ],
)
def test_an_invalid_task_is_refused(folder, change, message):
    change_task(folder, change)
    with pytest.raises(UserError, match=f"task.json{message}"):
        read_task(folder)


@pytest.mark.parametrize(
    "model, message",
    [
        ({"beam_search": [1]}, r"has beam_search=\[1\], which does not map options to values"),
        ({"beam_search": {"beam_size": "five"}}, "has an option of beam_search that is not a number: .*five"),
        ({"answer2label": "answers.json"}, "answers.json holds no answers"),
        ({"answer2label": "answers.pkl"}, "answers.pkl holds no answers"),
    ],
)
def test_an_invalid_description_is_refused(model, message, tmp_path):
    (tmp_path / "answers.json").write_text('{"yes": 0, "no": true}')
    (tmp_path / "answers.pkl").write_bytes(pickle.dumps({"yes": 0, "no": True}))
    with pytest.raises(UserError, match=message):
        read_task(modelscope_folder(tmp_path, "visual-question-answering", model))


@pytest.mark.parametrize("imagenet", [True, False])
def test_each_option_of_modelscope_has_its_meaning(imagenet, tmp_path):
    beam = {
        "beam_size": "3", "max_len_b": 9.0, "min_len": 2, "no_repeat_ngram_size": 4, "lenpen": 0.5, "temperature": 2,
        "unnormalized": True,
    }  # fmt: skip
    expected = {
        "beam_size": 3, "max_len": 9, "min_len": 2, "no_repeat_ngram_size": 4, "length_penalty": 0.5,
        "temperature": 2.0, "normalize_scores": False,
    }  # fmt: skip
    model = {
        "beam_search": beam, "patch_image_size": 64, "max_image_size": 65, "max_src_length": 66, "prompt_type": "src",
        "use_caption": False, "imagenet_default_mean_and_std": imagenet,
    }  # fmt: skip
    task = read_task(modelscope_folder(tmp_path, "visual-entailment", model))
    assert task.generation == expected
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if imagenet else ([0.5] * 3, [0.5] * 3)
    assert task.settings == {
        "image_size": 64, "max_image_size": 65, "max_words": 66, "prompt_type": "src", "use_caption": False,
        "mean": mean, "std": std,
    }  # fmt: skip
    others = {"len_penalty": 0.25, "normalize_scores": True, "min_len_b": 1}
    modelscope_folder(tmp_path, "visual-entailment", {"beam_search": others})
    assert read_task(tmp_path).generation == {"length_penalty": 0.25, "normalize_scores": True, "min_len": 1}


@pytest.mark.parametrize(
    "task, model, warning",
    [
        ("image-captioning", {"prompt": " what does the image describe?", "language": "en"}, None),
        ("visual-grounding", {"prompt": ' which region does the text " {} " describe?'}, None),
        ("image-captioning", {"prompt": "what is it?"}, "prompt='what is it?', which is not used"),
        ("image-captioning", {"language": "zh"}, "has language 'zh'"),
    ],
)
def test_another_prompt_or_language_is_a_warning(task, model, warning, tmp_path, caplog):
    assert read_task(modelscope_folder(tmp_path, task, model)).pipeline == task
    assert warning in caplog.text if warning else not caplog.text


@pytest.mark.parametrize(
    "name, options, expected",
    [
        ("caption", {}, {}),
        ("refcoco", {"max_image_size": 64}, {"max_image_size": 64}),
        ("snli_ve", {"prompt_type": "none", "add_caption": False}, {"prompt_type": "none", "use_caption": False}),
        (
            "vqa_gen",
            {"prompt_type": "src", "add_object": False, "max_object_length": 7, "unconstrained_training": False},
            {"prompt_type": "src", "use_objects": False, "max_objects": 7},
        ),
        ("vqa_gen", {"unconstrained_training": True}, {"constrained": False, "inference": "beam_search"}),
    ],
)
def test_each_option_of_the_original_trainer_has_its_meaning(name, options, expected):
    task = from_fairseq(name, {"patch_image_size": 32, "lr": [0.1], **options})
    assert task.settings == {"image_size": 32, **expected}
    if name != "caption":
        assert from_fairseq(name, {"max_src_length": 9}).settings == {"max_words": 9}
    statistics = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    assert from_fairseq(name, {"imagenet_default_mean_and_std": True}).settings == statistics


def test_the_description_of_a_modelscope_folder_is_a_task(tmp_path, caplog):
    beam = {"beam_size": 5, "max_len_b": 16, "min_len_b": 1, "no_repeat_ngram_size": 3, "sampling": False}
    model = {
        "type": "ofa", "beam_search": beam, "seed": 7, "max_src_length": 80, "language": "en", "gen_type": "traverse",
        "patch_image_size": 480, "max_image_size": 512, "imagenet_default_mean_and_std": True, "prompt": " what?",
        "answer2label": "answer2label.json",
    }  # fmt: skip
    (tmp_path / "answer2label.json").write_text(json.dumps({"no": 1, "yes": 0}))
    with caplog.at_level("INFO"):
        task = read_task(modelscope_folder(tmp_path, "visual-question-answering", model))
    assert task.pipeline == "visual-question-answering" and task.answers == ("yes", "no")
    assert task.generation == {"beam_size": 5, "max_len": 16, "min_len": 1, "no_repeat_ngram_size": 3}
    statistics = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    sizes = {"image_size": 480, "max_image_size": 512, "max_words": 80}
    assert task.settings == {**sizes, **statistics, "inference": "all_candidates"}
    assert "not used: beam_search.sampling=False" in caplog.text
    assert "has prompt='what?', which is not used: visual-question-answering has a" in caplog.text
    assert "language" not in caplog.text
    (tmp_path / "answer2label.json").unlink()
    with pytest.raises(UserError, match="names the answers 'answer2label.json', which is not a file next to it"):
        read_task(tmp_path)


@pytest.mark.parametrize("theirs, ours", [("ocr-recognition", "ocr"), ("text-to-image-synthesis", "text-to-image")])
def test_tasks_of_modelscope_have_pipelines_and_others_are_none(theirs, ours, tmp_path, caplog):
    assert read_task(modelscope_folder(tmp_path, theirs, {})) == TaskSettings(ours)
    assert ours in (*PROCESSORS, *PLANNED)
    with caplog.at_level("INFO"):
        assert read_task(modelscope_folder(tmp_path, "sudoku", {})) is None
    assert "there is no pipeline for sudoku" in caplog.text


@pytest.mark.parametrize("stored", [True, False])
def test_an_option_under_the_name_of_an_earlier_version_has_its_meaning(stored, folder):
    change_task(folder, {"generation": {"beam_size": 3, NEGATED_PREFIX_COUNTS: stored}})
    assert read_task(folder).generation == {"beam_size": 3, "prefix_counts_toward_max_len": not stored}
