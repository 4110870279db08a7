from dataclasses import asdict

import pytest
import torch

from ofa import OFAConfig, OFAModel, load, pipeline
from ofa.checkpoint import TaskSettings, load_weights, read_task
from ofa.errors import UserError
from ofa.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model():
    return OFAModel(OFAConfig.from_name("micro"))


@pytest.fixture
def run(model, tmp_path):
    """A run folder with what train.py writes into one."""
    (tmp_path / "checkpoints").mkdir()
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint = {"state_dict": state, "hyper_parameters": {"model": model.config.to_dict()}, "global_step": 3}
    torch.save(checkpoint, tmp_path / "checkpoints/best.ckpt")
    Tokenizer.demo().save(tmp_path / "tokenizer")
    return tmp_path


@pytest.mark.parametrize("path", [".", "checkpoints/best.ckpt"])
def test_the_model_and_tokenizer_of_a_run_are_loaded_from_folder_or_file(run, model, path):
    state = torch.get_rng_state()
    loaded, tokenizer = load(run / path)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.config == model.config and not loaded.training
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert tokenizer.encode("the red circle") == Tokenizer.demo().encode("the red circle")


def test_a_checkpoint_has_its_task_settings_and_one_of_earlier_versions_is_refused(run):
    file = run / "checkpoints/best.ckpt"
    content = torch.load(file)
    with pytest.raises(UserError, match=r"best.ckpt .* does not contain its task settings; give the folder model/"):
        pipeline("visual-question-answering", run)
    task = TaskSettings("visual-question-answering", {"image_size": 48, "mean": (0.1, 0.2, 0.3)}, answers=("yes", "no"))
    content["hyper_parameters"]["task"] = asdict(task)
    torch.save(content, file)
    assert read_task(run) == read_task(file) == task
    processor = pipeline("visual-question-answering", file).processor
    assert (processor.image_size, processor.answers) == (48, ("yes", "no"))
    content["hyper_parameters"]["task"] = {"colour": "red"}
    torch.save(content, file)
    with pytest.raises(UserError, match=r"best.ckpt does not describe a task \(.*colour"):
        read_task(file)


def test_weights_of_another_size_are_refused_by_the_first_that_differs(run):
    for change, message in (
        ({"d_model": 128}, r"best.ckpt holds a model of another size: encoder.embed_tokens.weight is"),
        ({"encoder_layers": 3}, r"it lacks encoder.token_rel_pos_table_list.2.weight, .* 20 more; set"),
        ({"encoder_layers": 1}, r"another size: it has encoder.* 20 more, which the model does not have"),
    ):
        with pytest.raises(UserError, match=message):
            load_weights(OFAModel(OFAConfig.from_name("micro", **change)), run)


def test_files_without_weights_are_named(model, tmp_path):
    (tmp_path / "empty").mkdir()
    torch.save({"epoch": 3}, tmp_path / "other.ckpt")
    for name, message in (
        ("nowhere", "nowhere does not exist"),
        ("empty", "holds no checkpoints/best.ckpt"),
        ("other.ckpt", "other.ckpt holds no weights"),
    ):
        with pytest.raises(UserError, match=message):
            load_weights(model, tmp_path / name)
