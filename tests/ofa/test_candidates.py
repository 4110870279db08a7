import random

import numpy as np
import pytest
import torch
from helpers.golden import fill_fairseq, generator, load_arrays, load_json
from helpers.models import random_model, three_samples

from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree, best_candidates, generate, score_candidates
from ofa.model import OFAModel

CLOSE = dict(rtol=0, atol=1e-4)
PREFIX = torch.tensor([[70, 80, 90], [60, 1, 1], [1, 1, 1]])


def random_answers(seed, n=40):
    """Of one to five words of six, so that many share their beginnings and some are equal."""
    rng = random.Random(seed)
    return [[rng.randrange(100, 106) for _ in range(rng.randint(1, 5))] for _ in range(n)]


@pytest.fixture(scope="module")
def tree():
    return PrefixTree(random_answers(0))


@pytest.fixture(params=["images", "text"])
def batch(request):
    samples = three_samples()
    return {"input_ids": samples["input_ids"]} if request.param == "text" else samples


def one(batch, i):
    return {name: tensor[i : i + 1] for name, tensor in batch.items()}


@torch.no_grad()
def score_alone(models, batch, tree, prompt, answer):
    """log P(answer) for a batch of one, token by token over the tree's next tokens."""
    tokens, total = [*answer, 2], 0.0
    ids = torch.tensor([[0, *prompt, *answer]])
    logits = [model(**batch, decoder_input_ids=ids).logits[0, len(prompt) :] for model in models]
    for t, token in enumerate(tokens):
        allowed = tree.next_tokens(tokens[:t])
        probabilities = torch.stack([rows[t, allowed].softmax(-1) for rows in logits]).mean(0)
        total += probabilities[allowed.index(token)].log().item()
    return total


@pytest.mark.parametrize("prompts", ["none", "prev_output"])
def test_scores_equal_the_recorded_ones(prompts, published_tokenizer):
    recorded, arrays = load_json("fairseq_text.json")["vqa_allcand"], load_arrays("fairseq_arrays.npz")
    model = OFAModel(OFAConfig.from_name("tiny")).eval()
    fill_fairseq(model, recorded["profile"])
    images = generator("inputs/main").uniform(-1, 1, (3, 3, 64, 96)).astype(np.float32)
    batch = {
        "input_ids": torch.from_numpy(arrays["strong/main/in/src_tokens"]).long(),
        "patch_images": torch.from_numpy(images),
        "patch_masks": torch.from_numpy(arrays["strong/main/in/patch_masks"]),
    }
    answers = [published_tokenizer.encode(answer) for answer in recorded["answers"]]
    case = recorded[prompts]
    prefix = torch.tensor(case["decoder_prompts"])[:, 1:]
    scores = score_candidates(model, batch, PrefixTree(answers), prefix)
    torch.testing.assert_close(scores, torch.tensor(case["candidate_log_probabilities"]), **CLOSE)
    for (best,), result in zip(
        best_candidates(model, batch, PrefixTree(answers), prefix), case["results"], strict=True
    ):
        assert published_tokenizer.decode(best.tokens) == result["answer"]


@pytest.mark.parametrize("seed", range(4))
def test_a_score_is_that_of_the_answer_by_itself_behind_its_own_prompt(seed, batch):
    model, answers = random_model(seed), random_answers(seed)
    tree = PrefixTree(answers)
    scores = score_candidates(model, batch, tree, PREFIX)
    for i, prompt in enumerate(([70, 80, 90], [60], [])):
        expected = [score_alone([model], one(batch, i), tree, prompt, answer) for answer in answers]
        torch.testing.assert_close(scores[i], torch.tensor(expected), **CLOSE)


def test_the_probabilities_of_all_answers_sum_to_1(model, batch, tree):
    answers = {tuple(answer): i for i, answer in enumerate(random_answers(0))}
    assert len(answers) < len(tree.leaves)  # equal answers have the same score
    totals = score_candidates(model, batch, tree, PREFIX)[:, list(answers.values())].logsumexp(1)
    torch.testing.assert_close(totals, torch.zeros(3), **CLOSE)


def test_the_best_candidates_are_those_of_an_exhaustive_beam_search(model, batch, tree):
    options = GenerationOptions(beam_size=len(tree.leaves), max_len=5, normalize_scores=False, prefix_tree=tree)
    searched, scored = generate(model, batch, options), best_candidates(model, batch, tree, n=100)
    for theirs, ours in zip(searched, scored, strict=True):
        assert len(ours) == len(theirs) == len(tree.leaves.unique())
        assert [h.tokens for h in ours] == [h.tokens for h in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-4)
            assert a.token_scores == pytest.approx(b.token_scores, abs=1e-4)


def test_behind_a_prompt_too_beam_search_finds_the_best_candidate(model, batch, tree):
    options = GenerationOptions(beam_size=len(tree.leaves), max_len=8, normalize_scores=False, prefix_tree=tree)
    searched = generate(model, batch, options, PREFIX)
    for n_prompt, theirs, (ours,) in zip((3, 1, 0), searched, best_candidates(model, batch, tree, PREFIX), strict=True):
        assert ours.tokens == theirs[0].tokens[n_prompt:]
        assert ours.score == pytest.approx(sum(theirs[0].token_scores[n_prompt:]), abs=1e-4)


def test_an_ensemble_averages_the_probabilities_of_each_token(model, batch, tree):
    models = [model, random_model(1)]
    scores = score_candidates(models, batch, tree, PREFIX)
    expected = [score_alone(models, one(batch, 1), tree, [60], answer) for answer in random_answers(0)]
    torch.testing.assert_close(scores[1], torch.tensor(expected), **CLOSE)


def test_a_sample_scores_the_same_alone_and_in_a_batch(model, batch, tree):
    together = score_candidates(model, batch, tree, PREFIX)
    for i, n_prompt in enumerate((3, 1, 0)):
        alone = score_candidates(model, one(batch, i), tree, PREFIX[i : i + 1, :n_prompt])
        torch.testing.assert_close(alone[0], together[i], **CLOSE)


def test_half_precision_gives_about_the_same_scores(model, batch, tree):
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_candidates(model, batch, tree, PREFIX)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, score_candidates(model, batch, tree, PREFIX), rtol=0, atol=0.5)


@pytest.mark.parametrize("answers", [[[7, 8]], [[7, 8], [9]]])
def test_an_answer_without_an_alternative_is_certain(model, batch, answers):
    scores = score_candidates(model, batch, PrefixTree(answers))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    tokens = [h.tokens for h in best_candidates(model, batch, PrefixTree(answers), n=5)[0]]
    assert sorted(tokens) == [[*answer, 2] for answer in answers]


def test_a_model_in_training_mode_is_refused(batch, tree):
    with pytest.raises(UserError, match=r"model.eval\(\)"):
        score_candidates(OFAModel(OFAConfig.from_name("micro")), batch, tree)
