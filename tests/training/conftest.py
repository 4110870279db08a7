"""Fixtures of the tests of training."""

import pytest
from helpers.distillation import make_batch

from ofa.config import OFAConfig
from ofa.model import OFAModel


@pytest.fixture
def model():
    """A new micro model with the published initialisation, which the tests train."""
    return OFAModel(OFAConfig.from_name("micro"))


@pytest.fixture
def batch():
    """Two samples of a task, with targets."""
    return make_batch()
