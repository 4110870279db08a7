import random

import pytest
import torch
from helpers.golden import fairseq_batch, fairseq_model, load_json, load_tensors
from helpers.models import random_model, select, tokens_of

from ofa.generation import GenerationOptions, PrefixTree, best_candidates, generate, score_candidates

CLOSE = dict(rtol=0, atol=1e-4)
PREFIX = torch.tensor([[70, 80, 90], [60, 1, 1], [1, 1, 1]])


def random_answers(seed, n=40):
    """Answers of one to five tokens out of six, so that many share a prefix and some are equal."""
    rng = random.Random(seed)
    return [[rng.randrange(100, 106) for _ in range(rng.randint(1, 5))] for _ in range(n)]


@pytest.fixture(scope="module")
def tree():
    return PrefixTree(random_answers(0))


@pytest.fixture(params=["images", "text"])
def batch(request, batch):
    return {"input_ids": batch["input_ids"]} if request.param == "text" else batch


@torch.no_grad()
def scores_by_hand(models, sample, tree, prompt, answers):
    """log P of each answer for a batch of one, token by token over the tree's next tokens."""
    length = max(map(len, answers))
    ids = torch.tensor([[0, *prompt, *answer, *[1] * (length - len(answer))] for answer in answers])
    copies = select(sample, [0] * len(answers))
    logits = torch.stack([model(**copies, decoder_input_ids=ids).logits[:, len(prompt) :] for model in models])
    scores = []
    for row, answer in enumerate(answers):
        tokens, score = [*answer, 2], 0.0
        for t, token in enumerate(tokens):
            allowed = tree.next_tokens(tokens[:t])
            probabilities = logits[:, row, t, allowed].softmax(-1).mean(0)
            score += probabilities[allowed.index(token)].log().item()
        scores.append(score)
    return torch.tensor(scores)


@pytest.mark.parametrize("prompts", ["none", "prev_output"])
def test_scores_equal_the_recorded_ones(prompts, published_tokenizer):
    recorded = load_json("fairseq_text.json")["vqa_allcand"]
    inputs = load_tensors("fairseq_arrays.npz", "strong/main/in/")
    model = fairseq_model(recorded["profile"])
    batch = fairseq_batch("main", inputs)
    answers = [published_tokenizer.encode(answer) for answer in recorded["answers"]]
    case = recorded[prompts]
    prefix = torch.tensor(case["decoder_prompts"])[:, 1:]
    scores = score_candidates(model, batch, PrefixTree(answers), prefix)
    torch.testing.assert_close(scores, torch.tensor(case["candidate_log_probabilities"]), **CLOSE)
    best = best_candidates(model, batch, PrefixTree(answers), prefix)
    assert [published_tokenizer.decode(h.tokens) for (h,) in best] == [result["answer"] for result in case["results"]]


@pytest.mark.parametrize("seed", range(4))
def test_a_score_is_the_probability_of_the_answer_after_the_prompt_of_its_sample(seed, batch):
    model, answers = random_model(seed), random_answers(seed)
    tree = PrefixTree(answers)
    scores = score_candidates(model, batch, tree, PREFIX)
    for i, prompt in enumerate(([70, 80, 90], [60], [])):
        expected = scores_by_hand([model], select(batch, i), tree, prompt, answers)
        torch.testing.assert_close(scores[i], expected, **CLOSE)


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
        assert tokens_of(ours) == tokens_of(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.score == pytest.approx(b.score, abs=1e-4)
            assert a.token_scores == pytest.approx(b.token_scores, abs=1e-4)


def test_after_a_prompt_beam_search_finds_the_best_candidate(model, batch, tree):
    options = GenerationOptions(beam_size=len(tree.leaves), max_len=8, normalize_scores=False, prefix_tree=tree)
    searched = generate(model, batch, options, PREFIX)
    for n_prompt, theirs, (ours,) in zip((3, 1, 0), searched, best_candidates(model, batch, tree, PREFIX), strict=True):
        assert ours.tokens == theirs[0].tokens[n_prompt:]
        assert ours.score == pytest.approx(sum(theirs[0].token_scores[n_prompt:]), abs=1e-4)


def test_an_ensemble_averages_the_probabilities_of_each_token(model, batch, tree):
    models = [model, random_model(1)]
    scores = score_candidates(models, batch, tree, PREFIX)
    expected = scores_by_hand(models, select(batch, 1), tree, [60], random_answers(0))
    torch.testing.assert_close(scores[1], expected, **CLOSE)


def test_half_precision_gives_about_the_same_scores(model, batch, tree):
    with torch.autocast("cpu", torch.bfloat16):
        scores = score_candidates(model, batch, tree, PREFIX)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, score_candidates(model, batch, tree, PREFIX), rtol=0, atol=0.5)


@pytest.mark.parametrize("answers", [[[7, 8]], [[7, 8], [9]]])
def test_an_answer_without_an_alternative_is_certain(model, batch, answers):
    tree = PrefixTree(answers)
    torch.testing.assert_close(score_candidates(model, batch, tree).exp().sum(1), torch.ones(3))
    assert sorted(tokens_of(best_candidates(model, batch, tree, n=5)[0])) == [[*answer, 2] for answer in answers]
