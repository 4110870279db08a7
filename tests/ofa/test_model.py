import pytest
import torch
from helpers.models import micro_model, random_model

from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.model import OFAModel

# name: (parameters, of which backbone), from the model's specification
SIZES = {
    "tiny": (33_488_336, 8_543_296),
    "medium": (92_892_000, 27_535_424),
    "base": (182_238_536, 27_535_424),
    "large": (472_977_152, 43_179_072),
    "huge": (929_486_848, 43_179_072),
}
CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = OFAModel(OFAConfig.from_name(name))
    backbone = sum(p.numel() for p in model.encoder.embed_images.parameters())
    assert (sum(p.numel() for p in model.parameters()), backbone) == SIZES[name]


@pytest.fixture
def model():
    """A model with the published standard deviation, in place of the shared one, whose weights the tests may change."""
    return random_model(init_std=0.02)


@pytest.fixture
def batch(batch):
    return {**batch, "decoder_input_ids": torch.tensor([[0, 7, 8, 9], [0, 5, 1, 1], [0, 6, 7, 1]])}


@torch.no_grad()
def test_padding_and_images_of_other_samples_change_no_logits(model, batch):
    source, images, _, previous = batch.values()
    logits = model(**batch).logits
    padded = model(source[1:2, :4], images[1:2], None, previous[1:2, :2]).logits
    torch.testing.assert_close(logits[1, :2], padded[0], **CLOSE)
    without_image = model(source[2:, :3], decoder_input_ids=previous[2:, :3]).logits
    torch.testing.assert_close(logits[2, :3], without_image[0], **CLOSE)


@torch.no_grad()
def test_the_order_of_a_batch_and_attention_maps_change_no_logits(model, batch):
    order = torch.tensor([2, 0, 1])
    out, shuffled = model(**batch), model(**{name: tensor[order] for name, tensor in batch.items()}).logits
    torch.testing.assert_close(shuffled, out.logits[order], **CLOSE)
    assert out.encoder_hidden_states is out.decoder_hidden_states is out.encoder_attentions is None
    assert out.decoder_attentions is out.cross_attentions is None
    with_maps = model(**batch, output_attentions=True)
    torch.testing.assert_close(with_maps.logits, out.logits, **CLOSE)
    assert with_maps.cross_attentions[0].sum(-1).allclose(torch.ones(()))


def test_logits_of_allowed_ids_are_columns_of_all_logits(model):
    hidden, ids = torch.randn(2, 3, 64), torch.tensor([2, 58457, 59456])
    torch.testing.assert_close(model.logits(hidden, ids), model.logits(hidden)[..., ids])


@torch.no_grad()
def test_biases_cached_in_evaluation_fit_shorter_and_longer_texts_and_follow_new_weights(model, batch):
    short = {"input_ids": batch["input_ids"][:, :3], "patch_images": batch["patch_images"]}
    before = [model(**inputs).logits for inputs in (short, {**short, "input_ids": batch["input_ids"]}, short)]
    torch.testing.assert_close(before[0], before[2], **CLOSE)
    with torch.enable_grad():  # nothing is cached here
        torch.testing.assert_close(model(**short).logits, before[0], **CLOSE)
    model.encoder.embed_image_positions.weight.add_(torch.randn(1765, 64))
    after = model(**short).logits
    assert not torch.allclose(after, before[0], **CLOSE)
    model.load_state_dict(OFAModel(model.config).state_dict())
    with torch.enable_grad():
        fresh = model(**short).logits
    torch.testing.assert_close(model(**short).logits, fresh, **CLOSE)


@torch.no_grad()
def test_batch_norms_folded_in_evaluation_change_no_output_and_follow_new_statistics(model, batch):
    images = {"input_ids": batch["input_ids"], "patch_images": batch["patch_images"]}
    for statistic in (0.5, 2.0):
        for name, buffer in model.encoder.embed_images.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(statistic)
        folded = model(**images).logits
        with torch.enable_grad():  # nothing is folded here
            torch.testing.assert_close(folded, model(**images).logits, **CLOSE)


