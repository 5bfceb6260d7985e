"""Ridge probes of the gap against scikit-learn, finite differences and hand-worked cases."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nbhelpers.core import stats
from nbhelpers.measures import conv_direction
from nbhelpers.measures.conv_direction import ProbeError
from nbhelpers.models.unembedding import Unembedding

RNG = np.random.default_rng(3)
PENALTIES = (0.1, 10.0, 1000.0)


def tokens(n_prompts=12, each=6, width=5):
    """Features of unequal scale, two targets (one of noise alone) and the prompt of each token."""
    x = RNG.normal(size=(n_prompts * each, width)) * [1, 10, 0.1, 3, 1] + 4
    y = np.stack([x @ [1, 0.1, -5, 0, 0] + RNG.normal(size=len(x)), RNG.normal(size=len(x))], 1)
    return x, y, np.repeat(np.arange(n_prompts), each)


def test_a_probe_is_scikit_learns_with_the_penalty_of_the_least_error_over_folds_of_prompts():
    x, y, prompt = tokens()
    found = conv_direction.fit(torch.as_tensor(x), torch.as_tensor(y), prompt, penalties=PENALTIES, folds=4)
    for target in range(2):
        errors = []
        for penalty in PENALTIES:
            model = make_pipeline(StandardScaler(), Ridge(alpha=penalty))
            left_out = cross_val_predict(model, x, y[:, target], groups=prompt, cv=GroupKFold(4))
            errors.append(((y[:, target] - left_out) ** 2).sum())
        best = int(np.argmin(errors))
        model = make_pipeline(StandardScaler(), Ridge(alpha=PENALTIES[best])).fit(x, y[:, target])
        assert found.penalty[target] == PENALTIES[best]
        np.testing.assert_allclose(found.predict(torch.as_tensor(x))[:, target], model.predict(x), atol=1e-9)
        spread = ((y[:, target] - y[:, target].mean()) ** 2).sum()
        assert found.cv_r2[target] == pytest.approx(1 - min(errors) / spread)
    assert found.penalty[1] == 1000 and found.cv_r2[0] > 0.5 > 0.1 > found.cv_r2[1]


def test_folds_hold_whole_prompts():
    """Features that name the prompt predict its level perfectly in training and not at all in another prompt."""
    prompt = np.repeat(np.arange(10), 8)
    level = RNG.normal(size=10)
    x, y = torch.as_tensor(np.eye(10)[prompt]), torch.as_tensor(level[prompt][:, None])
    found = conv_direction.fit(x, y, prompt, penalties=(1e-3,), folds=5)
    assert found.cv_r2[0] < 0.05
    assert r2_score(y[:, 0], found.predict(x)[:, 0]) > 0.999


def test_a_constant_feature_has_no_weight():
    x, y, prompt = tokens()
    x[:, 2] = 7.0
    found = conv_direction.fit(torch.as_tensor(x), torch.as_tensor(y), prompt)
    assert found.weight[:, 2].abs().max() < 1e-12 and found.weight.isfinite().all()


def test_too_few_prompts_for_the_folds_are_refused():
    x, y, _ = tokens()
    with pytest.raises(ProbeError, match="needs 5 prompts, and 2 are left"):
        conv_direction.fit(torch.as_tensor(x), torch.as_tensor(y), np.repeat([0, 1], 36))


def test_r2_is_scikit_learns_and_may_be_negative():
    y, prompt = RNG.normal(size=(40, 3)), np.repeat(np.arange(8), 5)
    predicted = y * [1, 0.5, -1] + 0.1
    sums = conv_direction.prompt_sums(y, predicted, prompt, 9)
    assert sums.shape == (9, 3, 4) and (sums[8] == 0).all() and (sums[:8, :, 0] == 5).all()
    wanted = [r2_score(y[:, k], predicted[:, k]) for k in range(3)]
    np.testing.assert_allclose(conv_direction.r2(sums.sum(0)), wanted)
    assert wanted[2] < -1
    found = conv_direction.r2_interval(sums, n_resamples=300)
    assert found.low[0] < found.mean[0] < found.high[0]
    assert found.mean[0] == pytest.approx(np.mean(wanted))
    assert isinstance(found, stats.Interval)


def test_a_permuted_gap_has_the_same_values():
    y = torch.arange(50.0)
    found = conv_direction.permuted(y, 4, seed=1)
    assert found.shape == (50, 4) and (found.sort(0).values == y[:, None]).all()
    assert not (found[:, 0] == found[:, 1]).all() and not (found[:, 0] == y).all()


def test_the_position_alone_predicts_the_training_mean_of_its_step():
    y, step = np.array([[1.0], [3.0], [5.0], [9.0]]), np.array([1, 1, 2, 4])
    found = conv_direction.by_position(y, step, np.array([1, 2, 3, 4, 7]))
    # Step 3 was never seen and takes step 2's mean; step 7 takes the last one's.
    assert found[:, 0].tolist() == [2, 5, 5, 9, 9]


def test_a_pattern_is_what_varies_and_a_weight_also_cancels():
    """y = signal; features: signal + noise, noise. The weight is (1, −1); what varies with it is the first feature alone."""
    signal, noise = RNG.normal(size=(2, 400))
    signal, noise = signal - signal.mean(), noise - noise.mean()
    noise -= signal * (signal @ noise) / (signal @ signal)  # uncorrelated in this sample
    x = torch.as_tensor(np.stack([signal + noise, noise], 1))
    weight = torch.tensor([1.0, -1.0], dtype=torch.float64)
    found = conv_direction.pattern(x, weight)
    assert found[0] > 0 and abs(found[1] / found[0]) < 1e-9
    np.testing.assert_allclose(found, np.cov(x.numpy().T, bias=True) @ weight.numpy(), atol=1e-12)


def test_the_share_of_energy_by_hand():
    x = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    assert conv_direction.energy_share(x, torch.tensor([1.0, 0.0])) == pytest.approx(9 / 50)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_gradient_of_the_distance_against_finite_differences(softcap):
    torch.manual_seed(0)
    norm, weight = torch.nn.LayerNorm(6).double(), torch.randn(11, 6)
    unembedding = Unembedding(lambda h: norm(h.double()), weight, torch.arange(11), softcap)
    h, last = torch.randn(3, 6), torch.randn(3, 6)
    found = conv_direction.kl_gradient(h, last, unembedding)

    def distance(states):
        p = torch.log_softmax(unembedding.logits(states).double(), -1)
        q = torch.log_softmax(unembedding.logits(last).double(), -1)
        return (p.exp() * (p - q)).sum().item() / len(states)

    for axis in range(6):
        step = torch.zeros_like(h)
        step[:, axis] = 1e-2
        wanted = (distance(h + step) - distance(h - step)) / 2e-2
        assert found[axis].item() == pytest.approx(wanted, abs=2e-3)
