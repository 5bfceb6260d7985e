"""Agreement against statsmodels, scikit-learn, `krippendorff`, published tables and hand-worked cases."""

import math
import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import cohens_kappa

from nbhelpers.core.stats import StatisticsError
from nbhelpers.measures import agreement as measure
from nbhelpers.measures.agreement import Accuracy, accuracy, agreement, corrected_rate

scores = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=2, max_size=40)


@given(scores)
def test_coefficients_are_those_of_the_libraries(pairs):
    a, b = np.array(pairs, dtype=float).T
    found = agreement(a, b, kind="ordinal", levels=range(1, 6), n_resamples=10)
    counts = measure.table(a, b, range(1, 6)).sum(0)
    assert found.percent.mean == pytest.approx(np.mean(a == b))
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found.kappa.mean == pytest.approx(
            cohen_kappa_score(a, b, weights="linear", labels=range(1, 6))
        )
        with warnings.catch_warnings(action="ignore"):
            assert found.kappa.mean == pytest.approx(cohens_kappa(counts, wt="linear").kappa)
    if len({*a, *b}) > 1:
        alpha = krippendorff.alpha(reliability_data=[a, b], level_of_measurement="ordinal")
        assert found.alpha.mean == pytest.approx(alpha)
        assert measure.alpha_of_all([a, b]) == pytest.approx(alpha)


@given(scores)
def test_classes_have_the_unweighted_coefficients(pairs):
    a, b = np.array(pairs, dtype=float).T
    found = agreement(a, b, kind="nominal", levels=range(1, 6), n_resamples=10)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found.kappa.mean == pytest.approx(cohen_kappa_score(a, b))
    if len({*a, *b}) > 1:
        alpha = krippendorff.alpha(reliability_data=[a, b], level_of_measurement="nominal")
        assert found.alpha.mean == pytest.approx(alpha)


def from_table(counts):
    """Return two raters' ratings, 1 upwards, from a table of counts."""
    places = [(i + 1, j + 1) for i, row in enumerate(counts) for j, n in enumerate(row) for _ in range(n)]
    return np.array(places, dtype=float).T


def test_gwets_paradox_by_hand():
    """118 of 125 agree on yes: κ is 0 or below, AC1 is 0.94 (Gwet 2008, table 1 of the kappa paradox)."""
    a, b = from_table([[118, 5], [2, 0]])
    found = agreement(a, b, kind="nominal", n_resamples=10)
    prevalence = (123 + 120) / (2 * 125)
    chance = 2 * prevalence * (1 - prevalence)
    assert found.percent.mean == pytest.approx(118 / 125)
    assert found.ac1.mean == pytest.approx((118 / 125 - chance) / (1 - chance))
    assert found.ac1.mean == pytest.approx(0.9408, abs=1e-4)
    expected = (123 * 120 + 2 * 5) / 125**2
    assert found.kappa.mean == pytest.approx((118 / 125 - expected) / (1 - expected)) and found.kappa.mean < 0


def test_gwets_ordinal_coefficient_by_hand():
    """Three levels, weights 1, ½, 0: p_o = (4 + 2 · ½) / 6, T_w = 5, π = (½, ⅓, ⅙)."""
    a, b = [1, 1, 1, 2, 2, 3], [1, 1, 2, 2, 1, 3]
    seen, pi = (4 + 2 * 0.5) / 6, np.array([6, 4, 2]) / 12
    chance = 5 / (3 * 2) * (pi * (1 - pi)).sum()
    assert agreement(a, b, n_resamples=10).ac1.mean == pytest.approx((seen - chance) / (1 - chance))


def test_gwet_depends_on_the_levels_that_were_not_used():
    a, b = [1, 1, 2, 2], [1, 2, 2, 2]
    two, four = (agreement(a, b, kind="nominal", levels=range(1, k + 1), n_resamples=10) for k in (2, 4))
    assert four.ac1.mean > two.ac1.mean and four.kappa.mean == pytest.approx(two.kappa.mean)


def test_krippendorffs_own_example_with_gaps():
    """Four observers, twelve units: nominal α = 0.743, ordinal 0.815 (Krippendorff 2011)."""
    rows = [
        "1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 .",
    ]  # fmt: skip
    ratings = [[math.nan if mark == "." else float(mark) for mark in row.split()] for row in rows]
    assert measure.alpha_of_all(ratings, kind="nominal") == pytest.approx(0.743, abs=5e-4)
    assert measure.alpha_of_all(ratings, kind="ordinal") == pytest.approx(0.815, abs=5e-4)


def test_ratings_without_variation_keep_percent_and_ac1():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for levels in (None, range(4)):
            found = agreement([2, 2, 2], [2, 2, 2], kind="nominal", levels=levels)
            assert found.note == "no variation"
            assert found.percent.mean == found.ac1.mean == 1
            assert math.isnan(found.kappa.mean) and math.isnan(found.alpha.mean)
    assert math.isnan(measure.alpha_of_all([[1, 1], [1, 1]]))


def test_one_rater_without_variation_is_said():
    found = agreement([1, 1, 1, 1], [1, 1, 2, 1], kind="nominal")
    assert found.note == "no variation of the first rater" and math.isnan(found.kappa.mean)
    assert found.percent.mean == 0.75 and math.isfinite(found.alpha.mean)
    assert agreement([1, 2], [2, 2]).note == "no variation of the second rater"
    assert agreement([1, 1], [2, 2]).note == "no variation of either rater"


