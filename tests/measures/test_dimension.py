"""Dimensions of manifolds that are known, slow loops over every pair, and worked cases."""

import time

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from nbhelpers.measures import intrinsic_dimension


def embedded(points, d=64, seed=0):
    """Return points [n, m] turned into a random direction of d-dimensional space, away from its origin."""
    frame = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, points.shape[1])))[0]
    return points @ frame.T + 3.0


def curve(n, rng):
    t = rng.uniform(0, 3, n)
    return np.stack([np.cos(2 * t), np.sin(2 * t), t, np.sin(5 * t)], axis=1)


def sheet(n, rng):
    u, v = rng.uniform(0, 1, (2, n))
    return np.stack([u, v, np.sin(2 * u), u * v, np.cos(2 * v)], axis=1)


# name -> (points of n and a generator, dimension, relative tolerance). A cloud of 2000 points in 10 dimensions has
# edges everywhere, which lowers every estimator of this kind by a tenth.
MANIFOLDS = {
    "curve": (curve, 1, 0.06),
    "sheet": (sheet, 2, 0.06),
    "gaussian5": (lambda n, rng: rng.normal(size=(n, 5)), 5, 0.08),
    "uniform5": (lambda n, rng: rng.uniform(size=(n, 5)), 5, 0.15),
    "gaussian10": (lambda n, rng: rng.normal(size=(n, 10)), 10, 0.15),
}


@pytest.mark.parametrize("name", MANIFOLDS)
def test_known_dimension(name):
    points, true, tolerance = MANIFOLDS[name]
    found = intrinsic_dimension.neighbours(
        embedded(points(2000, np.random.default_rng(1))).astype(np.float32)
    )
    assert intrinsic_dimension.two_nn(found.distances) == pytest.approx(true, rel=tolerance)
    assert intrinsic_dimension.mle_dimension(found.distances) == pytest.approx(true, rel=tolerance)


def slow_lists(x):
    """Return every point's sorted distances to the others, by a loop over pairs."""
    return [sorted(np.sqrt(((a - b) ** 2).sum()) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)]


def test_two_nn_equals_a_slow_loop():
    x = np.random.default_rng(2).normal(size=(60, 7))
    ratios = sorted(row[1] / row[0] for row in slow_lists(x))
    numerator = denominator = 0.0
    for i in range(1, 55):  # the lower 90 % of 60
        log, empirical = np.log(ratios[i - 1]), i / 60
        numerator += log * -np.log(1 - empirical)
        denominator += log**2
    got = intrinsic_dimension.two_nn(intrinsic_dimension.neighbours(x).distances)
    assert got == pytest.approx(numerator / denominator, rel=1e-10)


def test_mle_equals_a_slow_loop():
    x, k = np.random.default_rng(3).normal(size=(60, 7)), 6
    inverse = []
    for row in slow_lists(x):
        inverse.append(sum(np.log(row[k - 1] / row[j]) for j in range(k - 1)) / (k - 1))
    got = intrinsic_dimension.mle_dimension(intrinsic_dimension.neighbours(x).distances, k=k)
    assert got == pytest.approx(1 / np.mean(inverse), rel=1e-10)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_neighbours_equal_a_tree(monkeypatch, block, offset):
    monkeypatch.setattr(intrinsic_dimension, "_BLOCK", block)
    x = np.random.default_rng(4).normal(size=(50, 5)) + offset
    x[1] = x[0] + 1e-7
    found = intrinsic_dimension.neighbours(x, 6)
    distances, indices = cKDTree(x).query(x, 7)
    np.testing.assert_allclose(found.distances, distances[:, 1:], rtol=1e-8)
    np.testing.assert_array_equal(found.indices, indices[:, 1:])


def test_copies_of_a_row_are_one_point():
    x = np.random.default_rng(5).normal(size=(200, 4))
    copied = np.concatenate([x, x[:40], x[:5]])
    assert intrinsic_dimension.repeats(copied).tolist() == [False] * 200 + [True] * 45
    plain, found = intrinsic_dimension.neighbours(x), intrinsic_dimension.neighbours(copied)
    np.testing.assert_array_equal(found.indices[:200], plain.indices)
    assert np.isnan(found.distances[200:]).all() and (found.indices[200:] == -1).all()
    assert intrinsic_dimension.two_nn(found.distances) == intrinsic_dimension.two_nn(plain.distances)
    assert intrinsic_dimension.mle_dimension(found.distances) == intrinsic_dimension.mle_dimension(
        plain.distances
    )
    assert intrinsic_dimension.subsample_interval(found) == intrinsic_dimension.subsample_interval(plain)
    assert intrinsic_dimension.repeats(np.array([[0.0, 1.0], [-0.0, 1.0]])).tolist() == [False, True]


