import dataclasses
import itertools

import pytest
import torch
from helpers.models import logits_of, micro_model, random_model, select, tokens_of

from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree, SamplingOptions, best_candidates, generate, sample
from ofa.generation.step_decoder import StepDecoder

RANGE = (58457, 58462)  # a vocabulary of five tokens and `</s>`


def test_a_beam_of_one_is_greedy_search(model, batch):
    options = GenerationOptions(beam_size=1, max_len=6, constraint_range=RANGE)
    for i, (hypothesis,) in enumerate(generate(model, batch, options)):
        tokens = []
        while len(tokens) < 6 and 2 not in tokens:
            allowed = logits_of(model, select(batch, i), tokens)[-1, [2, *range(*RANGE)]]
            tokens.append([2, *range(*RANGE)][int(allowed.argmax())])
        assert hypothesis.tokens == (tokens if tokens[-1] == 2 else [*tokens, 2])


def test_a_wide_beam_finds_the_same_as_enumeration(model, batch):
    words, max_len = range(*RANGE), 3
    ids = [0, 1, 2, 3, *words]
    longest = list(itertools.product(words, repeat=max_len))  # each shorter sequence is a prefix of one of them
    previous = torch.tensor([[0, *tokens] for tokens in longest])
    options = dict(beam_size=5**max_len, max_len=max_len, constraint_range=RANGE)
    found = {
        normalize: generate(model, batch, GenerationOptions(**options, normalize_scores=normalize))
        for normalize in (True, False)
    }
    for i in range(3):
        with torch.no_grad():
            logits = model(**select(batch, [i] * len(longest)), decoder_input_ids=previous).logits[..., ids]
        sums = {}
        for tokens, steps in zip(longest, logits.log_softmax(-1).tolist(), strict=True):
            for length in range(max_len + 1):
                sequence = (*tokens[:length], 2)
                sums[sequence] = sum(steps[step][ids.index(token)] for step, token in enumerate(sequence))
        for normalize, hypotheses in found.items():
            scores = {tokens: total / len(tokens) if normalize else total for tokens, total in sums.items()}
            best = sorted(scores, key=scores.get, reverse=True)[:10]
            assert [tuple(tokens) for tokens in tokens_of(hypotheses[i][:10])] == best
            assert [h.score for h in hypotheses[i][:10]] == pytest.approx([scores[b] for b in best], abs=1e-4)


def test_a_sample_has_the_same_hypotheses_by_itself_and_in_a_batch(model, batch):
    options = GenerationOptions(beam_size=4, max_len=8, no_repeat_ngram_size=2)
    unpadded = [
        {"input_ids": batch["input_ids"][1:2, :4], "patch_images": batch["patch_images"][1:2]},
        {"input_ids": batch["input_ids"][2:, :3]},
    ]
    for in_batch, inputs in zip(generate(model, batch, options)[1:], unpadded, strict=True):
        (by_itself,) = generate(model, inputs, options)
        assert tokens_of(in_batch) == tokens_of(by_itself)
        assert [h.score for h in in_batch] == pytest.approx([h.score for h in by_itself], abs=1e-4)


def test_scores_are_the_log_probabilities_of_the_tokens(model, batch):
    options = GenerationOptions(beam_size=3, max_len=5, length_penalty=0.7)
    for i, hypotheses in enumerate(generate(model, batch, options)):
        for h in hypotheses:
            log_p = logits_of(model, select(batch, i), h.tokens[:-1]).log_softmax(-1)
            expected = log_p[range(len(h.tokens)), h.tokens]
            assert h.token_scores == pytest.approx(expected.tolist(), abs=1e-4)
            assert h.score == pytest.approx(expected.sum().item() / len(h.tokens) ** 0.7, abs=1e-4)


def test_lengths_stay_between_min_len_and_max_len(model, batch):
    for hypotheses in generate(model, batch, GenerationOptions(beam_size=4, min_len=3, max_len=5)):
        assert all(3 <= len(h.tokens) - 1 <= 5 and h.tokens.index(2) == len(h.tokens) - 1 for h in hypotheses)


def test_no_n_gram_occurs_twice(model, batch):
    options = dict(min_len=7, max_len=7, no_repeat_ngram_size=2, constraint_range=(58457, 58460))
    for hypotheses in generate(model, batch, GenerationOptions(beam_size=3, **options)):
        for h in hypotheses:
            pairs = list(itertools.pairwise(h.tokens))
            assert len(pairs) == len(set(pairs))


def test_special_tokens_are_never_chosen_even_if_they_are_likely(batch):
    model = random_model()
    # Lean every state towards <s>, <pad> and <unk>.
    model.decoder.layer_norm.bias.data += 5 * model.encoder.embed_tokens.weight[[0, 1, 3]].sum(0)
    for constraint in (None, RANGE):
        options = GenerationOptions(beam_size=2, min_len=3, max_len=4, constraint_range=constraint)
        for hypotheses in generate(model, batch, options):
            assert not any({0, 1, 3} & set(h.tokens) for h in hypotheses)


