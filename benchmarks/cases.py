"""Which benchmarks there are."""

from __future__ import annotations

from benchmarks.candidates import Candidates
from benchmarks.checkpoints import FORMS, CheckpointLoading
from benchmarks.cider import CaptionScoring
from benchmarks.compute import Decoding, Encoding, TrainingStep
from benchmarks.distillation import CachedStep, DistillationStep, PlainStep
from benchmarks.loading import Indexing, Loading
from benchmarks.losses import MaskedLoss, TreeLoss
from benchmarks.measure import Case
from benchmarks.preparing import Preparing
from ofa.vocabulary import BINS

ON_REQUEST = ("checkpoints",)  # minutes, and 5 GB of disk: measured where they are named

CASES: dict[str, list[Case]] = {
    "training_step": [TrainingStep(384)],
    "distillation": [
        DistillationStep(),
        DistillationStep(teacher_precision="bf16-true"),
        CachedStep(),
        PlainStep(),
    ],
    "encoder": [Encoding(384), Encoding(512)],
    "beam_search": [Decoding(384), Decoding(512, kind="bins", tokens=4, constraint_range=BINS)],
    "constrained_loss": [TreeLoss(), MaskedLoss()],
    "candidates": [Encoding(480), Candidates()],
    "cider": [CaptionScoring()],
    "checkpoints": [CheckpointLoading(form) for form in FORMS],
    "data_loading": [Loading(workers=0), Loading(workers=2), Indexing()],
    "prepare": [Preparing(workers=1), Preparing(workers=2), Preparing(workers=1, max_side=512, rows=200)],
}
