"""Parameters by tensor and depth, as mergekit's README describes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merge_on_load.recipes.settings import check, first_value, value_of

MLP = "model.layers.3.mlp.up_proj.weight"
ATTENTION = "model.layers.3.self_attn.q_proj.weight"


@given(st.floats(0, 1), st.floats(-2, 2))
def test_a_number_is_the_same_everywhere(depth, number):
    assert value_of(number, MLP, depth) == number


@pytest.mark.parametrize(
    ("depth", "expected"), [(0, 0), (0.25, 0.5), (0.5, 1), (0.75, 0.5), (1, 0), (0.125, 0.25)]
)
def test_a_gradient_is_spread_over_depth_in_straight_lines(depth, expected):
    assert value_of([0, 1, 0], MLP, depth) == pytest.approx(expected)


@given(st.lists(st.floats(-1, 1), min_size=1), st.floats(0, 1))
def test_a_gradient_stays_between_its_values(values, depth):
    assert min(values) - 1e-9 <= value_of(values, MLP, depth) <= max(values) + 1e-9


def test_the_first_filter_that_is_part_of_the_name_decides():
    setting = [{"filter": "mlp", "value": [0, 1]}, {"filter": "up_proj", "value": 7}, {"value": 2}]

    assert value_of(setting, MLP, 0.5) == 0.5
    assert value_of(setting, ATTENTION, 0.5) == 2
    assert value_of(setting[:2], ATTENTION, 0.5) is None


def test_the_nearest_level_that_has_a_value_for_the_tensor_decides():
    levels = [{"weight": [{"filter": "mlp", "value": 1}]}, {}, {"weight": 2}, {"weight": 3}]

    assert first_value(levels, "weight", MLP, 0) == 1
    assert first_value(levels, "weight", ATTENTION, 0) == 2
    assert first_value(levels, "density", ATTENTION, 0) is None


@pytest.mark.parametrize(
    "setting",
    [
        "0.5",
        None,
        [],
        [1, "2"],
        [{"filter": "mlp"}],
        [{"value": "x"}],
        [{"value": 1, "fliter": "a"}],
        [True, False],
        [{"filter": 3, "value": 1}],
        {"value": 1},
    ],
)
def test_what_is_no_setting_is_told(setting):
    assert check(setting)


@pytest.mark.parametrize("setting", [1, 0.5, True, [1], [0, 0.5], [{"value": [0, 1]}]])
def test_settings_pass(setting):
    assert check(setting) is None
