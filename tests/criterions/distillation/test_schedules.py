import pytest

from criterions.distillation.schedules import check_weight_schedule, weight_factor
from ofa.errors import UserError


@pytest.mark.parametrize(
    ("name", "factors"), [("constant", [1, 1, 1, 1]), ("growing", [0, 0.25, 1, 1]), ("decaying", [1, 0.75, 0, 0])]
)
def test_a_weight_changes_linearly_and_stays_as_it_ended(name, factors):
    assert [weight_factor(name, update, total_updates=8) for update in (0, 2, 8, 9)] == factors


def test_an_unknown_schedule_is_refused_with_the_closest_one():
    with pytest.raises(UserError, match="distill.kd_schedule=grow is not .* did you mean 'growing'"):
        check_weight_schedule("grow", "distill.kd_schedule")
