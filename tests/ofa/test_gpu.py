"""Half precision on a GPU, and agreement of GPU and CPU."""

import copy

import pytest
import torch
from helpers.losses import loss_of_states
from helpers.models import tokens_of

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from ofa.generation import GenerationOptions, PrefixTree, generate, score_candidates

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def gpu_model(model):
    return copy.deepcopy(model).cuda()


@pytest.fixture
def gpu_batch(batch):
    return {name: tensor.cuda() for name, tensor in batch.items()}


def test_logits_and_hypotheses_equal_those_of_the_cpu(model, batch, gpu_model, gpu_batch):
    options = GenerationOptions(beam_size=3, max_len=6)
    with torch.no_grad():
        logits = gpu_model(**gpu_batch).logits.cpu()
        torch.testing.assert_close(logits, model(**batch).logits, rtol=1e-3, atol=1e-3)
    assert tokens_of(generate(gpu_model, gpu_batch, options)) == tokens_of(generate(model, batch, options))


def test_scores_and_losses_over_a_closed_set_equal_those_of_the_cpu(model, batch, gpu_model, gpu_batch):
    tree = PrefixTree([[7], [8, 9], [8, 10, 11]])
    prompt = torch.tensor([[12, 13], [14, 1], [1, 1]])
    options = GenerationOptions(beam_size=3, max_len=3, prefix_counts_toward_max_len=False, prefix_tree=tree)
    scores = score_candidates(gpu_model, gpu_batch, tree, prompt.cuda())
    torch.testing.assert_close(scores.cpu(), score_candidates(model, batch, tree, prompt), rtol=1e-3, atol=1e-3)
    found = generate(gpu_model, gpu_batch, options, prompt.cuda())
    assert tokens_of(found) == tokens_of(generate(model, batch, options, prompt))
    tree, target = PrefixTree([[7], [8, 9]]), torch.tensor([[8, 9, 2], [7, 2, 1]])
    criterion, hidden = LabelSmoothedCrossEntropy(), torch.randn(2, 3, model.config.d_model)
    expected = loss_of_states(criterion, model, hidden, target, tree=tree).sum
    loss = loss_of_states(criterion, gpu_model, hidden.cuda(), target.cuda(), tree=tree).sum
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_training_step_in_half_precision_has_finite_gradients(gpu_model, gpu_batch, precision):
    model = gpu_model.train()
    target = torch.tensor([[58460, 58470, 2], [58480, 2, 1], [2, 1, 1]], device="cuda")
    previous = torch.tensor([[0, 58460, 58470], [0, 58480, 1], [0, 1, 1]], device="cuda")
    with torch.autocast("cuda", precision):
        hidden = model.decoder(previous, model.encoder(**gpu_batch)).last_hidden_state
        loss = loss_of_states(LabelSmoothedCrossEntropy(), model, hidden, target, constraint_range="bins")
    (loss.sum / loss.sample_size).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
