"""Divisions of the layers by hand, where rounding matters: first and last layer of each part."""

import numpy as np
import pytest

from nbhelpers.core import depths


def ends(parts):
    return {name: (layers.start, layers.stop) for name, layers in parts.items()}


def test_depth_ends_at_one():
    np.testing.assert_allclose(depths.depth(4), [0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("n", "at"), [(11, 7), (12, 7), (27, 16), (28, 17), (32, 19), (34, 20), (36, 22), (5, 3)]
)
def test_the_onset_is_six_tenths_rounded(n, at):
    assert depths.onset(n) == at


@pytest.mark.parametrize(
    ("n", "windows"),
    [
        (12, {"early": (0, 5), "mid": (3, 8), "late": (7, 12)}),
        (11, {"early": (0, 4), "mid": (3, 7), "late": (7, 11)}),
    ],
)
def test_windows_are_as_wide_as_the_late_one_and_the_middle_one_is_rounded_down(n, windows):
    assert ends(depths.windows(n)) == windows


def test_parts_of_odd_numbers_of_layers():
    assert depths.final_fifth(11) == range(8, 11) and depths.final_fifth(12) == range(9, 12)
    assert depths.late_half(11) == range(5, 11) and depths.late_half(12) == range(6, 12)
    assert ends(depths.thirds(11)) == {"early": (0, 3), "middle": (3, 7), "late": (7, 11)}
    assert ends(depths.phases(12)) == {"content": (0, 5), "format": (5, 7), "corrective": (7, 12)}
    assert depths.around_third(12) == range(3, 6) and depths.around_third(34) == range(9, 14)
