"""The case of scoring all answers of a closed set; the encoder's time for the same batch is what to compare it with."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.compute import ModelCase
from benchmarks.machine import Machine
from benchmarks.measure import Workload
from ofa.generation import PrefixTree, score_candidates
from ofa.vocabulary import UNK


@dataclass(frozen=True)
class Candidates(ModelCase):
    """The log-probabilities of all answers behind a prompt, once the encoder has run."""

    image_size: int = 480
    answers: int = 3129
    prompt_tokens: int = 10

    @property
    def name(self) -> str:
        return f"scoring, {self.image_size} px, {self.answers} answers"

    def prepare(self, machine: Machine, folder: Path) -> Workload:
        model = self.build_model(machine, train=False)
        inputs = self.build_inputs(machine)
        prompt = self.random_text(self.prompt_tokens, machine)
        tree = PrefixTree(short_answers(self.answers))
        with torch.no_grad(), machine.autocast():
            encoded = model.encoder(**inputs)
        model.encoder.forward = lambda **_: encoded  # an encoder that takes no time

        def score() -> None:
            with machine.autocast():
                score_candidates(model, inputs, tree, prompt)

        return Workload(score, self.batch_size)


def short_answers(n: int) -> list[list[int]]:
    """Token ids of n answers, about as VQA's: two thirds of one token, the others of 2 to 4.

    A longer answer begins with one of as many tokens as there are such answers, some of them far more frequent than
    others; most of these tokens are answers, too.
    """
    rng = random.Random(0)
    words = range(UNK + 1, UNK + 1 + n)
    n_short = n - n // 3
    answers = {(word,) for word in words[:n_short]}
    first = words[n_short // 2 : n_short // 2 + n // 3]
    while len(answers) < n:
        length = rng.choices((2, 3, 4), (6, 3, 1))[0]
        begin = first[int(len(first) * rng.random() ** 2)]
        # The second word comes from few, so that longer answers share more than their first.
        second = rng.choice(words[:10])
        answers.add((begin, second, *rng.choices(words, k=length - 2)))
    return [list(answer) for answer in answers]