def test_an_item_that_one_rater_left_out_is_not_counted():
    a, b = [1, 2, math.nan, 4, 5], [1, math.nan, 3, 4, 3]
    found = agreement(a, b, levels=range(1, 6))
    assert found.n == 3 and found == agreement([1, 4, 5], [1, 4, 3], levels=range(1, 6))
    nothing = agreement([math.nan, 1], [2, math.nan])
    assert nothing.n == 0 and nothing.note == "nothing rated by both" and math.isnan(nothing.percent.mean)


def test_one_prompt_has_values_and_no_interval():
    found = agreement([[1, 2, 3]], [[1, 2, 2]])
    assert found.n == 3 and found.percent.mean == pytest.approx(2 / 3) and math.isnan(found.percent.low)


def test_the_interval_resamples_prompts_and_not_items():
    """Five copies of a prompt's items add nothing."""
    rng = np.random.default_rng(0)
    a = rng.integers(1, 6, 40).astype(float)
    b = np.where(rng.random(40) < 0.6, a, rng.integers(1, 6, 40))
    once = agreement(a, b)
    copied = agreement(np.tile(a[:, None], 5), np.tile(b[:, None], 5))
    assert copied.n == 5 * once.n
    for name in ("percent", "kappa", "ac1"):
        np.testing.assert_allclose(getattr(copied, name), getattr(once, name))


def test_the_interval_is_scipys():
    rng = np.random.default_rng(4)
    a = rng.integers(0, 3, 60).astype(float)
    b = np.where(rng.random(60) < 0.7, a, rng.integers(0, 3, 60))
    found = agreement(a, b, kind="nominal", n_resamples=5000).kappa
    theirs = scipy_stats.bootstrap(
        (a, b), cohen_kappa_score, paired=True, vectorized=False, n_resamples=1000, method="BCa", rng=0
    ).confidence_interval  # fmt: skip
    assert found.low == pytest.approx(theirs.low, abs=0.03) and found.high == pytest.approx(
        theirs.high, abs=0.03
    )


def test_ratings_off_the_scale_and_of_other_items_are_refused():
    with pytest.raises(StatisticsError, match="The rating 7 is none of the levels 1, 2, 3"):
        agreement([1, 7], [1, 2], levels=[1, 2, 3])
    with pytest.raises(StatisticsError, match="same items"):
        agreement([1, 2], [1])
    with pytest.raises(StatisticsError, match="ordinal or nominal"):
        agreement([1, 2], [1, 2], kind="interval")


def test_accuracy_counts_what_the_labels_say():
    judged, labelled = [1, 1, 0, 0, 1, math.nan, 1], [1, 0, 0, 1, 1, 1, math.nan]
    assert accuracy(judged, labelled) == Accuracy(2 / 3, 1 / 2, 3, 2)
    assert math.isnan(accuracy([1, 1], [1, 1]).specificity)


def test_a_corrected_rate_by_hand():
    """The example of the method's authors: p 0.4 of 1,000, specificity 0.7 and sensitivity 0.9 of 200 labels each."""
    found = corrected_rate(0.4, 1000, Accuracy(0.9, 0.7, 200, 200))
    assert found.mean == pytest.approx(0.1 / 0.6)
    z = 1.959964
    p, q0, q1 = (400 + z**2 / 2) / (1000 + z**2), 141 / 202, 181 / 202
    theta, v0, v1 = (p + q0 - 1) / (q0 + q1 - 1), q0 * (1 - q0) / 202, q1 * (1 - q1) / 202
    centre = theta + 2 * z**2 * (theta * v1 - (1 - theta) * v0)
    half = z * math.sqrt(p * (1 - p) / (1000 + z**2) + (1 - theta) ** 2 * v0 + theta**2 * v1) / (q0 + q1 - 1)
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_a_corrected_interval_covers_the_truth_though_the_judge_errs():
    rng = np.random.default_rng(0)
    truth, sensitivity, specificity, covered = 0.3, 0.85, 0.75, []
    for _ in range(1000):
        p = rng.binomial(200, truth * sensitivity + (1 - truth) * (1 - specificity)) / 200
        judge = Accuracy(rng.binomial(60, sensitivity) / 60, rng.binomial(60, specificity) / 60, 60, 60)
        low, high = corrected_rate(p, 200, judge)[1:]
        covered.append(low <= truth <= high)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_more_labels_narrow_the_interval_and_a_perfect_judge_changes_nothing():
    widths = [np.ptp(corrected_rate(0.4, 300, Accuracy(0.9, 0.9, m, m))[1:]) for m in (10, 40, 1000)]
    assert widths == sorted(widths, reverse=True)
    assert corrected_rate(0.4, 300, Accuracy(1.0, 1.0, 50, 50)).mean == pytest.approx(0.4)
    assert corrected_rate(0.05, 300, Accuracy(0.9, 0.9, 50, 50)).mean == 0
    assert corrected_rate(0.5, 100, Accuracy(0.1, 1.0, 10, 1))[1:] == (0, 1)


def test_a_judge_that_is_no_better_than_chance_corrects_nothing():
    with pytest.raises(StatisticsError, match="no better than chance"):
        corrected_rate(0.4, 100, Accuracy(0.5, 0.5, 20, 20))
    with pytest.raises(
        StatisticsError, match="labels of both kinds: there are 20 with the outcome and 0 without"
    ):
        corrected_rate(0.4, 100, Accuracy(0.9, math.nan, 20, 0))
