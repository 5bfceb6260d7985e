"""Tables of the ledger: how figures are written, claims are grouped and rows are summed up."""

import json

import numpy as np
import pandas as pd
import pytest

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.report import claims, ledger, ledger_table
from tests import synthetic
from tests.report.test_claims import quantities_of


@pytest.mark.parametrize(
    "value, unit, digits, text",
    [
        (-0.004, "nats", 2, "0.00"), (-0.27, "cosine", 2, "−0.27"), (1273606, "steps", 2, "1,273,606"),
        (3.0, "families", 0, "3"), (-1, "onset layer", 0, "none"), (20, "onset layer", 0, "20"),
        (6.6e-5, "RMS", 2, "0.000066"), (0.0239, "RMS", 2, "0.024"),
    ],
)  # fmt: skip
def test_figures_are_written_to_be_read(value, unit, digits, text):
    assert ledger_table.number(value, unit, digits) == text


@pytest.mark.parametrize(
    "published, run, expected",
    [
        ((0.729, "nats"), (0.6891, 0.58, 0.8), ("0.729", "0.69", "[0.58, 0.80]")),
        ((0.4, "nats"), (-0.004, -0.01, 0.002), ("0.4", "−0.004", "[−0.010, 0.002]")),
        ((6, "families"), (5, float("nan"), float("nan")), ("6", "5", "")),
        ((4, "layers"), (0.943, 0.76, 1.11), ("4", "0.94", "[0.76, 1.11]")),
        ((1273606, "steps"), (4321.0, float("nan"), float("nan")), ("1,273,606", "4,321", "")),
        ((20, "onset layer"), (-1, -1, 4), ("20", "none", "[none, 4]")),
    ],
)
def test_a_published_value_is_shown_as_typed_and_a_run_with_two_decimals(published, run, expected):
    row = pd.Series(dict(zip(("value", "unit", "run", "run_low", "run_high"), (*published, *run))))
    assert ledger_table.figures(row) == expected


def test_neighbouring_claims_that_share_their_beginning_stand_under_it():
    said = [
        "IT is farther over the late half (raw lens)", "IT is farther over the late half (tuned lens)",
        "Change of the distance: IT's early MLPs", "Change of the distance: IT's early MLPs: five families",
        "Change of the distance: IT's late MLPs", "IT commits later by a match, older run (raw lens)", "It stands alone",
    ]  # fmt: skip
    assert ledger_table.grouped(said) == [
        ("IT is farther over the late half", "raw lens"),
        ("IT is farther over the late half", "tuned lens"),
        ("Change of the distance", "IT's early MLPs"),
        ("Change of the distance", "the same: five families"),
        ("Change of the distance", "IT's late MLPs"),
        ("", "IT commits later by a match, older run (raw lens)"),
        ("", "It stands alone"),
    ]


def test_no_claim_loses_a_word_by_its_grouping():
    for experiment in ("exp03", "exp09", "exp11", "exp13"):
        said = list(dict.fromkeys(claims.published(experiment)["claim"]))
        before = ""
        for claim, (head, case) in zip(said, ledger_table.grouped(said)):
            assert case and claim.startswith(head if not case.startswith("the same") else before)
            assert case.removeprefix("the same") in claim
            before = claim if not case.startswith("the same") else before


def test_a_bracket_inside_a_claim_stays_whole():
    said = [
        "Sums (GSM8K, last number), α = 0, as stored", "Sums (GSM8K, last number), α = −1, as stored",
        "Choices (MMLU) with d_mean at α = 1", "Choices (MMLU) with d_mean at α = 2", "Form (G1) at α = 1 (unedited IT)",
    ]  # fmt: skip
    assert ledger_table.grouped(said) == [
        ("Sums (GSM8K, last number)", "α = 0, as stored"),
        ("Sums (GSM8K, last number)", "α = −1, as stored"),
        *(("", claim) for claim in said[2:]),
    ]


@pytest.mark.parametrize("experiment", params.ordered())
def test_no_row_name_begins_or_ends_inside_a_bracket(experiment):
    for head, case in ledger_table.grouped(dict.fromkeys(claims.published(experiment)["claim"])):
        for name in (head, case):
            depths = np.cumsum([(letter == "(") - (letter == ")") for letter in name] or [0])
            assert depths.min() >= 0 and depths[-1] == 0, (head, case)


def test_a_negative_dose_in_a_claim_has_a_true_minus_sign():
    said = pd.Series(["Layer at dose -1 of the top-1 token", "Layers 20-33, α = -0.5"])
    assert ledger_table.with_minus(said).tolist() == [
        "Layer at dose −1 of the top-1 token",
        "Layers 20-33, α = −0.5",
    ]


def test_a_page_without_any_measured_figure_says_so_in_one_sentence():
    made = {"A": synthetic.dataset("gemma", "exp05", n_prompts=12)}
    shown = ledger.beside("exp05", made, experiments.part("exp05", "quantities"), n_resamples=20)
    n = len(claims.published("exp05"))
    assert f"None of the {n} published figures is measured here" in shown.html and "<table" not in shown.html
    assert 'class="to-figure" href="#not-measured"' in shown.html and "a table lists each" in repr(shown)
    notebook = json.loads((synthetic.REPOSITORY / "notebooks/exp05_across.ipynb").read_text(encoding="utf-8"))
    assert "not_measured" in [cell["metadata"].get("name") for cell in notebook["cells"]]


def test_judgments_are_counted_in_order():
    order = ("yes", "no", "undecided")
    assert ledger_table.counts(["no", "yes", "yes"], order) == "2 yes, 1 no"
    assert ledger_table.counts(["undecided"], order) == "undecided"
    assert ledger_table.counts(["", ""], order) == ledger_table.counts([""], order) == "–"


def test_a_row_opens_on_its_test_its_reasons_and_its_links():
    made = {"A": synthetic.dataset("gemma", "exp14", n_prompts=12)}
    text = ledger.beside("exp14", made, quantities_of("exp14"), n_resamples=20).html
    assert "The claim says: above 0." in text and "The claim says: no sign, bound or order." in text
    assert "supported (Gemma): stored as such" in text and "Definition: published: means over steps" in text
    assert '<a class="to-figure" href="#main-figure">figure</a>' in text
    assert 'href="../source/nbhelpers/experiments/exp14_symmetric_causality/quantities.html#L' in text


def test_the_plain_text_leaves_nothing_out():
    made = {"A": synthetic.dataset("gemma", "exp14", n_prompts=12)}
    shown = ledger.beside("exp14", made, quantities_of("exp14"), n_resamples=20)
    text = repr(shown)
    assert "..." not in text and all(claim in text for claim in shown.table.index)
    assert len(text.splitlines()) == len(shown.table) + 1
