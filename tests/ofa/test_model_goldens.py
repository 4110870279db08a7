"""The model's arithmetic equals the published model's, recorded with generated weights (tests/goldens/README.md)."""

import pytest
import torch
from helpers import golden
from helpers.golden import HF_COLUMNS


@pytest.fixture(scope="module", params=["hf_small", "hf_tiny"])
def hf_case(request):
    return golden.hf_case(request.param)


def test_a_forward_pass_equals_the_published_one_in_every_output(hf_case):
    model, _, a = hf_case
    with torch.no_grad():
        out = model(
            a["in/input_ids"], a["in/patch_images"], a["in/patch_masks"], a["in/prev"],
            output_hidden_states=True, output_attentions=True,
        )  # fmt: skip
    source = torch.cat([a["in/patch_masks"][:, None].expand(-1, 48), a["in/input_ids"] != 1], 1)
    target = a["in/prev"] != 1
    compare(out.encoder_last_hidden_state, a["out/encoder_last_hidden_state"], source)
    compare(out.logits[..., HF_COLUMNS], a["out/logits_cols"], target)
    compare(out.logits.logsumexp(-1), a["out/logits_logsumexp"], target)
    assert torch.equal(out.logits.argmax(-1)[target], a["out/logits_argmax"][target])
    heads = model.config.encoder_attention_heads
    for name, valid in {
        "encoder_hidden_states": source,
        "decoder_hidden_states": target,
        "encoder_attentions": source[:, None, :6].expand(-1, heads, -1),
        "decoder_attentions": target[:, None, :6].expand(-1, heads, -1),
        "cross_attentions": target[:, None, :6].expand(-1, heads, -1),
    }.items():
        states = getattr(out, name)
        assert f"out/{name}.{len(states)}" not in a
        for i, state in enumerate(states):
            compare(state, a[f"out/{name}.{i}"], valid)


def test_text_without_an_image_equals_the_published_forward_pass(hf_case):
    model, recorded, a = hf_case
    with torch.no_grad():
        out = model(a["in/input_ids"], decoder_input_ids=a["in/prev"])
    compare(out.logits[..., HF_COLUMNS], a["out/text_only_logits_cols"], a["in/prev"] != 1)
    assert sum(p.numel() for p in model.parameters()) == recorded["parameters"]


@pytest.fixture(scope="module", params=["brief", "strong"])
def fairseq_model(request):
    return request.param, golden.fairseq_model(request.param)


@pytest.mark.parametrize("case", ["main", "sq128", "text"])
def test_a_forward_pass_equals_that_of_the_original(fairseq_model, case):
    profile, model = fairseq_model
    columns = golden.load_json("fairseq_forward.json")["cols"]
    a = golden.load_tensors("fairseq_arrays.npz", f"{profile}/{case}/")
    inputs = {k.removeprefix("in/"): v for k, v in a.items() if k.startswith("in/")}
    images = golden.fairseq_images(case, inputs)
    source_ids, previous = inputs["src_tokens"].long(), inputs["prev_output_tokens"].long()
    masks = inputs.get("patch_masks")
    with torch.no_grad():
        out = model(source_ids, images, masks, previous, output_hidden_states=True, output_attentions=True)
    source = ~a["encoder_padding_mask"].bool()
    target = previous != 1
    width = a["encoder_out"].shape[-1]
    compare(out.encoder_last_hidden_state[..., :width], a["encoder_out"], source)
    for i, states in enumerate(out.encoder_hidden_states):
        compare(states, a[f"encoder_states16.{i}"], source)
    for i, states in enumerate(out.decoder_hidden_states):
        compare(states, a[f"decoder_states16.{i}"], target)
    compare(out.cross_attentions[-1].mean(1), a["cross_attn_mean_last_layer"], target)
    compare(out.logits[..., columns], a["logits_cols"], target)
    compare(out.logits.logsumexp(-1), a["logits_lse"], target)
    assert torch.equal(out.logits.argmax(-1)[target], a["logits_argmax"].long()[target])


def compare(ours, recorded, valid):
    """Equal where valid; a recording may hold only the first channels (states) or rows and columns (attention maps)."""
    ours = ours[tuple(slice(n) for n in recorded.shape)]
    torch.testing.assert_close(ours[valid], recorded[valid], rtol=1e-4, atol=1e-4)
