"""What the training step gives to the criterion, and evaluation to the search."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchmetrics import Metric

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from criterions.self_critical import SelfCritical
from data.batch import Sample, collate
from ofa.config import OFAConfig
from ofa.errors import UserError
from ofa.generation import GenerationOptions, PrefixTree
from ofa.model import OFAModel
from ofa.processors.base import Processor
from tracking.sample_predictions import SamplePrediction
from training.evaluation import EvaluationModule
from training.freezing import Freezing
from training.module import TrainingModule
from training.self_critical import SelfCriticalModule

ANSWERS = [[7], [8, 9], [8, 10]]


def make_batch():
    return collate(
        [
            Sample("a", [0, 11, 12, 2], [8, 9, 2], torch.randn(3, 32, 32), truth=None, prefix=[11, 12], weight=0.5),
            Sample("b", [0, 13, 2], [7, 2], torch.randn(3, 32, 32), truth=None, prefix=[13], weight=1.0),
        ]
    )


def make_model(**options):
    torch.manual_seed(0)
    return OFAModel(OFAConfig.from_name("micro", init_std=0.2, **options))


def make_module(criterion, tree=None, **options):
    task = SimpleNamespace(processor=SimpleNamespace(tree=tree))
    module = TrainingModule(make_model(**options), task, GenerationOptions(), criterion, None, Freezing())
    module.trainer = SimpleNamespace(global_step=0)
    return module


def loss_of(batch, criterion, tree=None, **options):
    return make_module(criterion, tree, **options).eval().loss(batch).sum.item()


@pytest.fixture(autouse=True)
def no_trainer(monkeypatch):
    monkeypatch.setattr(TrainingModule, "global_step", 0)
    monkeypatch.setattr(TrainingModule, "trainer", None, raising=False)


def test_the_loss_depends_on_the_samples_weights():
    batch = make_batch()
    weighted = loss_of(batch, LabelSmoothedCrossEntropy(0.0))
    batch.weights = torch.ones(2)
    assert loss_of(batch, LabelSmoothedCrossEntropy(0.0)) > weighted + 0.1


def test_the_loss_is_taken_over_the_answers_of_the_task():
    batch = make_batch()
    free = loss_of(batch, LabelSmoothedCrossEntropy(0.0))
    assert loss_of(batch, LabelSmoothedCrossEntropy(0.0), PrefixTree(ANSWERS)) < free / 3


def test_rdrop_sees_each_sample_twice_with_dropout_of_its_own():
    torch.manual_seed(0)
    module = make_module(LabelSmoothedCrossEntropy(rdrop_alpha=1.0), dropout=0.3).train()
    loss = module.loss(make_batch())
    assert loss.sample_size == 10  # five tokens, twice
    assert loss.terms["rdrop"].item() > 0.01


def test_self_critical_training_refuses_a_beam_of_one():
    task, options = SimpleNamespace(processor=SimpleNamespace(tree=None)), GenerationOptions(beam_size=1)
    with pytest.raises(UserError, match="generation.beam_size=1: self-critical training compares the hypotheses"):
        SelfCriticalModule(make_model(), task, options, SelfCritical(), None, Freezing(), reward=None)


class Answering(Processor):
    generation, build_prompt, postprocess = GenerationOptions(), None, None

    def __init__(self, tree, scores_candidates):
        self.tree, self.scores_candidates = tree, scores_candidates


def evaluation(tree, scores_candidates, **options):
    task = SimpleNamespace(processor=Answering(tree, scores_candidates))
    return EvaluationModule(make_model().eval(), task, GenerationOptions(**options))


def test_a_beam_search_after_prompts_finds_the_best_candidate_and_the_same_score():
    tree = PrefixTree(ANSWERS)
    beams = {"beam_size": 3, "max_len": 2, "prefix_counts_toward_max_len": False, "normalize_scores": False}
    searched = evaluation(tree, False, prefix_tree=tree, **beams).generate(make_batch())
    torch.manual_seed(0)
    scored = evaluation(tree, True).generate(make_batch())
    for found, (best, *_) in zip(searched, scored, strict=True):
        assert [h.tokens for h in found if h.score == max(g.score for g in found)] == [best.tokens]
        assert found[0].score == pytest.approx(best.score, abs=1e-4)


def test_an_open_answer_does_not_depend_on_other_prompts_of_the_batch():
    options = {"beam_size": 2, "max_len": 3, "prefix_counts_toward_max_len": False, "normalize_scores": False}
    module, image = evaluation(None, False, **options), torch.randn(3, 32, 32)
    short = Sample("a", [0, 13, 2], [], image, truth=None, prefix=[13])
    long = Sample("b", [0, *range(20, 30), 2], [], image, truth=None, prefix=list(range(20, 30)))
    [alone], [beside, _] = module.generate(collate([short])), module.generate(collate([short, long]))
    assert [h.tokens for h in alone] == [h.tokens for h in beside]
    assert all(len(h.tokens) <= 4 for h in alone)


class Count(Metric):
    def __init__(self):
        super().__init__()
        self.add_state("n", torch.tensor(0.0))

    def update(self):
        self.n += 1

    def compute(self):
        return {"count": self.n}


class Counted:
    monitor, metric = "count", Count

    def score(self, metric, prediction, truth):
        metric.update()


def validate_unreadable(tmp_path):
    """A validation by a process whose shard contains only broken rows."""
    batch = collate([])
    batch.notes = ["skipped line 5 of val.tsv: no image", "skipped line 6 of val.tsv: no image"]
    module = EvaluationModule(make_model(), Counted(), GenerationOptions())
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_model_summary=False, enable_progress_bar=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    return trainer.validate(module, DataLoader([batch], batch_size=None), verbose=False)


def test_an_evaluation_without_one_readable_row_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of 2 rows of val could be read; the first: skipped line 5 of val.tsv"):
        validate_unreadable(tmp_path)


def test_a_process_without_a_readable_row_leaves_the_score_to_the_answers_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr("training.evaluation.gather", lambda own: own or [SamplePrediction("a", "yes", "no")])
    assert validate_unreadable(tmp_path) == [{"val/count": 1.0}]
