"""Revision of predictions: hand-made steps with known answers, and what must hold for any steps."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from nbhelpers import experiments
from nbhelpers.core import depths, store
from nbhelpers.core.params import VARIANTS
from nbhelpers.experiments.exp03_corrective_stage import measure as exp03_measure
from nbhelpers.measures.steps import history_steps, prompt_means
from nbhelpers.models.token_classes import CLASSES
from nbhelpers.report import families
from tests import handmade
from tests.experiments.test_exp00 import KEYS, case
from tests.specs import complete

OPTIONS = experiments.experiment_params("exp03")
# Of ten layers: content 0 – 3, format 4 – 5, corrective 6 – 9. What follows is token 5; the top token by layer:
MINDS = {
    "at once": [5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
    "in the format phase": [1, 2, 2, 2, 5, 5, 5, 5, 5, 5],
    "late, to and fro": [1, 1, 1, 1, 1, 1, 5, 1, 5, 5],
    "late, after a change into the late phase": [1, 1, 1, 1, 1, 2, 3, 3, 3, 5],
    "never": [1, 1, 1, 1, 1, 1, 1, 2, 2, 2],
}
FIRST, FLIPS = [0, 4, 6, 9, 10], [0, 0, 3, 2, 1]
CONTENT, FUNCTION = CLASSES.index("content"), CLASSES.index("function")


def steps(prompt_index=(0, 0, 0, 1, 1), classes=(CONTENT, CONTENT, FUNCTION, FUNCTION, FUNCTION)):
    """One step for each of MINDS; the tuned lens is right at once, but where the last layer is not."""
    n = len(MINDS)
    made = handmade.observed({"pt": (n + 1,), "it": (n + 1,)}, n_layers=10)
    made = history_steps(made, "it", "it").assign_coords(prompt_index=("step", list(prompt_index)))
    raw = np.array(list(MINDS.values())).T
    tuned = np.repeat(raw[-1:], 10, axis=0)
    made["top1"] = (("lens", "layer", "step"), np.stack([raw, tuned]))
    return made.assign(token_id=("step", [5] * n), token_class=("step", list(classes)))


def test_phases_of_ten_layers_are_as_assumed():
    assert {name: (at.start, at.stop) for name, at in depths.phases(10).items()} == {
        "content": (0, 4), "format": (4, 6), "corrective": (6, 10),
    }  # fmt: skip


def test_the_first_correct_layer_by_hand():
    found = exp03_measure.first_correct(steps())
    assert found.sel(lens=0).values.tolist() == FIRST
    assert found.isel(lens=1).values.tolist() == [0, 0, 0, 0, 10]


def test_minds_are_made_up_in_the_phase_of_the_first_correct_layer():
    found = exp03_measure.phase_of_mind(steps(), 2).isel(lens=0)
    by_phase = dict(zip(depths.phases(10), found.transpose("phase", "prompt").values.tolist()))
    assert by_phase["content"] == [pytest.approx(1 / 3), 0]
    assert by_phase["format"] == [pytest.approx(1 / 3), 0]
    assert by_phase["corrective"] == [pytest.approx(1 / 3), 0.5]  # what never comes is in no phase


def test_changes_of_mind_by_class_by_hand():
    found = exp03_measure.minds(steps(), 2).isel(lens=0)
    late = found.late_mind_change.sel(token_class=["content", "function"]).transpose("token_class", "prompt")
    np.testing.assert_array_equal(late, [[0, np.nan], [1, 0.5]])
    flips = found.late_flips.sel(token_class=["content", "function"]).transpose("token_class", "prompt")
    np.testing.assert_array_equal(flips, [[0, np.nan], [3, 1.5]])
    assert found.late_flips.sel(token_class="structural").isnull().all()
    assert found.class_count.sel(token_class=["content", "function"]).values.tolist() == [2, 3]
    assert int(found.class_count.sum()) == 5


def test_the_size_of_a_change_is_at_the_layer_that_makes_it():
    made = steps()
    made["kl_adjacent"] = xr.DataArray(np.arange(10.0), dims="layer").broadcast_like(made.kl_adjacent)
    found = exp03_measure.minds(made, 2).kl_adjacent_at_change.isel(lens=0)
    # At once: nothing changed. Layer 4 and layer 6; layer 9; never: nothing.
    assert found.sel(token_class="content").values.tolist()[0] == 4
    assert found.sel(token_class="function").values.tolist() == [6, 9]
    tuned = exp03_measure.minds(made, 2).kl_adjacent_at_change.isel(lens=1)
    assert tuned.isnull().all()


def test_phase_means_leave_out_the_layer_without_a_predecessor():
    made = steps()
    made["kl_adjacent"] = xr.DataArray([np.nan, *range(1, 10)], dims="layer").broadcast_like(made.kl_adjacent)
    found = exp03_measure.phase_means(made, 2).isel(prompt=0, lens=0)
    assert found.values.tolist() == [2, 4.5, 7.5]


def test_target_numbers_are_what_their_names_say():
    made = steps()
    found = exp03_measure.with_target(made)
    np.testing.assert_allclose(np.log(found.target_probability), made.target_log_probability)
    np.testing.assert_allclose(np.exp(found.target_log_rank), made.target_rank)


def test_commitment_by_confidence_by_hand():
    made = steps()
    crosses = [2.0, 1.0, 0.05, 0.3, 0.2, 0.08, 0.01, 0.01, 0.0, 0.0]
    kl = np.stack([crosses, [3.0] * 9 + [0.0], crosses, crosses, [0.0] * 10], axis=-1)
    made["kl_final_layer"] = (("lens", "layer", "step"), np.stack([kl, kl]))
    found = exp03_measure.commitment_by_confidence(made, np.array([0, 0, 1, 1, 2]), 2, 0.1).isel(lens=0)
    between = 1 + (1.0 - 0.1) / (1.0 - 0.05)
    continuous, stays = (
        found.sel(rule=rule).transpose("stratum", "prompt").values for rule in exp03_measure.RULES
    )
    np.testing.assert_allclose(
        continuous,
        [[(between + 8 + 2.9 / 3) / 2, np.nan], [between, between], [np.nan, 0]],
    )
    np.testing.assert_array_equal(stays, [[7, np.nan], [5, 5], [np.nan, 0]])


def test_the_studys_commitment_by_confidence_reads_the_other_divergence():
    made = handmade.observed((6, 5), n_layers=10, seed=3)
    twin = made.assign(kl_final_layer=made["kl_layer_final"], kl_layer_final=made["kl_final_layer"])
    ours, other = (exp03_measure.summarise(one, OPTIONS) for one in (made, twin))
    names = ("commitment_by_confidence", "commitment_by_confidence_layer_final")
    for mine, theirs in (names, names[::-1]):
        np.testing.assert_array_equal(ours[mine], other[theirs])
    assert not ours[names[0]].equals(ours[names[1]])


def test_agreement_splits_steps_by_both_models_last_word():
    made = handmade.observed((6, 5), n_layers=10, seed=3)
    for history in VARIANTS:
        both = [history_steps(made, v, history) for v in VARIANTS]
        same = [a == b for a, b in zip(*(one.top1.sel(lens="raw", layer=9).values.tolist() for one in both))]
        found = exp03_measure.summarise(made, OPTIONS).sel(variant="it", history=history)
        assert float(found.agreement) == pytest.approx(np.mean(same))
        for name, flag in zip(exp03_measure.AGREEMENT, (True, False)):
            for prompt in range(2):
                at = [i for i, s in enumerate(same) if s == flag and both[1].prompt_index.values[i] == prompt]
                curve = found.kl_by_agreement.sel(agreement_of=name).isel(prompt=prompt)
                slow = both[1].kl_final_layer.isel(step=at).mean("step") if at else curve * np.nan
                np.testing.assert_allclose(curve, slow.transpose(*curve.dims))


def test_strata_are_the_writers_for_both_readers():
    made = handmade.observed((6, 5), n_layers=10)
    made["top1_probability"][:] = 0.2
    made["top1_probability"].loc[dict(variant="it", lens="raw", layer=9)] = 0.95
    found = exp03_measure.summarise(made, OPTIONS).commitment_by_confidence.isel(rule=0, lens=0)
    for history, stratum in (("it", "high"), ("pt", "low")):
        one = found.sel(history=history)
        assert one.sel(stratum=stratum).notnull().all() and one.drop_sel(stratum=stratum).isnull().all()


@pytest.mark.slow
@settings(max_examples=5)
@given(st.integers(0, 10**6), st.integers(4, 14), st.lists(st.integers(2, 6), min_size=2, max_size=3))
def test_what_holds_for_any_steps(seed, n_layers, lengths):
    made = handmade.observed(lengths, n_layers=n_layers, seed=seed)
    n, late = len(lengths), depths.onset(n_layers)
    found = exp03_measure.summarise(made, OPTIONS)
    for variant in VARIANTS:
        for history in VARIANTS:
            one, some = (
                found.sel(variant=variant, history=history),
                history_steps(made, variant, history),
            )
            never = prompt_means((exp03_measure.first_correct(some) == n_layers).astype(float), n)
            minds = one.phase_of_mind.transpose("phase", "prompt", "lens")
            np.testing.assert_allclose(minds.sum("phase") + never.values, 1)
            counts = np.array(
                [
                    [((some.token_class == c) & (some.prompt_index == p)).sum() for p in range(n)]
                    for c in range(7)
                ]
            )
            changes = one.late_mind_change.transpose("token_class", "prompt", "lens").fillna(0)
            pooled = (changes * counts[..., None]).sum("token_class") / counts.sum(0)[:, None]
            np.testing.assert_allclose(pooled, minds.sel(phase="corrective"))
            assert (one.late_flips.fillna(0) <= n_layers - late).all()
            assert float(one.class_share.sum()) == pytest.approx(1)
    assert (found.agreement.sel(variant="pt") == found.agreement.sel(variant="it")).all()
    for name, values in families.free(found).data_vars.items():
        for variant in VARIANTS:
            own = found[name].sel(variant=variant, history=variant, drop=True)
            np.testing.assert_array_equal(values.sel(variant=variant).transpose(*own.dims), own)


def test_a_real_pair_makes_up_its_mind_on_its_own_text_and_not_always_on_the_others():
    observed = case(KEYS[0]).observed
    found = exp03_measure.summarise(observed, OPTIONS)
    for variant in VARIANTS:
        shares = found.phase_of_mind.sum("phase", skipna=False).sel(variant=variant)
        own = shares.sel(history=variant).dropna("prompt")
        np.testing.assert_allclose(own, 1)
        assert own.sizes["prompt"] == observed.sizes["prompt"] - 1  # one text has its first token alone
        other = [h for h in VARIANTS if h != variant][0]
        assert float(shares.sel(history=other).mean()) < 1
        late = found.late_mind_change.sel(variant=variant, history=other)
        assert float(late.max()) <= 1 and float(late.mean()) < 1
    steps = history_steps(observed, "pt", "it")
    slow = steps.delta_cosine.sel(component="block")
    for prompt in range(observed.sizes["prompt"]):
        at = np.flatnonzero(steps.prompt_index.values == prompt)
        curve = found.delta_cosine.sel(variant="pt", history="it").isel(prompt=prompt)
        if len(at):
            np.testing.assert_allclose(curve, slow.isel(step=at).mean("step"), rtol=1e-5, atol=1e-6)


def test_the_dataset_is_whole_with_its_neurons():
    found = exp03_measure.summarise(case(KEYS[0]).observed, OPTIONS)
    with pytest.raises(store.ResultError) as error:
        complete(found.assign_attrs(experiment="exp03"), "exp03")
    assert str(error.value) == (
        "the exp03 dataset is not complete: no gini; no n50; no n90; no neuron_overlap."
    )
