import logging
import re
import shutil
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from ofa.errors import UserError
from tasks.metrics import captions as module
from tasks.metrics.captions import CaptionReport, CaptionScores
from tasks.metrics.cider import CiderD, DocumentFrequencies

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java on the PATH")
SAMPLES = [
    ("i1", "A man rides a horse.", ["a man is riding a brown horse", "Someone on a horse, outside."]),
    ("i2", "two dogs play with a ball", ["Two dogs are playing in the grass.", "dogs with a ball"]),
    ("i3", "a plate of food on the table", ["a plate with food and a fork", "the café's food on a table"]),
    ("i4", "a cat", ["a black cat sleeps on a sofa", "the cat isn't awake"]),
]
PYTHON_ONLY = {"cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}


def fill(metric, samples):
    for sample in samples:
        metric.update(*sample)
    return metric


def cider_d(samples, frequencies=None):
    captions = [caption for _, caption, _ in samples]
    references = [texts for *_, texts in samples]
    return CiderD(frequencies or DocumentFrequencies.from_references(references)).scores(captions, references).mean()


@pytest.fixture(scope="module")
def report():
    return {name: score.item() for name, score in fill(CaptionReport(), SAMPLES).compute().items()}


def test_the_mean_is_cider_d_with_the_frequencies_of_all_references_or_given_ones():
    assert fill(CaptionScores(), SAMPLES).compute()["cider_d"].item() == pytest.approx(cider_d(SAMPLES))
    frequencies = DocumentFrequencies.from_references([["a man <eos>"], ["a horse <eos>"], ["dogs <eos>"]])
    scores = fill(CaptionScores(frequencies), SAMPLES[:1]).compute()
    assert scores["cider_d"].item() == pytest.approx(cider_d(SAMPLES[:1], frequencies))


def test_rows_of_one_image_are_united_with_the_first_caption():
    apart = []
    for image, caption, (first, second) in SAMPLES:
        apart += [(image, caption, [first]), (image, "something else", [second])]
    assert fill(CaptionScores(), apart).compute() == fill(CaptionScores(), SAMPLES).compute()


def over_processes(metrics):
    """What the last metric computes after torchmetrics collected the states of all, one in each process."""

    def gather(own, group):
        states = [torch.cat(metric.rows) if metric.rows else own[:0] for metric in metrics]
        assert {state.dtype for state in states} == {own.dtype}
        return states

    metrics[-1].dist_sync_fn, metrics[-1].distributed_available_fn = gather, lambda: True
    return metrics[-1].compute()


MANY = [(f"{image}-{number // 4}", *rest) for number, (image, *rest) in enumerate(SAMPLES * 25)]
SPLIT = [("i1", "A man", ["a man"]), ("i2", "a dog", ["dog"]), ("i2", "dog", ["a dog", "cat"]), ("i3", "x", ["y"])]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(
    ("samples", "cuts"),
    [(MANY, cuts) for cuts in ((50,), (10,), (99,), (33, 66), (100,), (0,))] + [(SPLIT, (cut,)) for cut in range(5)],
)
def test_several_processes_give_exactly_the_result_of_one(samples, cuts):
    metrics = [fill(CaptionScores(), samples[i:j]) for i, j in pairwise((0, *cuts, len(samples)))]
    assert over_processes(metrics) == fill(CaptionScores(), samples).compute()


def test_an_empty_caption_scores_nothing_and_line_breaks_are_spaces():
    metric = fill(CaptionScores(), [("i1", "", ["a dog"]), ("i2", "a\ncat\u2028sits", ["a cat sits"])])
    assert metric.compute()["cider_d"].item() == pytest.approx(
        cider_d([("i1", "", ["a dog"]), ("i2", "a cat sits", ["a cat sits"])])
    )


@pytest.mark.parametrize("kind", [CaptionScores, CaptionReport])
def test_an_image_without_references_is_named_and_no_rows_give_no_number(kind):
    with pytest.raises(UserError, match="image i7 has no references"):
        kind().update("i7", "a dog", [])
    with pytest.warns(UserWarning, match="was called before"):
        assert kind().compute() == {}


@needs_java
def test_the_report_has_the_numbers_of_pycocoevalcap(report):
    references = PTBTokenizer().tokenize({i: [{"caption": text} for text in texts] for i, _, texts in SAMPLES})
    captions = PTBTokenizer().tokenize({i: [{"caption": caption}] for i, caption, _ in SAMPLES})
    bleu, _ = Bleu(4).compute_score(references, captions, verbose=0)
    assert [report[f"bleu_{n}"] for n in range(1, 5)] == pytest.approx(bleu, rel=1e-6)
    for name, scorer in (("rouge_l", Rouge()), ("cider", Cider()), ("meteor", meteor.Meteor())):
        assert report[name] == pytest.approx(scorer.compute_score(references, captions)[0], rel=1e-6)
    assert report["cider_d"] == pytest.approx(cider_d(SAMPLES), rel=1e-6)
    assert set(report) - {"spice"} == PYTHON_ONLY | {"meteor"}


@needs_java
def test_difficult_captions_change_no_others_and_leave_no_output_and_no_program(monkeypatch, capfd, caplog, report):
    started = remember_meteors(monkeypatch)
    difficult = [
        ("e1", "", ["a dog", ""]),
        ("e2", "zebra ||| b\nzoo", ["a ||| dog\r\nruns", "x\u2028y \x85 z"]),
        ("e3", " \n", ["|||"]),
    ]
    scores = fill(CaptionReport(), [*difficult, *SAMPLES, ("e4", "", [""])]).compute()
    assert set(scores) - {"spice"} == PYTHON_ONLY | {"meteor"}
    assert 0.5 * report["meteor"] < scores["meteor"] < report["meteor"]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert [process.poll() is None for process in started] == [False]


@needs_java
def test_where_meteor_fails_the_other_numbers_stay(monkeypatch, caplog, report):
    started = remember_meteors(monkeypatch)
    monkeypatch.setattr(meteor, "METEOR_JAR", "none.jar")
    scores = fill(CaptionReport(), SAMPLES).compute()
    assert {name: score.item() for name, score in scores.items()} == {n: v for n, v in report.items() if n != "meteor"}
    (message,) = caplog.messages
    assert "METEOR is left out" in message and "none.jar" in message and "\n" not in message
    assert [process.poll() is None for process in started] == [False]


def remember_meteors(monkeypatch):
    processes = []

    class Remembered(meteor.Meteor):
        def __init__(self):
            super().__init__()
            processes.append(self.meteor_p)

    monkeypatch.setattr(module, "Meteor", Remembered)
    return processes


def test_spice_runs_only_where_its_models_are_and_may_fail(monkeypatch, tmp_path, caplog):
    spice = Mock()
    spice.return_value.compute_score.side_effect = RuntimeError("out of memory")
    monkeypatch.setattr(module, "_check_java", lambda: None)
    monkeypatch.setattr(module, "_split_as_treebank", module._split_plainly)
    monkeypatch.setattr(module, "_meteor", lambda references, captions: 0.5)
    monkeypatch.setattr(module.spice, "Spice", spice)
    monkeypatch.setattr(module, "SPICE_MODELS", [tmp_path / "none.jar"])
    assert "spice" not in fill(CaptionReport(), SAMPLES).compute() and not caplog.records
    monkeypatch.setattr(module, "SPICE_MODELS", [tmp_path])
    assert fill(CaptionReport(), SAMPLES).compute()["meteor"] == 0.5
    assert caplog.messages == ["SPICE is left out, for it could not be computed: out of memory"]
    spice.return_value.compute_score = Mock(return_value=(0.25, []))
    assert fill(CaptionReport(), SAMPLES).compute()["spice"] == 0.25


def without_java(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return "there is no java on the PATH"


def with_broken_java(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho Error: no JVM here >&2\nexit 3\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return "java does not run (Error: no JVM here)"


@pytest.mark.parametrize("breakage", [without_java, with_broken_java])
def test_without_java_one_warning_names_what_is_computed_instead(monkeypatch, tmp_path, caplog, capfd, breakage):
    reason = breakage(monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        scores = fill(CaptionReport(), SAMPLES).compute()
    (message,) = caplog.messages
    assert message.startswith(reason) and "METEOR" in message and "lower case without punctuation" in message
    assert set(scores) == PYTHON_ONLY
    assert capfd.readouterr() == ("", "")
    plain = [(i, *(re.sub("[.,]", "", text.lower()) for text in (caption, *texts))) for i, caption, texts in SAMPLES]
    captions, references = {i: [caption] for i, caption, *_ in plain}, {i: texts for i, _, *texts in plain}
    for name, scorer in (("cider", Cider()), ("rouge_l", Rouge())):
        assert scores[name].item() == pytest.approx(scorer.compute_score(references, captions)[0], rel=1e-6)
