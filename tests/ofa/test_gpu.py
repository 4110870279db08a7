"""What only a GPU shows: half precision and agreement with the CPU."""

import pytest
import torch
from helpers.losses import loss_of_states

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions, PrefixTree, generate, score_candidates
from ofa.model import OFAModel

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return OFAModel(OFAConfig.from_name("micro", dropout=0.0, init_std=0.1)).eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return {
        "input_ids": torch.tensor([[0, 11, 12, 13, 2], [0, 21, 2, 1, 1]]),
        "patch_images": torch.randn(2, 3, 64, 64),
        "patch_masks": torch.tensor([True, False]),
    }


def on_gpu(batch):
    return {name: tensor.cuda() for name, tensor in batch.items()}


def test_logits_and_answers_equal_those_of_the_cpu(model, batch):
    options = GenerationOptions(beam_size=3, max_len=6)
    with torch.no_grad():
        expected, answers = model(**batch).logits, generate(model, batch, options)
        model.cuda()
        torch.testing.assert_close(model(**on_gpu(batch)).logits.cpu(), expected, rtol=1e-3, atol=1e-3)
    found = generate(model, on_gpu(batch), options)
    assert [h.tokens for hypotheses in found for h in hypotheses] == [
        h.tokens for hypotheses in answers for h in hypotheses
    ]


def test_answers_of_a_closed_set_equal_those_of_the_cpu(model, batch):
    tree = PrefixTree([[7], [8, 9], [8, 10, 11]])
    prompt = torch.tensor([[12, 13], [14, 1]])
    options = GenerationOptions(beam_size=3, max_len=3, prefix_counts_toward_max_len=False, prefix_tree=tree)
    expected, answers = score_candidates(model, batch, tree, prompt), generate(model, batch, options, prompt)
    model.cuda()
    scores = score_candidates(model, on_gpu(batch), tree, prompt.cuda())
    torch.testing.assert_close(scores.cpu(), expected, rtol=1e-3, atol=1e-3)
    found = generate(model, on_gpu(batch), options, prompt.cuda())
    assert [[h.tokens for h in sample] for sample in found] == [[h.tokens for h in sample] for sample in answers]


def test_the_loss_over_a_closed_set_equals_that_of_the_cpu(model, batch):
    tree, target = PrefixTree([[7], [8, 9]]), torch.tensor([[8, 9, 2], [7, 2, 1]])
    criterion, hidden = LabelSmoothedCrossEntropy(), torch.randn(2, 3, model.config.d_model)
    expected = loss_of_states(criterion, model, hidden, target, tree=tree).sum
    loss = loss_of_states(criterion, model.cuda(), hidden.cuda(), target.cuda(), tree=tree).sum
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_training_step_in_half_precision_has_finite_gradients(model, batch, precision):
    model.cuda().train()
    target = torch.tensor([[58460, 58470, 2], [58480, 2, 1]], device="cuda")
    previous = torch.tensor([[0, 58460, 58470], [0, 58480, 1]], device="cuda")
    with torch.autocast("cuda", precision):
        hidden = model.decoder(previous, model.encoder(**on_gpu(batch))).last_hidden_state
        loss = loss_of_states(LabelSmoothedCrossEntropy(), model, hidden, target, constraint_range="bins")
    (loss.sum / loss.sample_size).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
