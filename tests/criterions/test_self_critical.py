"""The self-critical loss and its gradients equal the recorded ones."""

import pickle

import numpy as np
import pytest
import torch
from helpers.golden import fairseq_name, fill_fairseq, generator, load_arrays, load_json

from criterions.base import AllowedIds
from criterions.self_critical import SelfCritical, advantages
from data.batch import Batch
from ofa.config import OFAConfig
from ofa.generation import GenerationOptions
from ofa.model import OFAModel
from tasks.caption import CiderReward, References, SelfCriticalCaption
from tasks.metrics.cider import CiderD, DocumentFrequencies
from training.freezing import Freezing
from training.self_critical import SelfCriticalModule


@pytest.fixture
def frequencies(tmp_path):
    """The recorded counts, by way of a file as the published ones are."""
    cached = load_json("fairseq_text.json")["scst"]["cached"]
    counts = {tuple(words.split()): count for words, count in cached["document_frequency"].items()}
    path = tmp_path / "counts.p"
    path.write_bytes(pickle.dumps({"document_frequency": counts, "ref_len": cached["ref_len"]}))
    return DocumentFrequencies.from_file(path)


def test_loss_reward_and_gradient_norms_equal_the_recorded_ones(published_tokenizer, frequencies):
    recorded = load_json("fairseq_text.json")["scst"]
    arrays = load_arrays("fairseq_arrays.npz")
    model = OFAModel(OFAConfig.from_name("tiny", dropout=0.0))
    fill_fairseq(model, "strong")
    images = generator("inputs/main").uniform(-1, 1, (3, 3, 64, 96)).astype(np.float32)
    batch = Batch(
        ids=["0", "1", "2"],
        keys=[0, 1, 2],
        input_ids=torch.from_numpy(arrays["strong/main/in/src_tokens"]).long(),
        patch_images=torch.from_numpy(images),
        patch_masks=torch.from_numpy(arrays["strong/main/in/patch_masks"]),
        prefix_tokens=None,
        decoder_input_ids=torch.zeros(3, 0, dtype=torch.long),
        target=torch.zeros(3, 0, dtype=torch.long),
        weights=torch.ones(3),
        truths=[References(str(i), tuple(captions)) for i, captions in enumerate(recorded["gt_res"])],
        notes=[],
    )
    task = SelfCriticalCaption.build(tokenizer=published_tokenizer, image_size=64)
    reward = CiderReward(task, CiderD(frequencies))
    options = GenerationOptions(beam_size=4, max_len=7, min_len=2)
    module = SelfCriticalModule(model, task, options, SelfCritical(), None, Freezing(), reward=reward)
    module.train()
    loss = module.loss(batch)
    assert model.training
    expected = recorded["loss"], np.mean(recorded["scores"]), recorded["sample_size"]
    found = loss.sum.item(), loss.terms["reward"].item() / loss.sample_size, loss.sample_size
    assert found == pytest.approx(expected, rel=1e-4)
    (loss.sum / loss.sample_size).backward()
    gradients = {fairseq_name(name): p.grad for name, p in model.named_parameters()}
    for name, norm in recorded["grad_norms"].items():
        # The backbone's gradients move by 1e-3 with the number of threads (tests/goldens/README.md).
        tolerance = 2e-3 if "embed_images" in name else 1e-4
        assert gradients[name].norm().item() == pytest.approx(norm, rel=tolerance), name


def test_the_baseline_is_the_mean_reward_of_the_others():
    assert advantages(torch.tensor([[3.0, 1.0, 2.0]])).tolist() == [[1.5, -1.5, 0.0]]


def test_one_token_hypotheses_keep_their_own_advantage():
    # The original broadcast a target of one token to N x N.
    model = OFAModel(OFAConfig.from_name("micro")).eval()
    hidden, target = torch.randn(2, 1, model.config.d_model), torch.tensor([[2], [2]])
    log_p = torch.log_softmax(model.logits(hidden), -1)[:, 0, 2]
    targets = AllowedIds().targets(target)
    loss = SelfCritical()(model.logits(hidden[targets.valid]), targets, torch.tensor([[2.0, 1.0]]))
    assert loss.sum.item() == pytest.approx(-(log_p[0] - log_p[1]).item(), rel=1e-5)
    assert loss.sample_size == 2
