"""Commitment rules and gaps against hand-worked rows, the order the definitions imply, and slow loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nbhelpers.core import depths
from nbhelpers.measures import commitment, convergence_gap

# One token, six layers: a match that flips back, and a KL that dips below 0.1 and returns.
TOP1 = np.array([7, 4, 7, 2, 7, 7])
KL = np.array([3.0, 0.08, 0.25, 0.04, 0.06, 0.0])

THRESHOLDS = (0.05, 0.1, 0.2, 0.5, 1.0)


def curves(low=0.0, high=2.0):
    """Rows [token, layer] of KL that end in 0, as every lens does."""
    shape = st.tuples(st.integers(1, 4), st.integers(1, 24))
    fill = st.floats(low, high, allow_subnormal=False)
    return shape.flatmap(lambda s: arrays(float, s, elements=fill)).map(_end_in_zero)


def _end_in_zero(kl):
    kl[:, -1] = 0.0
    return kl


TOKENS = st.tuples(st.integers(1, 4), st.integers(1, 16)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 2))
)


@pytest.mark.parametrize(
    ("rule", "layer"),
    [
        (commitment.top1_first(TOP1), 0),
        (commitment.top1_strict(TOP1), 4),
        (commitment.top1_stable(TOP1), 4),
        (commitment.top1_stable(np.array([7, 7, 7, 2, 2, 7])), 0),
        (commitment.top1_stable(np.array([7, 7, 2, 7, 7, 2, 7, 7]), 3), 6),
        (commitment.kl_first(KL), 1),
        (commitment.kl_stays(KL), 3),
        (commitment.kl_stays(KL, 0.3), 1),
        (commitment.kl_qualified(KL, 0.1, 3), 1),
        (commitment.kl_qualified(KL, 0.1, 2), 3),
        (commitment.majority(KL), 3),
        (commitment.majority(KL, share=0.8), 1),
        (commitment.majority_below(KL, share=0.6), 1),
        (commitment.cosine_stays([0.99, 0.90, 0.96, 1.0]), 2),
        (commitment.entropy_stays([0.1, 0.5, 0.15, 0.1]), 2),
        (commitment.entropy_stays([0.1, 0.5, 0.9, 0.7]), 3),
    ],
)
def test_rules_by_hand(rule, layer):
    assert int(rule) == layer


def test_majority_can_fire_one_layer_early_with_ten_left():
    kl = np.r_[5.0, 5.0, np.zeros(9)]
    assert (commitment.majority(kl), commitment.majority_below(kl), commitment.kl_stays(kl)) == (1, 2, 2)


def test_continuous_by_hand():
    assert commitment.kl_continuous([0.5, 0.3, 0.05, 0.0], 0.1) == pytest.approx(1.8)
    assert commitment.kl_continuous([0.05, 0.3, 0.0], 0.1) == 0.0
    assert commitment.kl_continuous([[0.5, np.nan, 0.05, 0.0], [0.5, 0.5, 0.5, 0.5]], 0.1).tolist() == [
        2.0,
        3.0,
    ]


def test_a_token_that_never_commits_gets_the_last_layer():
    nan = np.full((2, 5), np.nan)
    for rule in (
        commitment.kl_first,
        commitment.kl_stays,
        commitment.majority,
        commitment.majority_below,
        commitment.kl_qualified,
    ):
        assert rule(nan).tolist() == [4, 4]


@given(curves())
def test_order_of_the_kl_rules(kl):
    for tau in THRESHOLDS:
        first, stays = commitment.kl_first(kl, tau), commitment.kl_stays(kl, tau)
        continuous = commitment.kl_continuous(kl, tau)
        assert (first <= commitment.kl_qualified(kl, tau, 3)).all() and (
            commitment.kl_qualified(kl, tau, 3) <= stays
        ).all()
        assert (commitment.kl_qualified(kl, tau, 3) <= commitment.kl_qualified(kl, tau, 2)).all()
        assert (commitment.majority(kl, tau) <= commitment.majority_below(kl, tau)).all()
        assert (commitment.majority_below(kl, tau) <= stays).all()
        assert (first <= commitment.majority_below(kl, tau)).all()
        assert (first - 1 <= continuous).all() and (continuous <= first).all()
        assert (commitment.majority(kl, tau, share=1.0) == stays).all()


@given(curves())
def test_a_larger_threshold_is_never_later(kl):
    rules = (
        commitment.kl_first,
        commitment.kl_stays,
        commitment.majority,
        commitment.majority_below,
        commitment.kl_qualified,
        commitment.kl_continuous,
    )
    for rule in rules:
        layers = np.stack([rule(kl, tau) for tau in THRESHOLDS])
        assert (np.diff(layers, axis=0) <= 1e-9).all(), rule.__name__


@given(curves())
def test_majority_equals_stays_below_with_fewer_than_ten_layers(kl):
    kl = kl[:, -9:]
    assert (commitment.majority(kl, 0.1) == commitment.kl_stays(kl, 0.1)).all()


@given(TOKENS)
def test_order_of_the_top1_rules(top1):
    strict = commitment.top1_strict(top1)
    assert (commitment.top1_first(top1) <= commitment.top1_stable(top1)).all() and (
        commitment.top1_stable(top1) <= strict
    ).all()
    assert (commitment.top1_stable(top1, 1) == commitment.top1_first(top1)).all()
    assert (commitment.top1_stable(top1, top1.shape[-1]) == strict).all()


SLOW = {
    commitment.kl_first: lambda row, at, tau: row[at] < tau,
    commitment.kl_stays: lambda row, at, tau: all(kl < tau for kl in row[at:]),
    commitment.majority: lambda row, at, tau: sum(kl < tau for kl in row[at:]) / (len(row) - at) >= 0.9,
    commitment.majority_below: lambda row, at, tau: row[at] < tau and (row[at:] < tau).mean() >= 0.9,
    commitment.kl_qualified: lambda row, at, tau: row[at] < tau and all(kl < 3 * tau for kl in row[at:]),
}


@given(curves(), st.sampled_from(list(SLOW)))
def test_rules_equal_slow_loops(kl, rule):
    layers = range(kl.shape[1])
    slow = [next((at for at in layers if SLOW[rule](row, at, 0.3)), layers[-1]) for row in kl]
    assert rule(kl, 0.3).tolist() == slow


def test_table_has_the_stored_rules_and_keeps_leading_axes():
    top1, kl = np.broadcast_to(TOP1, (2, 3, 6)), np.broadcast_to(KL, (2, 3, 6))
    entropy = np.broadcast_to([0.1, 0.5, 0.15, 0.1, 0.3, 0.1], (2, 3, 6))
    cosine = np.broadcast_to([0.99, 0.9, 0.96, 0.97, 0.99, 1.0], (3, 6))
    table = commitment.commitment_table(top1, kl, entropy, cosine)
    stays = [f"kl_stays_{tau}" for tau in THRESHOLDS]
    names = [
        "top1_first",
        "top1_strict",
        "top1_stable3",
        "kl_first_0.1",
        *stays,
        "majority_0.1",
        "majority_below_0.1",
        "kl_qualified_0.5_3x",
        "entropy_0.2",
        "cosine_0.95",
    ]
    assert list(table) == names
    assert all(layers.shape == (2, 3) for layers in table.values())
    assert [int(layers[0, 0]) for layers in table.values()] == [0, 4, 4, 1, 5, 3, 3, 1, 1, 3, 3, 1, 5, 2]


def test_table_follows_its_parameters():
    table = commitment.commitment_table(
        TOP1, KL, KL, np.ones(6), threshold=0.3, grid=(0.1,), share=0.6, window=2
    )
    assert list(table)[2:] == ["top1_stable2", "kl_first_0.3", "kl_stays_0.1", "kl_stays_0.3", "majority_0.3",
                               "majority_below_0.3", "kl_qualified_0.5_3x", "entropy_0.2", "cosine_0.95"]  # fmt: skip


def test_counts():
    assert commitment.commitment_counts([[0, 2], [2, 3]], 5).tolist() == [1, 0, 2, 1, 0]


def test_gaps_by_hand():
    pt = np.zeros((2, 5))
    it = np.array([[9.0, 9.0, 1.0, 2.0, 0.0], [9.0, 9.0, 4.0, -1.0, 0.0]])
    assert convergence_gap.convergence_gap(it, pt).tolist() == [1.0, 1.0]  # layers 2, 3, 4
    assert convergence_gap.layer_gap(it, pt, [0, 3]).tolist() == [5.5, 4.0]
    assert convergence_gap.token_weighted_gap(it, pt, [3, 1], [1, 1]) == pytest.approx((1.75 + 1.25) / 3)


def test_gaps_need_pairs():
    with pytest.raises(ValueError, match=r"shapes \(2, 5\) and \(3, 5\)"):
        convergence_gap.convergence_gap(np.zeros((2, 5)), np.zeros((3, 5)))


@given(st.integers(3, 60))
def test_thirds_partition_the_layers_and_the_gap_is_their_mean(n_layers):
    rng = np.random.default_rng(n_layers)
    it, pt = rng.normal(size=(2, 4, n_layers))
    thirds = depths.thirds(n_layers).values()
    weighted = sum(convergence_gap.layer_gap(it, pt, layers) * len(layers) for layers in thirds)
    np.testing.assert_allclose(weighted, (it - pt).sum(1), atol=1e-9)


def test_each_model_is_weighted_by_its_own_lengths():
    """PT wrote 1 and 3 tokens, IT 3 and 1: (3·4 + 1·0) / 4 − (1·2 + 3·6) / 4."""
    kl_it, kl_pt = np.array([[4.0], [0.0]]), np.array([[2.0], [6.0]])
    assert convergence_gap.token_weighted_gap(kl_it, kl_pt, [3, 1], [1, 3], [0]) == pytest.approx(3 - 5)


def test_a_value_on_the_threshold_is_not_below_it_and_a_share_on_the_edge_is_enough():
    assert commitment.kl_first([0.5, 0.1, 0.0], 0.1) == 2 and commitment.kl_stays([0.1, 0.0, 0.0], 0.1) == 1
    assert commitment.entropy_stays([0.2, 0.1], 0.2) == 1
    assert commitment.cosine_stays([0.5, 0.95, 1.0]) == 1
    half = [0.0, 1.0, 0.0, 1.0]  # from layer 0 on, exactly half are below
    assert commitment.majority(half, share=0.5) == 0 and commitment.majority_below(half, share=0.5) == 0


def test_the_last_three_rules_keep_the_thresholds_of_the_studys_figures():
    kl, entropy = np.array([[9.0, 0.4, 1.4, 0.0]]), np.array([[9.0, 0.25, 0.19, 0.1]])
    found = commitment.commitment_table(
        np.array([[1, 2, 1, 1]]), kl, entropy, np.array([[0.1, 0.96, 0.96, 1.0]]), threshold=0.3, grid=(0.5,)
    )
    last = {"kl_qualified_0.5_3x": [1], "entropy_0.2": [2], "cosine_0.95": [1]}
    assert {name: found[name].tolist() for name in last} == last
    assert [name for name in found if name.startswith("kl_stays")] == ["kl_stays_0.3", "kl_stays_0.5"]
