"""Beam search with the semantics that the published results used (see the rules at `_Search.advance`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.errors import UserError
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
        prefix_tokens: [B, P], tokens that each sample's sequences begin with, right-padded with 1.

    Returns:
        For each sample up to `beam_size` hypotheses; fewer where the constraints leave fewer sequences.

    Raises:
        UserError: where a model is in training mode.
    """
    models = [model] if isinstance(model, OFAModel) else list(model)
    if any(m.training for m in models):
        raise UserError("generate() was given a model in training mode; call model.eval() first")
    device = batch["input_ids"].device
    allowed_ids = None
    if options.constraint_range is not None:
        first, end = options.constraint_range
        allowed_ids = torch.cat([torch.arange(4, device=device), torch.arange(first, end, device=device)])
    inputs = {name: batch.get(name) for name in ("input_ids", "patch_images", "patch_masks")}
    decoders = [
        StepDecoder(m, m.encoder(**inputs), options.max_len + 1, allowed_ids, batch.get("code_masks")) for m in models
    ]
    search = _Search(len(batch["input_ids"]), options, allowed_ids, prefix_tokens, device)
    while search.unfinished:
        probabilities = [_log_softmax(decoder.step(search.newest), options.temperature) for decoder in decoders]
        samples, beams = search.advance(_average(probabilities))
        if search.unfinished:
            for decoder in decoders:
                decoder.select(samples, beams)
    return search.hypotheses()


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits.float() / temperature, -1)


def _average(log_probabilities: list[Tensor]) -> Tensor:
    if len(log_probabilities) == 1:
        return log_probabilities[0]
    return torch.stack(log_probabilities).logsumexp(0) - torch.tensor(float(len(log_probabilities))).log()


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
        self.samples = torch.arange(n_samples, device=device)  # [B], which samples are unfinished
        self.columns = torch.full((n_samples, 1, 1), BOS, device=device)  # [B, K, 1 + t], `<s>` first
        self.scores = torch.zeros(n_samples, 1, 0, device=device)  # [B, K, t], sums up to each token
        self.finished: list[list[Hypothesis]] = [[] for _ in range(n_samples)]

    @property
    def unfinished(self) -> bool:
        return len(self.samples) > 0

    @property
    def newest(self) -> Tensor:
        """[B, K], the last token of each live hypothesis, as vocabulary ids."""
        return self._ids_of(self.columns[..., -1])

    def advance(self, log_probabilities: Tensor) -> tuple[Tensor | None, Tensor]:
        """One step. log_probabilities [B, K, A] -> which samples stay (None: all), and their beams [B', K'].

        The 2 x beam best continuations of a sample's live hypotheses are ranked. Of the first `beam` of them, those
        that end are finished; the best `beam` that do not end live on. A sample is done when `beam` hypotheses have
        finished, or at max_len, where `</s>` is forced.
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
        done = [length >= self.options.max_len or len(self.finished[s]) >= width for s in self.samples.tolist()]
        # A stable sort puts what lives on first, best first; with a small vocabulary there may be fewer than `beam`.
        order = ends.long().sort(dim=1, stable=True).indices[:, :width]
        beams, columns, ranked = (x.gather(1, order) for x in (beams, columns, ranked))
        ranked = ranked.masked_fill(columns == EOS, -torch.inf)
        rows = torch.arange(len(beams), device=beams.device)[:, None]
        self.columns = torch.cat([self.columns[rows, beams], columns[..., None]], -1)
        self.scores = torch.cat([self.scores[rows, beams], ranked[..., None]], -1)
        if not any(done):
            return None, beams
        stay = torch.tensor([i for i, is_done in enumerate(done) if not is_done], device=beams.device, dtype=torch.long)
        self.samples, self.columns, self.scores = self.samples[stay], self.columns[stay], self.scores[stay]
        return stay, beams[stay]

    def hypotheses(self) -> list[list[Hypothesis]]:
        return [sorted(found, key=lambda h: -h.score) for found in self.finished]

    def _allow(self, log_probabilities: Tensor, length: int) -> Tensor:
        """Minus infinity where the rules forbid a continuation; the others keep their log-probability."""
        allowed = log_probabilities.clone()
        allowed[..., NEVER_CHOSEN] = -torch.inf
        if length >= self.options.max_len:
            allowed[..., :EOS] = -torch.inf
            allowed[..., EOS + 1 :] = -torch.inf
            return allowed
        if length < self.options.min_len:
            allowed[..., EOS] = -torch.inf
        if 0 < self.options.no_repeat_ngram_size <= length + 1:
            self._forbid_repetition(allowed, self.options.no_repeat_ngram_size)
        if self.prefix is not None and length < self.prefix.shape[1]:
            forced = self.prefix[self.samples, length]
            is_forced = (forced != PAD)[:, None, None]
            only = torch.full_like(allowed, -torch.inf)
            index = forced[:, None, None].expand(*allowed.shape[:2], 1)
            only.scatter_(-1, index, log_probabilities.gather(-1, index))
            allowed = torch.where(is_forced, only, allowed)
        return allowed

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
