"""The comparer of notebook outputs: what it lets pass and what it does not."""

import pytest

from tests.outputs import Compared, differences, value_and_unit

TABLE = "                raw          tuned\nLlama   0.69 [0.58, 0.80] ✓   0.30 [0.26, 0.35] ✓\n"


@pytest.mark.parametrize(
    "text, value, unit",
    [("0.69", 0.69, 0.01), ("−1.5", -1.5, 0.1), ("1,234", 1234, 1), ("1.2e+03", 1200, 100), ("7", 7, 1)],
)
def test_a_printed_number_has_a_value_and_the_unit_of_its_last_digit(text, value, unit):
    assert value_and_unit(text) == pytest.approx((value, unit))


@pytest.mark.parametrize(
    "reference, fresh",
    [
        (TABLE, TABLE.replace("0.69", "0.70").replace("0.26", "0.27")),  # a unit of the last digit
        ("12.34", "12.58"),  # 2 %
        ("  a     0.10\nbb  0.20", "a 0.10\nbb 0.20"),  # alignment
        ("0.00", "−0.01"),
        ("1,000 steps", "1,015 steps"),
        ("89 % of prompts", "87 % of prompts"),
        ("1.2e-05", "1.3e-05"),
    ],
)
def test_what_rounding_may_change_passes(reference, fresh):
    assert Compared(reference) == fresh and not differences(reference, fresh)


@pytest.mark.parametrize(
    "reference, fresh",
    [
        (TABLE, TABLE.replace("0.69", "0.90")),
        (TABLE, TABLE.replace("0.58, 0.80", "0.47, 0.91")),  # an interval twice as wide
        (TABLE, TABLE.replace("✓", "✗", 1)),
        (TABLE, TABLE.replace("raw  ", "tuned", 1)),
        ("gap 0.69", "gap −0.69"),
        ("five of six", "four of six"),
        ("5 of 6", "4 of 6"),  # counts are exact
        ("layer 7", "layer 8"),
        ("1,000 steps", "1,030 steps"),
        ("89 % of prompts", "80 % of prompts"),
        ("0.42", "–"),
        ("word_problem-027", "word_problem-028"),  # a name, not a number
        ("kl_stays_0.1", "kl_stays_0.2"),
        ("a b", "a b c"),
        ("0.1", "0.1 0.2"),
    ],
)
def test_what_a_reader_would_read_otherwise_does_not(reference, fresh):
    assert Compared(reference) != fresh and Compared(fresh) != reference
    assert len(differences(reference, fresh)) >= 1


def test_a_difference_names_its_line_and_both_numbers():
    assert differences("a 1.0\nb 2.0", "a 1.0\nb 3.0") == ["line 2: reference 2.0, now 3.0"]
    (words,) = differences("the gap is positive here", "the gap is undecided here")
    assert "positive" in words and "undecided" in words
