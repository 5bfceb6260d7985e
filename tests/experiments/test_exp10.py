"""exp10: prompts, patches and steering against plain forwards and hand-worked cases; its quantities on results set by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

import hashlib
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers.core import dose_stats
from nbhelpers.core.params import ParameterError, model_params
from nbhelpers.experiments.exp10_contrastive_patching import (
    figures,
    measure,
    patching,
    probes,
    report,
    steered,
)
from nbhelpers.experiments.exp10_contrastive_patching.experiment import Params
from nbhelpers.experiments.exp10_contrastive_patching.matched import (
    Matched,
    kept_steps,
    matched,
    matched_rows,
)
from nbhelpers.experiments.exp10_contrastive_patching.quantities import quantities
from nbhelpers.measures import scoring, tuned_lens
from nbhelpers.measures.arms import Arm, SteeringError
from nbhelpers.measures.conv_direction import SUMS
from nbhelpers.models.generation import Continuation
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import Prompt
from nbhelpers.report.quantities import value
from tests import synthetic
from tests.made_up import filled
from tests.specs import complete

OPTIONS = Params(
    batch_size=4, n_prompts=8, n_test=5, prompts="pocket/prompts.jsonl", counts={"format": 4}, max_new_tokens=8,
    n_patched_prompts=2, n_forced=2, n_random=39, n_large=4,
)  # fmt: skip

# Made-up results for tests of every page and verdict


def made_up(rng, lift, coords):
    """Return results in which probes predict the gap and nothing moves it."""
    n, arms = len(coords["prompt"]), [arm.name for arm in steered.arms(OPTIONS, [8, 9])]
    conditions = patching.condition_names(39, 4)
    coords |= {
        "space": list(probes.SPACES), "window": list(probes.WINDOWS), "direction": ["conv", "pattern", "mean"],
        "readout": list(patching.READ), "condition": conditions, "patched_layer": [2, 8], "sum": list(SUMS),
        "arm": [*arms, *(f"random {i}: 0" for i in range(1, 5))], "shown_arm": arms,
        "metric": [*scoring.METRICS, "length"],
    }  # fmt: skip
    coords |= {
        dim: [f"{dim}-{i}" for i in range(n)] for dim in ("test_prompt", "patched_prompt", "forced_prompt")
    }
    coords |= steered.described([*steered.arms(OPTIONS, [8, 9]), *steered.randoms(OPTIONS, [8, 9])])
    found = filled("exp10", rng, lift, coords)
    dims, r2 = found["r2_mean"]
    found |= {
        f"r2_{end}": (dims, 0.2 * lift + 0.01 * r2 + off)
        for end, off in zip(("mean", "low", "high"), (0, -0.1, 0.1))
    }
    for name, size in {"patch_shift": 0.02, "kl_late": 0.02, "slope": 1.0, "deviation": 1.0}.items():
        dims, values = found[name]
        found[name] = (dims, (values - 0.5) * size + (size == 1) * 1.5)
    dims, score = found["score"]
    found["score"] = (dims, score[:, :1] + 0.0 * score)
    roles = np.array([("format", "choice", "harmful")[i % 3] for i in range(n)])
    texts = np.full((len(arms), n), "A reply.", dtype=object)
    return found | {
        "role": ("prompt", roles), "message": ("prompt", np.full(n, "Ask.", dtype=object)),
        "text": (("shown_arm", "prompt"), texts),
    }  # fmt: skip


def opposite(d):
    """Return results in which probes predict nothing, and what they point at moves the gap as they say."""
    shift = d.patch_shift.copy(deep=True)
    for condition, sign in {"conv, +1 SD": 1, "conv, −1 SD": -1, "conv": 1}.items():
        shift.loc[{"condition": condition}] += 1.5 * sign
    late = d.kl_late + 0.5 * (d.arm == "conv 0")
    turned = {"r2_mean": -d.r2_mean, "r2_low": -d.r2_high, "r2_high": -d.r2_low}
    return d.assign(patch_shift=shift, kl_late=late.transpose(*d.kl_late.dims), **turned)


# Prompts


def asked(*names):
    """Prompts of two categories in turn."""
    return [Prompt(name, "ab"[i % 2], f"Q {name}", f"Q {name}") for i, name in enumerate(names)]


def captured(names):
    return xr.Dataset(coords={"prompt": list(names)})


def test_no_prompt_is_in_both_sets_and_none_of_a_direction_is_a_test_prompt():
    known = asked(*(f"p{i:02d}" for i in range(20)))
    taken = ["p00", "p01", "p02", "p03", "p18", "p19"]
    train, test = measure.split(captured([p.id for p in known[:16]] + ["p18", "p19"]), known, taken, OPTIONS)
    ids = [{prompt.id for prompt in part} for part in (train, test)]
    assert not ids[0] & ids[1] and not ids[1] & set(taken) and not (ids[0] | ids[1]) & {"p16", "p17"}
    assert len(test) == 5 and len(train) == 8 and set(taken) <= ids[0]


def test_too_few_prompts_are_refused_in_one_sentence():
    known = asked(*(f"p{i}" for i in range(9)))
    with pytest.raises(ParameterError, match="needs 5 prompts to train on and 5 others to test on"):
        measure.split(captured([p.id for p in known]), known, ["p0"], OPTIONS)


def test_doses_must_hold_the_identity():
    with pytest.raises(ValueError, match="1, which changes nothing"):
        Params(**OPTIONS.model_dump() | {"doses": (0.0, 2.0)})


def test_positions_are_spread_over_each_reply_and_the_prompts_last_is_left_out():
    batch = SimpleNamespace(steps=(range(3, 4), range(5, 12), range(2, 5)), step_of_step=np.zeros(11))
    kept = kept_steps(batch, 3)
    assert not kept[0] and not kept[1] and kept[1:8].sum() == 3 and kept[8:].tolist() == [False, True, True]
    assert kept[2] and kept[7]  # the first and the last generated token


# Patches


def test_patches_by_hand():
    delta = torch.tensor([3.0, 4.0, 0.0])
    axes = {name: torch.eye(3)[i] for i, name in enumerate(("conv", "pattern", "mean"))}
    randoms = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.6, 0.8]])
    made = patching.offsets(delta, axes, randoms, {"conv": 2.0, "mean": 0.5}, 1)
    found = dict(zip(patching.condition_names(2, 1), made.tolist(), strict=True))
    assert found["none"] == [0, 0, 0] and found["full"] == [3, 4, 0] and found["orthogonal"] == [0, 4, 0]
    assert found["conv"] == [3, 0, 0] and found["pattern"] == [0, 4, 0] and found["mean"] == [0, 0, 0]
    assert found["conv, full size"] == [5, 0, 0] and found["pattern, full size"] == [0, 5, 0]
    assert found["conv, +1 SD"] == [2, 0, 0] and found["conv, −1 SD"] == [-2, 0, 0]
    assert found["mean, +1 SD"] == [0, 0, 0.5] and found["mean, −1 SD"] == [0, 0, -0.5]
    # |Δ·c| = 3 along r, towards IT: the first random vector points away from Δ, so its sign turns.
    assert found["random 1"] == [0, 3, 0]
    assert found["random 2"] == pytest.approx([0, 1.8, 2.4]) and found["random 1, full size"] == [0, 5, 0]
    assert "random 2, full size" not in found


def test_random_directions_have_no_part_along_the_probes():
    axis = np.array([0.6, 0.8, 0.0, 0.0])
    found = patching.random_axes(50, axis, 0)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose(found @ axis, 0, atol=1e-12)


REPLIES = [
    Continuation(tuple(ids), True) for ids in ([40, 41, 42, 43], [50, 51], [60, 61, 62, 63, 64, 65, 66])
]


@cache
def case():
    """The pocket Llama pair, three prompts with replies, identity translators, what both models do, and a plan."""
    pair = load_pair(model_params("llama_pocket"))
    asked_of = [
        Prompt(str(i), "a", t, t) for i, t in enumerate(("What is red?", "Who lives in Arden now?", "Why?"))
    ]
    lenses = {d.variant: tuned_lens.untrained(pair.n_layers, d.unembedding) for d in pair}
    rows = matched_rows(pair, asked_of, REPLIES)
    test = matched(pair, rows, REPLIES, lenses, per_prompt=64, batch_size=2, lens_rows=64)
    test = test.at(np.flatnonzero(test.step <= patching.POSITIONS))
    generator = torch.Generator().manual_seed(0)
    plan = torch.randn(len(test.prompt), 2, 3, 96, generator=generator)
    plan[:, :, 0] = 0
    return pair, rows, test, plan, [3, 8], lenses


def forced_states(decoder, ids, at=None, layer=None, added=None):
    """The residuals of one row in an uncached forward, [layer, position, d], with something added at one place."""
    kept = []

    def keep(module, inputs, output, place):
        h = output[0] if isinstance(output, tuple) else output
        if place == layer:
            h[:, at] += added
        kept.append(h[0].clone())
        return output

    handles = [
        block.register_forward_hook(lambda m, i, o, place=place: keep(m, i, o, place))
        for place, block in enumerate(decoder.stack._module.layers)
    ]
    try:
        with torch.no_grad():
            decoder.stack._module(input_ids=torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept)


def test_matched_differences_are_those_of_plain_forwards():
    pair, rows, test, *_ = case()
    where = np.flatnonzero((test.prompt == 0) & (test.step == 2))[0]
    ids, at = [*rows[0], *REPLIES[0].ids[:2]], len(rows[0]) + 1
    pt, it = (forced_states(decoder, ids)[:, at] for decoder in pair)
    torch.testing.assert_close(test.difference["residual"][:, where], it - pt, atol=1e-4, rtol=1e-4)
    logp = [torch.log_softmax(d.unembedding.logits(h), -1) for d, h in zip(pair, (pt, it))]
    kl = [(one.exp() * (one - one[-1])).sum(-1) for one in logp]
    np.testing.assert_allclose(test.gap[0, :, where], (kl[1] - kl[0]).numpy(), atol=1e-3)
    assert [int((test.prompt == i).sum()) for i in range(3)] == [3, 1, 5]


def test_a_patch_is_an_uncached_forward_with_something_added_at_one_place():
    pair, rows, test, plan, layers, lenses = case()
    tokens = []
    for token in range(len(test.prompt)):
        prompt, step = int(test.prompt[token]), int(test.step[token])
        ids, at = [*rows[prompt], *REPLIES[prompt].ids[:step]], len(rows[prompt]) + step - 1
        plain = forced_states(pair.pt, ids)[:, at]
        one = []
        for k, layer in enumerate(layers):
            h = forced_states(pair.pt, ids, at, layer, plan[token, k, 2])[:, at]
            logp, base = (torch.log_softmax(pair.pt.unembedding.logits(x), -1) for x in (h, plain))
            own, was = ((x.exp() * (x - x[-1])).sum(-1) for x in (logp, base))
            other = (logp.exp() * (logp - base[-1])).sum(-1) - was
            later = slice(layer + 1, len(h) - 1)
            settled = [
                int((x[:-1] >= 0.1).nonzero().max()) + 1 if (x[:-1] >= 0.1).any() else 0 for x in (own, was)
            ]
            one.append(
                [(own - was)[later].mean(), other[later].mean(), (own - was)[layer], settled[0] - settled[1]]
            )
        tokens.append(one)
    wanted = patching.by_prompt(np.array(tokens, dtype=float).transpose(2, 1, 0), test.prompt, 3)
    found = patching.patched(pair.pt, rows, REPLIES, test, plan, layers, lenses["pt"], batch_size=8)
    assert (found[:, 0] == 0).all() and np.abs(found[:, 2]).max() > 0.05
    np.testing.assert_allclose(found[:, 2], wanted, atol=2e-3)


def test_patches_do_not_depend_on_the_batch():
    pair, rows, test, plan, layers, lenses = case()
    one, all_in_one = (
        patching.patched(pair.pt, rows, REPLIES, test, plan, layers, lenses["pt"], batch_size=size)
        for size in (6, 64)
    )
    np.testing.assert_allclose(one, all_in_one, atol=1e-4)


def test_a_patch_that_changes_nothing_is_refused():
    pair, rows, test, plan, layers, lenses = case()
    empty = plan.clone()
    empty[:, :, 1] = 0
    with pytest.raises(patching.PatchError, match="changes nothing"):
        patching.patched(pair.pt, rows, REPLIES, test, empty, layers, lenses["pt"], batch_size=64)


def test_a_cache_that_does_not_hold_what_was_read_is_refused():
    pair, rows, test, plan, layers, lenses = case()
    wrong = [row[:-1] + [row[0]] for row in rows]
    with pytest.raises(patching.PatchError, match="differs from the forced one"):
        patching.patched(pair.pt, wrong, REPLIES, test, plan, layers, lenses["pt"], batch_size=64)


# Probes


def noisy(n_prompts, seed, slope):
    """Matched data of which the first feature of both spaces predicts the gap of every layer."""
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(n_prompts), 6)
    x = torch.as_tensor(rng.normal(size=(4, len(prompt), 3))).float()
    gap = slope * x[..., 0].numpy()[None].repeat(2, 0) + 0.1 * rng.normal(size=(2, 4, len(prompt)))
    gap[:, -1] = 0
    residual = torch.as_tensor(rng.normal(size=(4, len(prompt), 3))).float()
    return Matched(
        dict.fromkeys(probes.SPACES, x),
        gap,
        prompt,
        np.tile(np.arange(1, 7), n_prompts),
        residual[-1],
        residual,
    )


def test_probes_find_the_direction_that_predicts_and_are_judged_on_other_prompts():
    found = probes.probed(noisy(20, 0, 2.0), noisy(8, 1, 2.0), 8, n_permuted=3, n_resamples=200)
    assert (found.r2 > 0.95).all() and (found.r2_low > 0.9).all() and float(found.r2_permuted.max()) < 0.3
    unit = found.weight / np.sqrt((found.weight**2).sum("feature"))
    assert (unit.isel(feature=0) > 0.99).all() and found.sizes["layer"] == 3
    wrong = probes.probed(noisy(20, 0, 2.0), noisy(8, 1, -2.0), 8, n_permuted=1, n_resamples=200)
    assert (wrong.r2 < -1).all()


def test_directions_are_set_beside_the_mean_difference():
    train, decoder = noisy(20, 0, 2.0), SimpleNamespace(norm=lambda h: h, softcap=None, weight=torch.eye(3))
    decoder.logits = lambda h: h.float()
    mean = dict.fromkeys(probes.SPACES, np.tile([0.0, -2.0, 0.0], (4, 1)))
    fitted = probes.probed(train, noisy(8, 1, 2.0), 8, n_permuted=1, n_resamples=200)
    found = probes.directions_of(fitted, train, mean, decoder)
    assert (abs(found.cosine_mean) < 0.1).all() and (found.cosine_pattern > 0.95).all()
    assert found.vector.sel(direction="mean").values[0, 0].tolist() == [0, -1, 0]
    np.testing.assert_allclose((found.slope * found.deviation.sel(direction="conv")), 2, atol=0.4)
    np.testing.assert_allclose(found.energy_share.sel(direction="conv"), 1 / 3, atol=0.12)


def test_patched_layers_are_chosen_by_training_prompts_and_have_layers_above():
    r2 = np.array([0.1, 0.5, 0.2, 0.4, 0.0, 0.0, 0.0, 0.3, 0.31, 0.1, 0.9])
    found = xr.Dataset({"r2_cv": (("space", "lens", "layer"), np.tile(r2, (2, 2, 1)))},
                       {"space": list(probes.SPACES), "lens": ["raw", "tuned"], "layer": range(11)})  # fmt: skip
    assert measure.patch_layers(found, OPTIONS) == [1, 3, 7, 8]


# Steering


def test_arms_of_equal_size_write_along_another_vector():
    arms = {arm.name: arm for arm in steered.arms(OPTIONS, [7, 8])}
    assert arms["it"].identity and arms["conv 1"].identity and not arms["mean 0"].identity
    assert (arms["equal 0"].vector, arms["equal 0"].write, arms["equal 0"].dose) == ("mean", "conv", 0)
    assert [arm.write for arm in steered.randoms(OPTIONS, [7])] == [f"random_{i}" for i in range(4)]


@pytest.mark.parametrize(("arm", "change", "said"), [
    (Arm("it"), 1e-3, "must change nothing"),
    (Arm("conv 1", change="rescale", layers=(1,), dose=1.0), 1e-3, "must change nothing"),
    (Arm("conv 0", change="rescale", layers=(1,), dose=0.0), 0.0, "changes nothing"),
])  # fmt: skip
def test_an_arm_must_do_what_it_says(arm, change, said):
    with pytest.raises(SteeringError, match=said):
        steered.check_changes([arm], np.array([[0.0, change]]))
    steered.check_changes([arm], np.array([[0.0, 0.1 if change == 0 else 0.0]]))


# Quantities and pages


def result():
    return synthetic.dataset("llama", "exp10", n_prompts=8)


def test_made_up_results_are_complete():
    complete(result().drop_attrs(deep=False), "exp10")


def test_quantities_of_patches_by_hand():
    d = result()
    shift = d.patch_shift.copy(deep=True) * 0
    for condition, by in {"conv, +1 SD": 0.3, "conv, −1 SD": -0.1, "full": 2.0, "conv": 0.5}.items():
        shift.loc[{"condition": condition}] = by
    randoms = [c for c in d.condition.values if c.startswith("random") and "full" not in c]
    shift.loc[{"condition": randoms}] = xr.DataArray(
        np.arange(39) / 100, {"condition": randoms}, ("condition",)
    )
    d = d.assign(patch_shift=shift, slope=0 * d.slope + 4.0, deviation=0 * d.deviation + 0.1)
    found = quantities(d)
    assert value(quantities, d, "unit_effect.conv") == pytest.approx(0.2)
    assert found["unit_predicted"].values == pytest.approx(0.4)
    assert value(quantities, d, "moved.conv") == pytest.approx(0.5) and found["moved.conv"].centre == 0.5
    assert value(quantities, d, "patch.full.own") == 2
    assert value(quantities, d, "patch_beyond.conv.own") == pytest.approx(0.5 - 0.19)
    assert found["patch_p.conv"].values == pytest.approx(2 / 40)  # above all 39, both tails


def test_quantities_of_steering_by_hand():
    d = result()
    score = d.score.copy(deep=True) * 0
    score.loc[{"arm": "conv 0", "metric": "format"}] = -0.25
    late = d.kl_late.copy(deep=True) * 0 + 1.0
    late.loc[{"arm": "equal 0"}] = 0.5
    d = d.assign(score=score, kl_late=late)
    found = quantities(d)
    assert (
        value(quantities, d, "shift.conv.0.format") == -0.25
        and found["shift.mean.-1.length"].unit == "tokens"
    )
    assert value(quantities, d, "steer_gap.equal.0") == -0.5 and value(quantities, d, "steer_gap.random") == 0
    assert found["equal_p.gap"].values == pytest.approx(2 / 5)  # below all four random directions


def test_the_verdict_says_what_is_predicted_and_what_moves():
    results = {f"Pocket {t}": d for t, d in synthetic.results("exp10", n_prompts=8).items()}
    assert report.verdict(results).answer == "Predicts it: yes; moves it: not seen"
    assert report.verdict(results).caveat == "Nor does the whole difference, the positive control."
    turned = {t: opposite(d) for t, d in results.items()}
    assert report.verdict(turned).answer == "Predicts it: no; moves it: yes"
    moving = {t: d.assign(patch_shift=d.patch_shift + (d.condition == "full")) for t, d in results.items()}
    assert report.verdict(moving).caveat == "The whole difference does move it in all six."
    assert (
        report.verdict(moving).answer == "Predicts it: yes; moves it: no"
    )  # the control shows that it would be seen


def test_what_steps_move_keeps_its_sign_in_the_verdict():
    d = result()
    shift = d.patch_shift.copy(deep=True) * 0
    for condition, by in {"conv, +1 SD": -0.3, "conv, −1 SD": 0.1}.items():
        shift.loc[{"condition": condition}] = by
    assert "it moves −0.20 (p " in str(report.verdict({"One": d.assign(patch_shift=shift)}))


def test_every_score_has_the_least_change_that_would_have_shown():
    d = result()
    found = quantities(d)
    for metric in report.SCORES:
        moved = found[f"shift.conv.0.{metric}"].values
        assert found[f"detectable.{metric}"].values == pytest.approx(
            dose_stats.detectable(moved), nan_ok=True
        )


def test_examples_are_ordered_by_hash_and_show_no_harmful_request():
    d = result()
    table = report.examples({"One": d}, n=8)
    assert len(table) == int((d.role == "format").sum()) and len(table.columns) == 5
    without = d.assign(role=d.role.where(d.role != "format", "other"))
    assert len(report.examples({"One": without}, n=8)) == int((d.role != "harmful").sum())
    assert report.hashed(d) == sorted(
        report.hashed(d), key=lambda name: hashlib.sha256(name.encode()).hexdigest()
    )


def test_figures_have_a_panel_or_row_for_each_pair():
    results = synthetic.results("exp10", n_prompts=6)
    for make in (figures.patch_forest, figures.prediction, figures.cosines, figures.steering):
        said = make(results).to_dict()
        assert "six pairs" in said["description"]
