import pytest
from omegaconf import OmegaConf

from ofa.errors import UserError
from tasks.refcoco import RefCOCO
from training.data_files import splits_to_test


def splits(**changes):
    return splits_to_test(OmegaConf.create({"split": None, "data": {"name": "tsv", "files": None}, **changes}), RefCOCO)


def test_without_a_choice_all_splits_are_tested_that_have_a_file():
    assert splits() == ["val", "testA", "testB"]
    assert splits(data={"name": "tsv", "files": {"train": "a.tsv", "testB": "b.tsv"}}) == ["testB"]


def test_an_unknown_split_is_answered_with_the_closest_one():
    assert splits(split="testA") == ["testA"] and splits(split="train") == ["train"]
    with pytest.raises(UserError, match="split=testa is not one of train, val, testA, testB; did you mean 'testA'"):
        splits(split=["testa"])
