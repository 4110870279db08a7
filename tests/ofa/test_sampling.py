"""Sampling: draws follow the model's probabilities and the constraints, and do not depend on the rest of the batch."""

from collections import Counter

import pytest
import torch
from helpers.models import logits_of, select, tokens_of

from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree, SamplingOptions, generate, sample
from ofa.generation.sampling import draw, truncate

RANGE = (58457, 58462)  # a vocabulary of five tokens and `</s>`
TREE = PrefixTree([[70], [70, 80], [90, 80, 70], [60, 50, 40, 30]])


def test_sequences_are_drawn_with_the_probabilities_of_the_model(model):
    words, n = [58457, 58458, 58459], 4000
    options = SamplingOptions(max_len=2, temperature=1.5, constraint_range=(58457, 58460))
    source = torch.tensor([[0, 21, 22, 2]])
    drawn = sample(model, {"input_ids": source.expand(n, -1)}, options, range(n))
    counts = Counter(tuple(h.tokens) for h in drawn)

    def following(*tokens):
        """Tokens and their probabilities."""
        logits = logits_of(model, {"input_ids": source}, tokens)[-1, [2, *words]]
        return zip([2, *words], (logits / 1.5).softmax(0).tolist(), strict=True)

    (_, end), *firsts = following()
    probabilities = {(2,): end}
    for first, p in firsts:
        for second, q in following(first):
            probabilities[(first, 2) if second == 2 else (first, second, 2)] = p * q
    assert len(probabilities) == 13 and counts.keys() <= probabilities.keys()
    chi_square = sum((counts[s] - n * p) ** 2 / (n * p) for s, p in probabilities.items())
    assert chi_square < 32.9  # 0.1 % of samples of 12 degrees of freedom are above


def test_the_numbers_drawn_have_the_probabilities_of_their_weights():
    weights = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0]).log()
    uniforms = torch.arange(1000).double() / 1000
    columns = draw(weights.expand(1000, -1), uniforms)
    assert columns.bincount(minlength=6).tolist() == [0, 500, 0, 250, 250, 0]


def test_top_k_and_top_p_keep_exactly_the_most_likely():
    weights = torch.tensor([[0.1, 0.4, 0.05, 0.3, 0.15], [0.2, 0.2, 0.2, 0.2, 0.2]]).log()

    def left(top_k, top_p):
        return [row.isfinite().nonzero()[:, 0].tolist() for row in truncate(weights, top_k, top_p)]

    assert left(None, None) == [[0, 1, 2, 3, 4]] * 2
    assert left(2, None) == [[1, 3], [0, 1]]
    assert left(9, None) == [[0, 1, 2, 3, 4]] * 2
    assert left(None, 0.75) == [[1, 3, 4], [0, 1, 2, 3]]
    assert left(None, 0.3) == [[1], [0, 1]]
    assert left(2, 0.5) == [[1], [0]]  # of the two kept by top_k, each then has more than half
    kept = truncate(weights, 3, None)
    torch.testing.assert_close(kept[kept.isfinite()], weights[kept.isfinite()])


@pytest.mark.parametrize("limits", [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.6}])
def test_every_drawn_token_is_within_top_k_and_top_p(limits, model, batch):
    n, temperature = 40, 0.7
    options = SamplingOptions(max_len=3, constraint_range=RANGE, temperature=temperature, **limits)
    ids = torch.tensor([2, *range(*RANGE)])
    drawn = {
        (*h.tokens[:step], token)
        for h in sample(model, select(batch, [0] * n), options, range(n))
        for step, token in enumerate(h.tokens[:3])
    }
    for *start, token in drawn:
        allowed = logits_of(model, select(batch, [0]), start)[-1, ids] / temperature
        left = truncate(allowed, limits.get("top_k"), limits.get("top_p"))
        assert token in ids[left.isfinite()]
    assert len({(len(start), token) for *start, token in drawn}) > 3


@pytest.mark.parametrize("limits", [{"temperature": 1e-5}, {"top_k": 1}, {"top_p": 1e-6}])
def test_options_that_leave_no_choice_give_greedy_search(limits, model, batch):
    greedy = generate(model, batch, GenerationOptions(beam_size=1, max_len=6))
    drawn = sample(model, batch, SamplingOptions(max_len=6, **limits), [1, 2, 3])
    assert tokens_of(drawn) == [hypotheses[0].tokens for hypotheses in greedy]


@pytest.mark.parametrize("constraint", [{}, {"constraint_range": RANGE}, {"prefix_tree": TREE}])
def test_a_sample_depends_only_on_its_seed(constraint, model, batch):
    options = SamplingOptions(max_len=6, **constraint)
    order = [2, 0, 1, 0, 2, 2]
    seeds = [(7, 3), 5, (7, 4), 6, 8, 9]
    in_batch = sample(model, select(batch, order), options, seeds)
    by_itself = [sample(model, select(batch, [i]), options, [seed])[0] for i, seed in zip(order, seeds, strict=True)]
    backwards = sample(model, select(batch, order[::-1]), options, seeds[::-1])[::-1]
    assert tokens_of(in_batch) == tokens_of(by_itself) == tokens_of(backwards)
    assert in_batch == sample(model, select(batch, order), options, seeds)
    others = sample(model, select(batch, [0] * 30), options, range(30))
    assert len({tuple(tokens) for tokens in tokens_of(others)}) > 2


