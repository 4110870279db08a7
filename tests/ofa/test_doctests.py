"""The examples in docstrings of the library."""

import doctest
import importlib
import pkgutil

import pytest

import ofa

MODULES = [m.name for m in pkgutil.walk_packages(ofa.__path__, "ofa.") if not m.name.endswith("__main__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) >= 10
