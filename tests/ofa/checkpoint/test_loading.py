"""Weights that fit a model only in part, or not at all."""

import json

import pytest
import torch
from helpers import published
from helpers.golden import TIED

from ofa import pipeline
from ofa.checkpoint import check_vocabulary, convert, load_model, load_weights, read_config
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer

WIDTH = 32
TIED_TRIPLE = ("encoder.embed_tokens.weight", *TIED)


def save(state, file, **options):
    config = published.small_config()
    torch.save({"args": published.options(config, **options), "model": state}, file)
    return file


def test_a_larger_vocabulary_gets_new_rows_at_its_end(model, tmp_path):
    state = published.fairseq_state(model)
    for name in TIED_TRIPLE:
        state[name] = state[name][:58457]  # before the bins were added
    file = save(state, tmp_path / "older.pt", vocab_size=59457)
    random_state = torch.get_rng_state()
    embedding = load_model(file).encoder.embed_tokens.weight.detach()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(embedding[:58457], model.encoder.embed_tokens.weight[:58457]) and len(embedding) == 59457
    assert embedding[58457:].std().item() == pytest.approx(WIDTH**-0.5, rel=0.02)
    other = OFAModel(published.small_config())
    load_weights(other, save(state, tmp_path / "unsized.pt"))  # without a vocabulary size
    assert torch.equal(other.encoder.embed_tokens.weight, embedding)
    assert read_config(tmp_path / "unsized.pt").vocab_size == 59457
    assert torch.equal(load_model(tmp_path / "unsized.pt").encoder.embed_tokens.weight, embedding)


@pytest.mark.parametrize("option", [{"num_bins": 32}, {"code_dict_size": 64}])
def test_ids_with_other_meanings_can_be_loaded_but_not_used(model, option, tmp_path):
    state = published.fairseq_state(model)
    for name in TIED_TRIPLE:
        state[name] = state[name][:50361]
    file = save(state, tmp_path / "odd.pt", num_bins=1000, code_dict_size=8192)
    check_vocabulary(file, Tokenizer.demo())
    file = save(state, tmp_path / "odd.pt", **option)
    assert load_model(file).config.vocab_size == 50361
    (name,) = option
    Tokenizer.demo().save(tmp_path / "vocabulary")
    for use in (
        lambda: check_vocabulary(file, Tokenizer.demo()),
        lambda: pipeline("visual-grounding", file, tokenizer=tmp_path / "vocabulary"),
        lambda: convert(str(file), str(tmp_path / "out"), tokenizer=str(tmp_path / "vocabulary")),
    ):
        with pytest.raises(UserError, match=f"odd.pt was trained with {name}=.*, so that its ids have other meanings"):
            use()


def test_more_ids_than_the_model_has_are_refused(model, tmp_path):
    file = published.write_bare(model, tmp_path / "large.bin")
    with pytest.raises(UserError, match="encoder.embed_tokens.weight has 59457 ids, the model has 50265; set model="):
        load_weights(OFAModel(published.small_config(vocab_size=50265)), file)
    file = save(published.fairseq_state(model), tmp_path / "large.pt", vocab_size=50265)
    with pytest.raises(UserError, match="large.pt has the setting vocab_size=50265, but .* has 59457 rows"):
        load_model(file)


@pytest.mark.parametrize("rows", [514, 2050])
def test_position_tables_of_another_length_are_copied_up_to_the_smaller(model, rows, tmp_path, caplog):
    state = published.fairseq_state(model)
    for stack in ("encoder", "decoder"):
        state[f"{stack}.embed_positions.weight"] = torch.arange(rows)[:, None].expand(rows, WIDTH).float()
    with caplog.at_level("INFO"):
        loaded = load_model(save(state, tmp_path / "positions.pt"))
    table, kept = loaded.decoder.embed_positions.weight, min(rows, 1026)
    assert table.shape == (1026, WIDTH) and torch.equal(table[:kept, 0], torch.arange(kept).float())
    assert table[kept:].abs().sum() > 0 or kept == 1026
    assert f"decoder.embed_positions.weight: {kept} of {rows} rows are used, {1026 - kept} are new" in caplog.text


def test_missing_and_unexpected_entries_are_listed(model, tmp_path):
    state = published.fairseq_state(model)
    for i in range(2):
        del state[f"encoder.layers.{i}.fc2.bias"]
    state |= {f"decoder.adapter.{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(UserError) as error:
        load_model(save(state, tmp_path / "mixed.pt"))
    assert "it lacks encoder.layers.0.fc2.bias, encoder.layers.1.fc2.bias;" in str(error.value)
    assert "it has decoder.adapter.0, decoder.adapter.1, decoder.adapter.2 and 2 more" in str(error.value)
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="other.bin does not hold the weights of an OFA model: it lacks encoder.embed"):
        load_model(tmp_path / "other.bin")


def test_counters_of_frozen_batch_norms_may_be_missing(model, tmp_path):
    state = {name: t for name, t in published.fairseq_state(model).items() if "num_batches_tracked" not in name}
    assert load_model(save(state, tmp_path / "frozen.pt")).encoder.embed_images.bn1.num_batches_tracked == 0


def test_a_backbone_of_unknown_depth_is_named(model, tmp_path):
    state = published.fairseq_state(model)
    first = "encoder.embed_images.layer1.0."
    state |= {n.replace("layer1.0", "layer1.1"): t for n, t in state.items() if n.startswith(first)}
    with pytest.raises(UserError, match="unknown image backbone of 2, 1, 1 blocks .*resnet101 3, 4, 23"):
        read_config(save(state, tmp_path / "deep.pt"))


def test_a_small_backbone_has_another_name_in_the_original_trainer(tmp_path):
    model = OFAModel(published.small_config(resnet_type="resnet26"))
    file = save(published.fairseq_state(model), tmp_path / "small.pt", resnet_type="resnet18")
    assert read_config(file).resnet_type == "resnet26"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder_attention_heads": 8}, "has the setting encoder_attention_heads=8, but weights of .*=4"),
        ({"encoder_layers": 3}, "has the setting encoder_layers=3, but weights of encoder_layers=2"),
        ({"d_model": "wide"}, "has d_model='wide', which is not of type int"),
        ({"dropout": 1.5}, r"does not describe an OFA model: dropout=1.5 is not in \[0, 1\)"),
        ({"entangle_position_embedding": True}, "entangle_position_embedding=True, which is not supported"),
        ({"normformer": False}, "normformer=False, which is not supported"),
    ],
)
def test_an_invalid_configuration_is_refused(model, change, message, tmp_path):
    folder = published.write_folder(model, tmp_path / "folder")
    (folder / "config.json").write_text(json.dumps(published.hf_config(model.config) | change))
    with pytest.raises(UserError, match=message):
        load_model(folder)


def test_a_separate_output_matrix_is_refused(model, tmp_path):
    state = published.fairseq_state(model)
    state["decoder.output_projection.weight"] = torch.ones(59457, WIDTH)
    with pytest.raises(UserError, match="own.pt holds a model with a separate output matrix"):
        load_model(save(state, tmp_path / "own.pt"))