def test_weights_hold_each_tied_matrix_once_and_no_tables_of_integers(model):
    state = model.state_dict()
    assert state["decoder.output_projection.weight"].data_ptr() == state["encoder.embed_tokens.weight"].data_ptr()
    integers = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    assert all(name.endswith("num_batches_tracked") for name in integers)


def test_recomputing_activations_changes_no_gradient_and_no_running_statistics(model, batch):
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients, statistics = [], []
    for checkpointing in (False, True):
        model.set_gradient_checkpointing(checkpointing)
        model.load_state_dict(start)
        model.train().zero_grad()
        model(**batch).logits.logsumexp(-1).mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        statistics.append({n: b.clone() for n, b in model.named_buffers()})
    assert all(torch.equal(buffer, statistics[1][name]) for name, buffer in statistics[0].items())
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_drop_path_keeps_or_drops_whole_samples_and_its_rate_rises_with_depth():
    model = micro_model(encoder_drop_path_rate=0.6).train()
    assert [layer.residual.drop_path.drop_prob for layer in model.encoder.layers] == [0.0, 0.6]
    x, branch = torch.zeros(200, 3, 64), torch.ones(200, 3, 64)
    kept = model.encoder.layers[1].residual(x, branch)
    assert set(kept.flatten(1).amin(1).tolist()) == set(kept.flatten(1).amax(1).tolist()) == {0.0, 2.5}
    model = OFAModel(OFAConfig.from_name("tiny", resnet_drop_path_rate=0.3)).encoder.embed_images
    rates = [block.drop_path.drop_prob if block.drop_path else 0 for block in model.layer2]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@torch.no_grad()
def test_bfloat16_autocast_stays_close_to_float32(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        low = model(**batch).logits.float()
    high = model(**batch).logits
    valid = batch["decoder_input_ids"] != 1
    torch.testing.assert_close(low[valid], high[valid], rtol=0.1, atol=0.15)


@torch.no_grad()
def test_an_image_or_text_with_more_positions_than_the_model_is_refused(model):
    out = model(torch.tensor([[0, 2]]), torch.zeros(1, 3, 672, 32))
    assert out.encoder_last_hidden_state.shape == (1, 42 * 2 + 2, 64)
    with pytest.raises(UserError, match="at most 672 px per side"):
        model(torch.tensor([[0, 2]]), torch.zeros(1, 3, 688, 64))
    with pytest.raises(UserError, match="1025 tokens"):
        model(torch.full((1, 1025), 5))


def test_image_codes_have_positions_in_the_image():
    model = micro_model(code_image_size=32)
    source, codes = torch.tensor([[0, 5, 2]] * 2), torch.randint(50265, 58457, (2, 17))
    codes[:, 0] = 0
    with torch.no_grad():
        as_codes = model(source, decoder_input_ids=codes, code_masks=torch.tensor([True, True])).logits
        as_text = model(source, decoder_input_ids=codes).logits
        mixed = model(source, decoder_input_ids=codes, code_masks=torch.tensor([True, False])).logits
    torch.testing.assert_close(mixed[0], as_codes[0], **CLOSE)
    torch.testing.assert_close(mixed[1], as_text[1], **CLOSE)
    assert not torch.allclose(as_codes, as_text, **CLOSE)
    with pytest.raises(UserError, match="4 x 4"):
        model(source, decoder_input_ids=torch.zeros(2, 18, dtype=torch.long), code_masks=torch.tensor([True, True]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 66}, "encoder_attention_heads=4 does not divide d_model=66"),
        ({"decoder_layers": 0}, "decoder_layers=0 is not a whole number of at least 1"),
        ({"resnet_type": "resnet51"}, "resnet_type='resnet51' is not one of"),
        ({"dropout": 1.5}, r"dropout=1.5 is not in \[0, 1\)"),
        ({"droput": 0.1}, "did you mean 'dropout'"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        OFAConfig.from_name("micro", **changes)
    with pytest.raises(UserError, match="did you mean 'large'"):
        OFAConfig.from_name("lagre")