def test_clouds_that_have_no_neighbours_are_refused():
    with pytest.raises(ValueError, match="three distinct points, and X holds 2"):
        intrinsic_dimension.neighbours(np.array([[0.0, 1], [0, 1], [1, 0]]))
    with pytest.raises(ValueError, match="finite"):
        intrinsic_dimension.neighbours(np.array([[0.0, 1], [0, np.nan], [1, 0]]))
    with pytest.raises(ValueError, match="out of range: the lists of neighbours allow 2 to 5"):
        intrinsic_dimension.mle_dimension(np.ones((4, 5)), k=6)


def test_a_grid_has_no_dimension():
    corners = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    found = intrinsic_dimension.neighbours(corners)
    assert np.isnan(intrinsic_dimension.two_nn(found.distances)) and np.isnan(
        intrinsic_dimension.mle_dimension(found.distances, k=2)
    )


def test_a_bfloat16_cloud_is_a_cloud():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = intrinsic_dimension.neighbours(x)
    np.testing.assert_array_equal(found.indices, intrinsic_dimension.neighbours(x.double().numpy()).indices)
    assert found.distances.dtype == np.float64


def test_a_draw_is_filtered_as_it_would_be_searched():
    x = np.random.default_rng(6).normal(size=(150, 6))
    chosen = np.random.default_rng(7).choice(150, 120, replace=False)
    got = intrinsic_dimension._filtered(intrinsic_dimension.neighbours(x, 40), chosen, 10)
    np.testing.assert_allclose(got, intrinsic_dimension.neighbours(x[chosen], 10).distances, rtol=1e-12)


def test_subsample_interval_is_about_the_estimate():
    found = intrinsic_dimension.neighbours(np.random.default_rng(8).normal(size=(800, 3)), 64)
    got = intrinsic_dimension.subsample_interval(found, seed=1)
    assert got == intrinsic_dimension.subsample_interval(found, seed=1)
    assert got != intrinsic_dimension.subsample_interval(found, seed=2)
    assert got["two_nn"].value == intrinsic_dimension.two_nn(found.distances)
    assert got["mle"].value == intrinsic_dimension.mle_dimension(found.distances)
    assert all(estimate.low < estimate.value < estimate.high for estimate in got.values())
    wide = intrinsic_dimension.subsample_interval(found, share=0.5, seed=1)["two_nn"]
    assert wide.high - wide.low > got["two_nn"].high - got["two_nn"].low


def test_subsample_interval_covers_about_as_its_docstring_says():
    """Over 40 clouds it holds the estimate, TwoNN's the true dimension too, and is too narrow for a confidence interval."""
    rng = np.random.default_rng(8)
    clouds = [intrinsic_dimension.neighbours(embedded(rng.normal(size=(400, 2)))) for _ in range(40)]
    got = [intrinsic_dimension.subsample_interval(found) for found in clouds]
    assert sum(each["two_nn"].low < 2 < each["two_nn"].high for each in got) >= 28
    for name in ("two_nn", "mle"):
        value, low, high = np.array([each[name] for each in got]).T
        assert ((low < value) & (value < high)).mean() > 0.95
        standard_error = value.std(ddof=1)
        assert 0.45 < (high - low).mean() / (2 * 1.645 * standard_error) < 1.0


def test_lists_too_short_to_subsample_say_so():
    found = intrinsic_dimension.neighbours(np.random.default_rng(9).normal(size=(100, 3)), 10)
    with pytest.raises(ValueError, match="find more neighbours"):
        intrinsic_dimension.subsample_interval(found)


