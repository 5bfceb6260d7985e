"""Names of conditions in words, and what is no such name."""

import pytest

from nbhelpers.report import condition_names


@pytest.mark.parametrize(
    "name, words, label",
    [
        ("A", "PT", "PT"),
        ("B_mid", "PT with IT's middle MLPs", "PT + mid"),
        ("B", "PT with IT's late MLPs", "PT + late"),
        ("B_scrambled", "PT with IT's late MLPs, scrambled", "PT + late, scrambled"),
        ("C", "IT", "IT"),
        ("D_late", "IT with PT's late MLPs", "IT + late"),
        ("D_late_scrambled", "IT with PT's late MLPs, scrambled", "IT + late, scrambled"),
    ],
)
def test_a_condition_is_said_in_words(name, words, label):
    assert condition_names.named(name) == words and condition_names.short(name) == label


@pytest.mark.parametrize(
    "name", ["", "E", "B_last", "A_late", "C_it_chat", "B_late_turned", "D_mid_permuted_x"]
)
def test_what_is_no_condition_is_refused(name):
    with pytest.raises(ValueError, match="There is no condition"):
        condition_names.parts(name)


def test_conditions_come_host_by_host_and_window_by_window():
    names = ["C", "D_late", "B_late_scrambled", "A", "B_late", "B_early", "D_early", "B_late_permuted", "A"]
    found = condition_names.ordered(names)
    assert found == [
        "A", "B_early", "B_late", "B_late_permuted", "B_late_scrambled", "C", "D_early", "D_late"
    ]  # fmt: skip
