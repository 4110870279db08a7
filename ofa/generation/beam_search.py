"""Beam search with the semantics that the published results used (see the rules at `_Search.advance`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.generation.ensemble import average, encode, models_of
from ofa.generation.options import GenerationOptions
from ofa.generation.step_decoder import StepDecoder
from ofa.model import OFAModel
from ofa.vocabulary import BOS, EOS, PAD, UNK

NEVER_CHOSEN = [BOS, PAD, UNK]  # the original let `<s>` and `<unk>` through; boxes could contain them


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence: its tokens with `</s>` and without `<s>`, their log-probabilities, and the final score."""

    tokens: list[int]
    score: float
    token_scores: list[float]


@torch.no_grad()
def generate(
    model: OFAModel | Sequence[OFAModel],
    batch: Mapping[str, Tensor | None],
    options: GenerationOptions,
    prefix_tokens: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """The best sequences for each sample, best first.

    Args:
        model: one model, or several whose probabilities are averaged; all in evaluation mode.
        batch: `input_ids` [B, L], and where there are any `patch_images` [B, 3, h, w], `patch_masks` [B] and
            `code_masks` [B]: the arguments of the model.
        options: see `GenerationOptions`.
        prefix_tokens: [B, P], tokens that each sample's sequences begin with, right-padded with 1; they count in
            tokens, score and length. A prefix tree begins behind them.

    Returns:
        For each sample up to `beam_size` hypotheses; fewer where the constraints leave fewer sequences, such as none
        where no answer of a prefix tree is as short as max_len.

    Raises:
        UserError: where a model is in training mode.
    """
    models = models_of(model)
    device = batch["input_ids"].device
    allowed_ids = _allowed_ids(options, prefix_tokens, device)
    search = _Search(len(batch["input_ids"]), options, allowed_ids, prefix_tokens, device)
    decoders = [
        StepDecoder(m, encode(m, batch), max(search.limits) + 1, allowed_ids, batch.get("code_masks")) for m in models
    ]
    while search.unfinished:
        probabilities = [search.log_softmax(decoder.step(search.newest)) for decoder in decoders]
        samples, beams = search.advance(average(probabilities))
        if search.unfinished:
            for decoder in decoders:
                decoder.select(samples, beams)
    return search.hypotheses()


def _allowed_ids(options: GenerationOptions, prefix_tokens: Tensor | None, device: torch.device) -> Tensor | None:
    """[A], the ids whose logits the search needs; None for the vocabulary."""
    if options.constraint_range is not None:
        first, end = options.constraint_range
        return torch.cat([torch.arange(4, device=device), torch.arange(first, end, device=device)])
    if options.prefix_tree is not None and options.softmax_over_tree and prefix_tokens is None:
        return options.prefix_tree.to(device).tokens
    return None  # with a tree, too, prefix tokens are scored over the vocabulary


class _Search:
    """The hypotheses of all samples; B samples are unfinished, each with K live hypotheses of t tokens.

    Tokens are held as columns of the allowed ids (`<s>`, `<pad>`, `</s>`, `<unk>` are 0..3 in both countings).
    """

    def __init__(
        self,
        n_samples: int,
        options: GenerationOptions,
        allowed_ids: Tensor | None,
        prefix_tokens: Tensor | None,
        device: torch.device,
    ) -> None:
        self.options = options
        self.allowed_ids = allowed_ids
        self.prefix = None if prefix_tokens is None else self._columns_of(prefix_tokens)
        self.limits = self._limits(n_samples, prefix_tokens)
        self.samples = torch.arange(n_samples, device=device)  # [B], which samples are unfinished
        self.columns = torch.full((n_samples, 1, 1), BOS, device=device)  # [B, K, 1 + t], `<s>` first
        self.scores = torch.zeros(n_samples, 1, 0, device=device)  # [B, K, t], sums up to each token
        self.tree = None if options.prefix_tree is None else options.prefix_tree.to(device)
        self.nodes = torch.zeros(n_samples, 1, dtype=torch.long, device=device)  # [B, K], places in the tree
        self.finished: list[list[Hypothesis]] = [[] for _ in range(n_samples)]

    def _limits(self, n_samples: int, prefix_tokens: Tensor | None) -> list[int]:
        """The length at which `</s>` is forced, of each sample."""
        if prefix_tokens is None or not self.options.max_len_behind_prefix:
            return [self.options.max_len] * n_samples
        return [self.options.max_len + length for length in (prefix_tokens != PAD).sum(1).tolist()]

    @property
    def unfinished(self) -> bool:
        return len(self.samples) > 0

    @property
    def newest(self) -> Tensor:
        """[B, K], the last token of each live hypothesis, as vocabulary ids."""
        return self._ids_of(self.columns[..., -1])

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Logits [B, K, A] -> log-probabilities [B, K, A], among the next tokens of a tree if there is one."""
        logits = logits.float() / self.options.temperature
        if self.tree is not None and self.options.softmax_over_tree:
            is_forced = (self._forced() != PAD)[:, None, None]
            logits = logits.masked_fill(self._outside_tree(logits.shape[-1]) & ~is_forced, -torch.inf)
        return torch.log_softmax(logits, -1)

    def advance(self, log_probabilities: Tensor) -> tuple[Tensor | None, Tensor]:
        """One step. log_probabilities [B, K, A] -> which samples stay (None: all), and their beams [B', K'].

        The 2 x beam best continuations of a sample's live hypotheses are ranked. Of the first `beam` of them, those
        that end are finished; the best `beam` that do not end live on. A sample is done when `beam` hypotheses have
        finished, or none can go on, or at max_len, where `</s>` is forced.
        """
        width, length = self.options.beam_size, self.columns.shape[-1] - 1
        allowed = self._allow(log_probabilities, length)
        totals = allowed if length == 0 else allowed + self.scores[..., -1:]
        n_columns = totals.shape[-1]
        ranked, flat = totals.flatten(1).topk(min(2 * width, totals[0].numel()))
        beams, columns = flat // n_columns, flat % n_columns
        ends = columns == EOS
        for sample, rank in (ends[:, :width] & ranked[:, :width].isfinite()).nonzero().tolist():
            if len(self.finished[self.samples[sample]]) < width:
                self._finish(sample, int(beams[sample, rank]), ranked[sample, rank])
        # A stable sort puts what lives on first, best first; with a small vocabulary there may be fewer than `beam`.
        order = ends.long().sort(dim=1, stable=True).indices[:, :width]
        beams, columns, ranked = (x.gather(1, order) for x in (beams, columns, ranked))
        ranked = ranked.masked_fill(columns == EOS, -torch.inf)
        rows = torch.arange(len(beams), device=beams.device)[:, None]
        if self.tree is not None:  # before the columns grow: it asks whether the new ones were forced
            self.nodes = self._walk(self.nodes[rows, beams], columns, ranked)
        self.columns = torch.cat([self.columns[rows, beams], columns[..., None]], -1)
        self.scores = torch.cat([self.scores[rows, beams], ranked[..., None]], -1)
        done = [
            length >= self.limits[sample] or len(self.finished[sample]) >= width or not goes_on
            for sample, goes_on in zip(self.samples.tolist(), ranked.isfinite().any(1).tolist(), strict=True)
        ]
        if not any(done):
            return None, beams
        stay = torch.tensor([i for i, is_done in enumerate(done) if not is_done], device=beams.device, dtype=torch.long)
        self.samples, self.columns, self.scores = self.samples[stay], self.columns[stay], self.scores[stay]
        self.nodes = self.nodes[stay]
        return stay, beams[stay]

    def hypotheses(self) -> list[list[Hypothesis]]:
        return [sorted(found, key=lambda h: -h.score) for found in self.finished]

    def _allow(self, log_probabilities: Tensor, length: int) -> Tensor:
        """Minus infinity where the rules forbid a continuation; the others keep their log-probability."""
        allowed = log_probabilities.clone()
        allowed[..., NEVER_CHOSEN] = -torch.inf
        if self.tree is not None:
            allowed.masked_fill_(self._outside_tree(allowed.shape[-1]), -torch.inf)
        ends = [i for i, sample in enumerate(self.samples.tolist()) if length >= self.limits[sample]]
        at_end = allowed[ends, :, EOS]
        if length < self.options.min_len:
            allowed[..., EOS] = -torch.inf
        if 0 < self.options.no_repeat_ngram_size <= length + 1:
            self._forbid_repetition(allowed, self.options.no_repeat_ngram_size)
        if self.prefix is not None and length < self.prefix.shape[1]:
            forced = self._forced()[:, None, None]
            only = torch.full_like(allowed, -torch.inf)
            index = forced.expand(*allowed.shape[:2], 1)
            only.scatter_(-1, index, log_probabilities.gather(-1, index))
            allowed = torch.where(forced != PAD, only, allowed)
        allowed[ends] = -torch.inf
        allowed[ends, :, EOS] = at_end
        return allowed

    def _forced(self) -> Tensor:
        """[B], the prefix token that comes next; `<pad>` where there is none."""
        length = self.columns.shape[-1] - 1
        if self.prefix is None or length >= self.prefix.shape[1]:
            return torch.full_like(self.samples, PAD)
        return self.prefix[self.samples, length]

    def _outside_tree(self, n_columns: int) -> Tensor:
        """[B, K, A] booleans, True where no answer of the tree goes on."""
        outside = ~self.tree.mask(self.nodes)
        if self.allowed_ids is not None:
            return outside
        whole = outside.new_ones(*self.nodes.shape, n_columns)  # columns are the vocabulary's, not the tree's
        whole[..., self.tree.tokens] = outside
        return whole

    def _walk(self, nodes: Tensor, columns: Tensor, ranked: Tensor) -> Tensor:
        """The nodes [B, K] that the chosen columns [B, K] lead to; a prefix does not leave the root."""
        if self.allowed_ids is None:
            columns = self.tree.columns_of(columns)
        following = torch.where(self._forced()[:, None] != PAD, nodes, self.tree.step(nodes, columns))
        # What cannot go on leaves the tree: behind a leaf there would be nothing to take a softmax over.
        return following.masked_fill(ranked.isneginf(), self.tree.off)

    def _forbid_repetition(self, allowed: Tensor, n: int) -> None:
        ngrams = self.columns.unfold(-1, n, 1)  # [B, K, t + 2 - n, n]
        last = self.columns[..., None, self.columns.shape[-1] - n + 1 :]  # the n - 1 newest tokens
        repeats = (ngrams[..., :-1] == last).all(-1)
        # Where nothing is repeated, `<pad>` is forbidden once more.
        allowed.scatter_(-1, torch.where(repeats, ngrams[..., -1], PAD), -torch.inf)

    def _finish(self, sample: int, beam: int, total: Tensor) -> None:
        sums = torch.cat([self.scores[sample, beam], total[None]])
        score = float(total)
        if self.options.normalize_scores:
            score /= len(sums) ** self.options.length_penalty
        tokens = [*self._ids_of(self.columns[sample, beam, 1:]).tolist(), EOS]
        token_scores = sums.diff(prepend=sums.new_zeros(1)).tolist()
        self.finished[self.samples[sample]].append(Hypothesis(tokens, score, token_scores))

    def _ids_of(self, columns: Tensor) -> Tensor:
        return columns if self.allowed_ids is None else self.allowed_ids[columns]

    def _columns_of(self, ids: Tensor) -> Tensor:
        return ids if self.allowed_ids is None else torch.searchsorted(self.allowed_ids, ids)
