"""Sampling: one random sequence for each sample."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ofa.errors import UserError
from ofa.generation.beam_search import Hypothesis
from ofa.generation.constraints import Constraints
from ofa.generation.options import SamplingOptions
from ofa.generation.step_decoder import StepDecoder, average, encode, models_of
from ofa.model import OFAModel
from ofa.vocabulary import BOS, EOS, PAD


@torch.no_grad()
def sample(
    model: OFAModel | Sequence[OFAModel],
    batch: Mapping[str, Tensor | None],
    options: SamplingOptions,
    seeds: Sequence[int | Sequence[int]],
    prefix_tokens: Tensor | None = None,
) -> list[Hypothesis]:
    """One sequence for each sample.

    Args:
        model, batch, prefix_tokens: as for `generate`.
        seeds: for each sample a number of at least 0, or several; a draw depends only on the seed of its sample.

    Returns:
        Sequences that end in `</s>`. Scores are log-probabilities under the constraints, before temperature, `top_k`
        and `top_p`.

    Raises:
        UserError: as `generate`; and if max_len does not leave room for every answer of a prefix tree.
    """
    models = models_of(model)
    samples = torch.arange(len(seeds), device=batch["input_ids"].device)  # [B], which of N samples are unfinished
    constraints = Constraints(options, len(seeds), prefix_tokens, samples.device)
    _check_room(options, constraints.limits, prefix_tokens)
    length, allowed_ids = max(constraints.limits) + 1, constraints.allowed_ids
    decoders = [StepDecoder(m, encode(m, batch), length, allowed_ids, batch.get("code_masks")) for m in models]
    uniforms = torch.from_numpy(np.stack([np.random.default_rng(seed).random(length) for seed in seeds]))
    uniforms = uniforms.to(samples.device)  # [N, T], a stream for each sample
    tokens = torch.full_like(uniforms, PAD, dtype=torch.long)
    scores = torch.zeros_like(uniforms)
    columns = torch.full_like(samples, BOS)[:, None]  # [B, 1]: one sequence is a beam of one
    nodes = torch.zeros_like(columns)
    for step in range(length):
        newest = constraints.ids_of(columns)
        logits = [decoder.step(newest).float() for decoder in decoders]
        log_p = average([constraints.log_softmax(row, samples, nodes, step) for row in logits])
        allowed = constraints.allow(log_p, samples, nodes, step)
        candidates = truncate(allowed / options.temperature, options.top_k, options.top_p)
        columns = draw(candidates, uniforms[samples, step, None])
        tokens[samples, step] = constraints.ids_of(columns)[:, 0]
        scores[samples, step] = log_p.gather(-1, columns[..., None])[:, 0, 0].double()
        nodes = constraints.walk(nodes, columns, samples, step)
        # A prompt may hold `</s>`, which ends nothing.
        stay = ((columns[:, 0] != EOS) | (constraints.forced(samples, step) == EOS)).nonzero()[:, 0]
        if len(stay) == 0:
            break
        if len(stay) < len(samples):
            samples, columns, nodes = samples[stay], columns[stay], nodes[stay]
            for decoder in decoders:
                decoder.select(stay, torch.zeros_like(columns))
    rows = zip(tokens.tolist(), scores.tolist(), (tokens != PAD).sum(1).tolist(), strict=True)
    return [Hypothesis(ids[:n], sum(parts[:n]), parts[:n]) for ids, parts, n in rows]


def truncate(log_weights: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Log-weights [..., A], minus infinity outside the `top_k` largest and outside the fewest that make `top_p`."""
    if top_k is None and top_p is None:
        return log_weights
    ranked, order = log_weights.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ranked[..., top_k:] = -torch.inf
    if top_p is not None:
        probabilities = ranked.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        ranked = ranked.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(ranked).scatter_(-1, order, ranked)


def draw(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Indices [...] drawn from the softmax of log-weights [..., A] by uniform numbers [...] in [0, 1)."""
    cumulative = log_weights.softmax(-1).double().cumsum(-1)
    # In (0, total]: so that the first entry to reach it exists and, where it is more than the last, has a probability.
    threshold = (1 - uniforms[..., None]) * cumulative[..., -1:]
    return torch.searchsorted(cumulative, threshold)[..., 0]


def _check_room(options: SamplingOptions, limits: Sequence[int], prefix_tokens: Tensor | None) -> None:
    """Refuses a limit at which `</s>` would be forced on an unfinished answer: sampling cannot go back."""
    if options.prefix_tree is None:
        return
    lengths = [0] * len(limits) if prefix_tokens is None else (prefix_tokens != PAD).sum(1).tolist()
    room = min(limit - length for limit, length in zip(limits, lengths, strict=True))
    if room < options.prefix_tree.longest:
        raise UserError(
            f"max_len={options.max_len} leaves room for {room} tokens and the longest answer of prefix_tree has "
            f"{options.prefix_tree.longest}; raise it by the difference"
        )
