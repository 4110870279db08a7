import pytest
from omegaconf import OmegaConf

from data.tsv import TSVSource
from ofa.errors import UserError
from tasks.refcoco import RefCOCO
from training.data_files import splits_to_test

ALL = TSVSource(dict.fromkeys(("train", "val", "testA", "testB"), "a.tsv"), RefCOCO.columns)


def splits(split=None, source=ALL):
    return splits_to_test(OmegaConf.create({"split": split}), source, RefCOCO)


def test_without_a_choice_all_evaluation_splits_of_the_data_are_tested():
    assert splits() == ["val", "testA", "testB"]
    assert splits(source=TSVSource({"train": "a.tsv", "testB": "b.tsv"}, RefCOCO.columns)) == ["testB"]


def test_an_unknown_split_is_answered_with_the_closest_one():
    assert splits("testA") == ["testA"] and splits("train") == ["train"]
    with pytest.raises(UserError, match="split=testa is not one of train, val, testA, testB; did you mean 'testA'"):
        splits(["testa"])
