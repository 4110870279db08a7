import pytest
import torch

from criterions.distillation.attention import (
    attention_ce,
    attention_ce_mean,
    attention_mse,
    attention_mse_sum,
    valid_cells,
)

LOSSES = [attention_mse, attention_mse_sum, attention_ce, attention_ce_mean]


def test_a_cell_counts_where_query_and_key_are_there():
    cells = valid_cells(torch.tensor([[True, False]]), torch.tensor([[True, True, False]]))
    assert cells.tolist() == [[[True, True, False], [False, False, False]]]


@pytest.mark.parametrize("loss", LOSSES)
def test_cross_attention_has_fewer_queries_than_keys(loss):
    torch.manual_seed(0)
    student, teacher = torch.rand(2, 2, 4, 3, 7).softmax(-1)
    queries, keys = torch.ones(2, 3).bool(), torch.ones(2, 7).bool()
    whole = loss(student, teacher, valid_cells(queries, keys))
    queries[1] = False
    torch.testing.assert_close(
        loss(student, teacher, valid_cells(queries, keys)), loss(student[:1], teacher[:1], torch.ones(1, 3, 7).bool())
    )
    assert whole.isfinite()


def test_every_head_counts_the_same_however_many_there_are():
    student, teacher = torch.rand(2, 1, 4, 3, 3)
    twice = attention_mse(student.repeat(1, 2, 1, 1), teacher.repeat(1, 2, 1, 1), torch.ones(1, 3, 3).bool())
    torch.testing.assert_close(twice, attention_mse(student, teacher, torch.ones(1, 3, 3).bool()))
