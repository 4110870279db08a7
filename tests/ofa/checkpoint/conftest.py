"""The model whose weights the files of these tests hold, where they say of no other."""

import pytest
from helpers import published

from ofa.model import OFAModel


@pytest.fixture(scope="module")
def model():
    return OFAModel(published.small_config())
