"""Numbers, p-values, shares and counts as one reads them, at their edges."""

import math

import pytest

from nbhelpers.report import text


@pytest.mark.parametrize(
    ("p", "digits", "shown"),
    [(0.01, 2, "0.01"), (0.0099, 2, "< 0.01"), (0.001, 3, "0.001"), (0.0, 3, "< 0.001"), (0.994, 2, "0.99")],
)
def test_the_smallest_p_value_that_is_written_out(p, digits, shown):
    assert text.p_value(p, digits) == shown


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(-0.004, 2, "0.00"), (-0.006, 2, "−0.01"), (0.126, 2, "0.13"), (12.5, 0, "12"), (math.nan, 2, "–")],
)
def test_a_zero_has_no_sign_and_a_number_all_its_digits(value, digits, shown):
    assert text.number(value, digits) == shown


def test_an_interval_has_its_ends_in_order():
    assert text.interval((0.5, -0.25, 1.0)) == "0.50 [−0.25, 1.00]"
    assert text.interval((0.5, 0.1234, 1.0), 3) == "0.500 [0.123, 1.000]"


def test_counts_in_words_up_to_ten_and_shares_in_whole_per_cent():
    assert [text.in_words(n) for n in (0, 9, 10, 11)] == ["none", "nine", "ten", "11"]
    assert [text.percent(share) for share in (0.126, 0.5, 1)] == ["13 %", "50 %", "100 %"]