def test_prefixes_of_different_lengths_are_kept(model, batch):
    prefix = torch.tensor([[70, 80], [90, 1], [1, 1]])
    options = GenerationOptions(beam_size=3, max_len=5)
    found = generate(model, batch, options, prefix)
    assert all(h.tokens[:2] == [70, 80] for h in found[0])
    assert all(h.tokens[0] == 90 for h in found[1])
    assert found[2][0].tokens == generate(model, select(batch, 2), options)[0][0].tokens


def test_a_prefix_token_outside_the_constraint_range_is_refused(model, batch):
    options, prefix = GenerationOptions(constraint_range=RANGE), torch.tensor([[58457], [1], [58462]])
    with pytest.raises(UserError, match=r"the prefix token 58462 is outside constraint_range=\(58457, 58462\)"):
        generate(model, batch, options, prefix)


TREE = PrefixTree([[70], [70, 80], [90, 80, 70], [60, 50, 40, 30]])


@pytest.mark.parametrize("softmax_over_tree", [True, False])
def test_answers_of_a_tree_that_are_too_long_or_too_short_are_left_out(model, batch, softmax_over_tree):
    for min_len, max_len, lengths in ((0, 4, [1, 2, 3, 4]), (0, 2, [1, 2]), (2, 3, [2, 3])):
        options = dict(min_len=min_len, max_len=max_len, softmax_over_tree=softmax_over_tree)
        for hypotheses in generate(model, batch, GenerationOptions(prefix_tree=TREE, **options)):
            assert sorted(len(h.tokens) - 1 for h in hypotheses) == lengths
    options = GenerationOptions(max_len=3, prefix_tree=PrefixTree([[60, 50, 40, 30]]))
    assert generate(model, batch, options) == [[], [], []]


def test_answers_of_the_tree_that_do_not_fit_after_a_prompt_are_left_out(model, batch):
    prefix = torch.tensor([[11, 12, 13, 14], [11, 12, 13, 1], [11, 12, 1, 1]])
    found = generate(model, batch, GenerationOptions(max_len=4, prefix_tree=TREE), prefix)
    assert [sorted(tokens_of(hypotheses)) for hypotheses in found] == [
        [],
        [[11, 12, 13, 70, 2]],
        [[11, 12, 70, 2], [11, 12, 70, 80, 2]],
    ]


def test_a_search_ends_when_all_answers_of_the_tree_are_found(model, batch, monkeypatch):
    steps, step = [], StepDecoder.step
    monkeypatch.setattr(StepDecoder, "step", lambda *arguments: steps.append(1) or step(*arguments))
    found = generate(model, batch, GenerationOptions(beam_size=5, max_len=16, prefix_tree=PrefixTree([[70], [80]])))
    assert [len(hypotheses) for hypotheses in found] == [2, 2, 2]
    assert len(steps) == 2


METHODS = {
    "beam search": lambda model, batch: generate(model, batch, GenerationOptions(beam_size=3, max_len=4)),
    "sampling": lambda model, batch: sample(model, batch, SamplingOptions(max_len=4), range(3)),
    "all candidates": lambda model, batch: best_candidates(model, batch, TREE, n=3),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_ensemble_of_a_model_with_itself_is_the_model_and_one_in_training_is_refused(method, model, batch):
    find = METHODS[method]
    assert tokens_of(find([model, model], batch)) == tokens_of(find(model, batch))
    with pytest.raises(UserError, match=r"model.eval\(\)"):
        find(micro_model().train(), batch)


def test_image_codes_and_text_may_be_generated_in_one_batch():
    model = micro_model(init_std=0.3, code_image_size=32)
    batch = {"input_ids": torch.tensor([[0, 5, 2], [0, 6, 2]])}
    options = GenerationOptions(beam_size=2, min_len=16, max_len=16)
    mixed = generate(model, {**batch, "code_masks": torch.tensor([True, False])}, options)
    codes = generate(model, {**batch, "code_masks": torch.tensor([True, True])}, options)
    text = generate(model, batch, options)
    assert mixed[0][0].tokens == codes[0][0].tokens != text[0][0].tokens
    assert mixed[1][0].tokens == text[1][0].tokens


SHARED = {field.name for field in dataclasses.fields(SamplingOptions)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam_size": 0}, "beam_size=0"),
        ({"min_len": 5, "max_len": 4}, "min_len=5 and max_len=4"),
        ({"temperature": 0.0}, "temperature=0.0 is not positive"),
        ({"constraint_range": (2, 9)}, "constraint_range"),
        ({"constraint_range": RANGE, "prefix_tree": TREE}, "constraint_range=.* and prefix_tree"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1"),
    ],
)
def test_impossible_options_are_refused_by_name(values, message):
    kinds = (GenerationOptions, SamplingOptions) if values.keys() <= SHARED else (GenerationOptions,)
    for kind in kinds:
        with pytest.raises(UserError, match=message):
            kind(**values)
