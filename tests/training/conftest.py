"""Fixtures of the tests of training."""

import pytest
from helpers.distillation import TEACHER, make_batch, make_model, save
from helpers.trainers import without_trainer

from ofa.config import OFAConfig
from ofa.model import OFAModel


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The folder of a run, wider and deeper than STUDENT."""
    return save(make_model(TEACHER, 1), tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(autouse=True)
def no_trainer(monkeypatch):
    without_trainer(monkeypatch)


@pytest.fixture
def model():
    """A new micro model with the published initialisation, which the tests train."""
    return OFAModel(OFAConfig.from_name("micro"))


@pytest.fixture
def batch():
    """Two samples of a task, with targets."""
    return make_batch()
