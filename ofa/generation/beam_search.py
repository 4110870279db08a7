"""Beam search with the semantics of the published results (see `_Search.advance`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ofa.generation.constraints import Constraints
from ofa.generation.options import GenerationOptions
from ofa.generation.step_decoder import StepDecoder, average, encode, models_of
from ofa.model import OFAModel
from ofa.vocabulary import BOS, EOS, PAD


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
        prefix_tokens: [B, P], tokens that each sample's sequences begin with, right-padded with 1; they count in
            tokens, score and length. A prefix tree starts after them.

    Returns:
        For each sample up to `beam_size` hypotheses; fewer, or none, where the constraints leave fewer sequences.

    Raises:
        UserError: a model is in training mode, or a prefix token is outside the constraint range.
    """
    models = models_of(model)
    device = batch["input_ids"].device
    constraints = Constraints(options, len(batch["input_ids"]), prefix_tokens, device)
    search = _Search(options, constraints, device)
    length, allowed_ids = max(constraints.limits) + 1, constraints.allowed_ids
    decoders = [StepDecoder(m, encode(m, batch), length, allowed_ids, batch.get("code_masks")) for m in models]
    while len(search.samples):
        newest = constraints.ids_of(search.columns[..., -1])
        probabilities = [search.log_softmax(decoder.step(newest)) for decoder in decoders]
        samples, beams = search.advance(average(probabilities))
        if len(search.samples):
            for decoder in decoders:
                decoder.select(samples, beams)
    return [sorted(found, key=lambda h: -h.score) for found in search.finished]


class _Search:
    """The hypotheses of all samples; B samples are unfinished, each with K live hypotheses of t tokens (as columns)."""

    def __init__(self, options: GenerationOptions, constraints: Constraints, device: torch.device) -> None:
        n_samples = len(constraints.limits)
        self.options = options
        self.constraints = constraints
        self.samples = torch.arange(n_samples, device=device)  # [B], which samples are unfinished
        self.columns = torch.full((n_samples, 1, 1), BOS, device=device)  # [B, K, 1 + t], `<s>` first
        self.scores = torch.zeros(n_samples, 1, 0, device=device)  # [B, K, t], sums up to each token
        self.nodes = torch.zeros(n_samples, 1, dtype=torch.long, device=device)  # [B, K], places in the tree
        self.finished: list[list[Hypothesis]] = [[] for _ in range(n_samples)]

    @property
    def length(self) -> int:
        """t, the number of tokens of each live hypothesis."""
        return self.columns.shape[-1] - 1

    def log_softmax(self, logits: Tensor) -> Tensor:
        """See `Constraints.log_softmax`."""
        heated = logits.float() / self.options.temperature
        return self.constraints.log_softmax(heated, self.samples, self.nodes, self.length)

    def advance(self, log_probabilities: Tensor) -> tuple[Tensor | None, Tensor]:
        """One step. log_probabilities [B, K, A] -> which samples stay (None: all), and their beams [B', K'].

        The 2 x beam best continuations of a sample's live hypotheses are ranked. Of the first `beam` of them, those
        that end are finished; the best `beam` that do not end stay live. A sample is done when `beam` hypotheses have
        finished, or none can continue, or at max_len, where `</s>` is forced.
        """
        width, length = self.options.beam_size, self.length
        allowed = self.constraints.allow(log_probabilities, self.samples, self.nodes, length)
        if 0 < self.options.no_repeat_ngram_size <= length + 1:
            self._forbid_repetition(allowed, self.options.no_repeat_ngram_size)
        totals = allowed if length == 0 else allowed + self.scores[..., -1:]
        n_columns = totals.shape[-1]
        ranked, flat = totals.flatten(1).topk(min(2 * width, totals[0].numel()))
        beams, columns = flat // n_columns, flat % n_columns
        ends = columns == EOS
        for sample, rank in (ends[:, :width] & ranked[:, :width].isfinite()).nonzero().tolist():
            if len(self.finished[self.samples[sample]]) < width:
                self._finish(sample, int(beams[sample, rank]), ranked[sample, rank])
        # A stable sort puts live hypotheses first, best first; with a small vocabulary there may be fewer than `beam`.
        order = ends.long().sort(dim=1, stable=True).indices[:, :width]
        beams, columns, ranked = (x.gather(1, order) for x in (beams, columns, ranked))
        ranked = ranked.masked_fill(columns == EOS, -torch.inf)
        rows = torch.arange(len(beams), device=beams.device)[:, None]
        self.nodes = self.constraints.walk(self.nodes[rows, beams], columns, self.samples, length)
        if self.options.prefix_tree is not None:
            # What cannot continue leaves the tree: after a leaf there is no token for a softmax.
            self.nodes = self.nodes.masked_fill(ranked.isneginf(), self.options.prefix_tree.off)
        self.columns = torch.cat([self.columns[rows, beams], columns[..., None]], -1)
        self.scores = torch.cat([self.scores[rows, beams], ranked[..., None]], -1)
        done = [
            length >= self.constraints.limits[sample] or len(self.finished[sample]) >= width or not is_alive
            for sample, is_alive in zip(self.samples.tolist(), ranked.isfinite().any(1).tolist(), strict=True)
        ]
        if not any(done):
            return None, beams
        stay = torch.tensor([i for i, is_done in enumerate(done) if not is_done], device=beams.device, dtype=torch.long)
        self.samples, self.nodes = self.samples[stay], self.nodes[stay]
        self.columns, self.scores = self.columns[stay], self.scores[stay]
        return stay, beams[stay]

    def _forbid_repetition(self, allowed: Tensor, n: int) -> None:
        ngrams = self.columns.unfold(-1, n, 1)  # [B, K, t + 2 - n, n]
        last = self.columns[..., None, self.columns.shape[-1] - n + 1 :]  # the n - 1 newest tokens
        is_forced = (self.constraints.forced(self.samples, self.length) != PAD)[:, None, None]
        repeats = (ngrams[..., :-1] == last).all(-1) & ~is_forced  # a prefix may repeat itself
        # Where nothing is repeated, `<pad>` is forbidden once more.
        allowed.scatter_(-1, torch.where(repeats, ngrams[..., -1], PAD), -torch.inf)

    def _finish(self, sample: int, beam: int, total: Tensor) -> None:
        sums = torch.cat([self.scores[sample, beam], total[None]])
        score = float(total)
        if self.options.normalize_scores:
            score /= len(sums) ** self.options.length_penalty
        tokens = [*self.constraints.ids_of(self.columns[sample, beam, 1:]).tolist(), EOS]
        token_scores = sums.diff(prepend=sums.new_zeros(1)).tolist()
        self.finished[self.samples[sample]].append(Hypothesis(tokens, score, token_scores))
