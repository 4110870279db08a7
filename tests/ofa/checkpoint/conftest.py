"""Fixtures of the checkpoint tests."""

import pytest
from helpers import published

from ofa.model import OFAModel


@pytest.fixture(scope="module")
def model():
    return OFAModel(published.small_config())