def test_a_thousand_points_take_a_moment():
    x = np.random.default_rng(10).normal(size=(1000, 512))
    start = time.process_time()
    intrinsic_dimension.subsample_interval(intrinsic_dimension.neighbours(x))
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_spectrum_is_that_of_the_covariance(shape):
    x = np.random.default_rng(11).normal(size=shape) @ np.diag(np.arange(1, shape[1] + 1)) + 5
    expected = np.linalg.eigvalsh(np.cov(x, rowvar=False))[::-1][: min(shape)]
    got = intrinsic_dimension.spectrum(x.astype(np.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    assert got.dtype == np.float64 and (got >= 0).all()


def test_isotropic_and_rank_one_spectra():
    isotropic = intrinsic_dimension.spectrum(np.concatenate([np.eye(6), -np.eye(6)]))
    np.testing.assert_allclose(isotropic, np.full(6, 2 / 11))
    line = intrinsic_dimension.spectrum(np.outer(np.arange(9.0), [1, 2, 3]))
    for measure in (intrinsic_dimension.participation_ratio, intrinsic_dimension.effective_rank):
        assert measure(isotropic) == pytest.approx(6) and measure(line) == pytest.approx(1)
    assert intrinsic_dimension.top_share(isotropic, 3) == pytest.approx(0.5)
    assert intrinsic_dimension.top_share(line) == pytest.approx(1)


def test_measures_of_a_spectrum_by_hand():
    values = np.array([2.0, 1.0, 1.0])
    assert intrinsic_dimension.participation_ratio(values) == pytest.approx(16 / 6)
    assert intrinsic_dimension.effective_rank(values) == pytest.approx(2**1.5)
    assert intrinsic_dimension.top_share(values) == 0.5 and intrinsic_dimension.top_share(values, 2) == 0.75
    layers = np.stack([values, 3 * values, 0 * values])
    for measure in (
        intrinsic_dimension.participation_ratio,
        intrinsic_dimension.effective_rank,
        intrinsic_dimension.top_share,
    ):
        got = measure(layers)
        assert got[0] == pytest.approx(got[1]) and np.isnan(got[2])


@pytest.mark.parametrize(("n", "d", "e"), [(40, 6, 9), (12, 30, 20), (15, 8, 40)])
def test_cka_equals_the_definition_by_gram_matrices(n, d, e):
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(n, d)) + 2, rng.normal(size=(n, e))
    y[:, :3] += x[:, :3]
    centre = np.eye(n) - 1 / n
    hsic = [np.trace(centre @ a @ a.T @ centre @ b @ b.T) for a, b in ((x, y), (x, x), (y, y))]
    got = intrinsic_dimension.linear_cka(x, y)
    assert got == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]), rel=1e-10)
    assert got == pytest.approx(intrinsic_dimension.linear_cka(y, x), rel=1e-10)
    rotation = np.linalg.qr(rng.normal(size=(e, e)))[0]
    assert intrinsic_dimension.linear_cka(x, 0.1 * y @ rotation - 7) == pytest.approx(got, rel=1e-10)
    assert (
        intrinsic_dimension.linear_cka(x, x)
        == pytest.approx(1)
        == intrinsic_dimension.linear_cka(y, y @ rotation)
    )


def test_cka_by_hand():
    x, y = np.array([[1.0], [-1], [0], [0]]), np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    # x'x = 2, y'y = 2 I, y'x = (2, 0)': 4 / (2 · 2√2).
    assert intrinsic_dimension.linear_cka(x, y) == pytest.approx(1 / np.sqrt(2))
    assert intrinsic_dimension.linear_cka(x, y[:, 1:]) == 0
    assert np.isnan(intrinsic_dimension.linear_cka(x, np.ones((4, 2))))
    with pytest.raises(ValueError, match="one of 4 and one of 3"):
        intrinsic_dimension.linear_cka(x, y[:3])


def test_two_nn_keeps_all_but_the_last_ratio_if_none_is_discarded():
    """Three points with ratios e, e² and e³: the line through (1, −log(2/3)) and (2, −log(1/3))."""
    distances = np.array([[1.0, np.exp(i)] for i in (1, 2, 3)])
    y = -np.log([2 / 3, 1 / 3])
    assert intrinsic_dimension.two_nn(distances, discard=0.0) == pytest.approx((y[0] + 2 * y[1]) / 5)


def test_subsamples_hold_distinct_points_and_their_interval_is_that_of_its_level():
    x = np.random.default_rng(3).normal(size=(60, 3))
    found = intrinsic_dimension.neighbours(x, k=32)
    wide = intrinsic_dimension.subsample_interval(found, k=5, draws=40, level=0.9, seed=2)["mle"]
    rng, drawn = np.random.default_rng(2), []
    for _ in range(40):
        some = x[rng.choice(60, 48, replace=False)]
        drawn.append(
            intrinsic_dimension.mle_dimension(intrinsic_dimension.neighbours(some, k=5).distances, 5)
        )
    np.testing.assert_allclose([wide.low, wide.high], np.quantile(drawn, [0.05, 0.95]))