@pytest.mark.parametrize("constraint_range", [None, RANGE])
def test_scores_are_the_models_own_under_the_constraint(constraint_range, model, batch):
    options = SamplingOptions(max_len=5, temperature=0.8, top_k=4, constraint_range=constraint_range)
    ids = range(59457) if constraint_range is None else [0, 1, 2, 3, *range(*RANGE)]
    prefix = torch.tensor([[58460], [1], [1]])
    for i, h in enumerate(sample(model, batch, options, range(3), prefix)):
        log_p = logits_of(model, select(batch, [i]), h.tokens[:-1])[:, list(ids)].log_softmax(-1)
        expected = log_p[range(len(h.tokens)), [ids.index(token) for token in h.tokens]]
        assert h.token_scores == pytest.approx(expected.tolist(), abs=1e-4)
        assert h.score == pytest.approx(expected.sum().item(), abs=1e-4)


def test_under_a_tree_scores_are_normalised_over_its_next_tokens(model, batch):
    for i, h in enumerate(sample(model, select(batch, [0] * 9), SamplingOptions(prefix_tree=TREE), range(9))):
        raw = logits_of(model, select(batch, [0]), h.tokens[:-1])
        for step, (token, score) in enumerate(zip(h.tokens, h.token_scores, strict=True)):
            following = TREE.next_tokens(h.tokens[:step])
            expected = raw[step, following].log_softmax(0)[following.index(token)].item()
            assert score == pytest.approx(expected, abs=1e-4), i


@pytest.mark.parametrize("softmax_over_tree", [True, False])
def test_all_answers_of_the_tree_are_drawn_and_nothing_else(softmax_over_tree, model, batch):
    options = SamplingOptions(prefix_tree=TREE, max_len=4, temperature=3.0, softmax_over_tree=softmax_over_tree)
    drawn = {tuple(tokens) for tokens in tokens_of(sample(model, select(batch, [1] * 150), options, range(150)))}
    assert drawn == {(70, 2), (70, 80, 2), (90, 80, 70, 2), (60, 50, 40, 30, 2)}


def test_prefixes_are_kept_and_a_prompt_may_hold_the_end(model, batch):
    prefix = torch.tensor([[70, 2, 80, 2], [90, 1, 1, 1], [1, 1, 1, 1]])
    options = SamplingOptions(max_len=4, prefix_counts_toward_max_len=False, prefix_tree=TREE)
    drawn = tokens_of(sample(model, batch, options, range(3), prefix))
    answers = [[70, 2], [70, 80, 2], [90, 80, 70, 2], [60, 50, 40, 30, 2]]
    assert drawn[0][:4] == [70, 2, 80, 2] and drawn[0][4:] in answers
    assert drawn[1][0] == 90 and drawn[1][1:] in answers and drawn[2] in answers
    assert drawn[2] == tokens_of(sample(model, select(batch, [2]), options, [2]))[0]


def test_lengths_stay_between_min_len_and_max_len(model, batch):
    options = SamplingOptions(min_len=2, max_len=4, constraint_range=(58457, 58458), temperature=9.0)
    drawn = tokens_of(sample(model, select(batch, [0] * 50), options, range(50)))
    assert {len(tokens) - 1 for tokens in drawn} == {2, 3, 4}
    assert all(tokens.index(2) == len(tokens) - 1 and not {0, 1, 3} & set(tokens) for tokens in drawn)


def test_a_max_len_that_would_cut_an_answer_of_the_tree_is_refused(model, batch):
    with pytest.raises(UserError, match="max_len=3 leaves room for 3 tokens and the longest answer .* has 4"):
        sample(model, batch, SamplingOptions(max_len=3, prefix_tree=TREE), range(3))
    prefix = torch.tensor([[70], [1], [1]])
    with pytest.raises(UserError, match="max_len=4 leaves room for 3 tokens"):
        sample(model, batch, SamplingOptions(max_len=4, prefix_tree=TREE), range(3), prefix)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": 0}, "top_k=0 leaves nothing"),
        ({"top_k": 1.5}, "top_k=1.5 is not a whole number"),
        ({"top_p": 0.0}, r"top_p=0.0 is not in \(0, 1\]"),
        ({"top_p": 1.1}, r"top_p=1.1 is not in \(0, 1\]"),
        ({"prefix_tree": TREE, "min_len": 1}, "min_len=1 and prefix_tree"),
    ],
)
def test_impossible_options_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        SamplingOptions(**values)
