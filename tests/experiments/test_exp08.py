"""Steering in six families: dose response, rank, clouds and removals against slow loops and hand-worked cases."""

import csv
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import vl_convert
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp08_six_families import (
    clouds,
    doses,
    figures,
    geometry,
    measure,
    quantities,
    report,
)
from nbhelpers.experiments.exp08_six_families.experiment import OUTCOMES, RANK_MEASURES, STABILITY, Params
from nbhelpers.measures import directions, intrinsic_dimension, steering
from nbhelpers.measures.arms import SteeringError
from nbhelpers.models import prompts
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import Prompt
from nbhelpers.models.row_edits import changed
from tests import looks, synthetic
from tests.made_up import around, filled
from tests.report import artifacts
from tests.report.test_claims import LEDGER, rounds_to
from tests.specs import chart_makers, controls, rows

# Made-up results for tests of every page and verdict


def made_up(rng, lift, coords):
    """Return results in which form falls with the dose, by `lift`, and content does not; other variables at random."""
    n = len(coords["prompt"])
    whole = np.array([-1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.5, 2])
    coords |= {
        "outcome": list(OUTCOMES), "dose": whole, "branch": ["below", "above"], "readout": list(steering.READ),
        "arm": ["it", "pt", "direction", "top 1", "top 2", "top 4", "top 8", "random 8"],
        "forced_prompt": [f"forced-{i}" for i in range(n)], "calibration_prompt": [f"cell-{i}" for i in range(n)],
        "rule": list(measure.RULES), "endpoint": list(measure.ENDPOINTS), "estimator": list(measure.ESTIMATORS),
        "forced_dose": list(DOSES), "cloud_dose": list(measure.CLOUD_DOSES), "window": ["early", "mid", "late"],
        "rank_measure": list(RANK_MEASURES), "stability_measure": list(STABILITY),
    }  # fmt: skip
    found = filled("exp08", rng, lift, coords)
    score = np.round(rng.uniform(0.8, 1, (len(OUTCOMES), len(whole), n)), 3)
    lost = np.minimum(0.95, 1.2 * lift * np.clip(1 - whole, 0, None))  # at dose 0 enough for an exact test
    score[0] = (np.arange(n) * 0.618) % 1 >= lost[:, None]
    found["score"] = (("outcome", "dose", "prompt"), score)
    found["selectivity"] = ("dose", 0.3 * lift * np.clip(1 - whole, 0, None))
    for name in [name for name in found if f"{name}_low" in found]:
        found |= around(found, name, 0.05)
    return found


def opposite(d):
    """Return results in which removal brings form and loses content, more of it than form."""
    turned = {
        "selectivity": -d.selectivity,
        "selectivity_low": -d.selectivity_high,
        "selectivity_high": -d.selectivity_low,
    }
    score = 2 * d.score.sel(dose=1.0) - d.score
    form = d.score.sel(outcome="format")
    score = xr.where(score.outcome == "format", 1 - form, xr.where(score.outcome == "right", form, score))
    return d.assign(score=score.transpose(*d.score.dims), **turned)


RNG = np.random.default_rng(0)
DOSES = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)
ROLES = ["format"] * 12 + ["choice"] * 6 + ["arithmetic"] * 6
METRICS = ["format", "content", "choice", "arithmetic", "repetition", "incoherent"]


def steered(loss=0.5, content_loss=0.0, n_matched=39):
    """A made-up dataset of steering runs: at dose 0, the given shares of format and content are lost, at −1 twice as much."""
    arms = [("dose", dose) for dose in reversed(DOSES)] + [("matched", 0.0)] * n_matched + [("plain", np.nan)]
    n = len(ROLES)
    score = np.full((len(METRICS), len(arms), n), np.nan)
    role = np.array(ROLES)
    for metric, kind in (
        ("format", "format"),
        ("content", "format"),
        ("choice", "choice"),
        ("arithmetic", "arithmetic"),
    ):
        score[METRICS.index(metric)] = np.where(role == kind, 1.0, np.nan)
    score[4:] = 0.0
    for a, (group, dose) in enumerate(arms):
        share = max(0.0, 1 - dose) if group == "dose" else 0.0
        for metric, lost in (("format", loss), ("content", content_loss)):
            k = round(12 * min(1, share * lost))
            score[METRICS.index(metric), a, :k] = 0.0
        if group == "matched":  # each random direction spoils one prompt of another number
            score[0, a, a % 3] = 0.0
    return xr.Dataset(
        {"score": (("metric", "arm", "prompt"), score), "forced_kl_unedited": (("arm", "prompt"), np.zeros((len(arms), n)))},
        {
            "metric": METRICS, "arm": [f"{g}_{i}" for i, (g, _) in enumerate(arms)],
            "prompt": [f"p{i}" for i in range(n)],
            "group": ("arm", [g for g, _ in arms]), "dose": ("arm", [d for _, d in arms]),
        },
    )  # fmt: skip


def answered(**losses):
    return doses.response(steered(**losses), confidence=0.95, n_resamples=400)


def test_changes_are_from_dose_1_and_paired_by_prompt():
    found = answered(loss=0.5)
    assert found.dose.values.tolist() == list(DOSES) and found.outcome.values.tolist() == list(OUTCOMES)
    change = doses.changes(found.score).sel(outcome="format")
    assert change.mean("prompt").values.tolist() == pytest.approx([-1, -0.5, -0.25, 0, 0, 0])
    assert found.lost.sel(outcome="format").values.tolist() == [12, 6, 3, 0, 0, 0]
    assert found.gained.sum() == 0
    removed = change.sel(dose=0).dropna("prompt").values
    assert float(found.d_z.sel(outcome="format", dose=0)) == pytest.approx(
        removed.mean() / removed.std(ddof=1)
    )
    assert (found.d_z.sel(outcome="content") == 0).all()  # nothing moves
    assert found.d_z.sel(outcome="refusal_harmful").isnull().all() and found.p_holm.sel(dose=1).isnull().all()


def test_an_outcome_has_the_prompts_of_its_role():
    values = doses.outcomes(steered())
    known = values.notnull().sum("prompt").max("arm").to_series().to_dict()
    assert (
        known["format"] == 12
        and known["choice"] == known["arithmetic"] == 6
        and known["right"] == known["kl"] == 24
    )


def test_what_no_prompt_supports_is_not_a_number():
    found = answered()
    assert found.score.sel(outcome="refusal_harmful").isnull().all()
    assert found.detectable.sel(outcome="refusal_harmful").isnull()
    assert (
        found.band_p.sel(outcome="refusal_harmful").isnull()
        and found.rho.sel(outcome="structure").isnull().all()
    )


def test_a_rise_up_to_1_is_seen_on_its_own_branch():
    found = answered(loss=0.5)
    assert float(found.rho.sel(outcome="format", branch="below")) == pytest.approx(1)
    assert float(found.page_p.sel(outcome="format", branch="below")) < 0.001
    assert found.rho.sel(outcome="format", branch="above").isnull()  # flat


def test_the_removal_is_ranked_among_random_directions():
    assert float(answered(loss=0.5).band_p.sel(outcome="format")) == pytest.approx(2 / 40)
    none = answered(loss=0.0)
    # Every random direction loses one of twelve prompts, the removal none: it lies above all of them.
    assert float(none.band_low.sel(outcome="format")) == pytest.approx(-1 / 12)
    assert float(none.band_p.sel(outcome="format")) == pytest.approx(2 / 40)
    assert float(none.band_p.sel(outcome="choice")) == 1


@pytest.mark.parametrize(
    ("loss", "content_loss", "side"), [(0.75, 0.0, 1), (0.0, 0.75, -1), (0.5, 0.5, 0), (0, 0, 0)]
)
def test_selectivity_compares_form_with_content(loss, content_loss, side):
    found = answered(loss=loss, content_loss=content_loss).sel(dose=0)
    n_content = 12 + 12  # the same twelve prompts, and the answers, which lose nothing
    assert float(found.selectivity) == pytest.approx(loss - content_loss * 12 / n_content)
    low, high = float(found.selectivity_low), float(found.selectivity_high)
    assert low <= float(found.selectivity) <= high
    if side:
        assert (low > 0) == (side > 0) and (high < 0) == (side < 0)


def test_selectivity_agrees_with_scipy_on_disjoint_prompts():
    rng = np.random.default_rng(1)
    content, form = rng.normal(size=40), rng.normal(-0.5, 1, 60)
    rows = np.full((2, 100), np.nan)
    rows[0, :40], rows[1, 40:] = content, form
    value, low, high = doses._more_lost(*rows, confidence=0.95)
    wanted = scipy.stats.bootstrap(
        (content, form), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=10_000, rng=rng
    ).confidence_interval
    assert value == pytest.approx(content.mean() - form.mean())
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.03)


def test_a_run_without_the_removal_is_refused():
    whole = steered()
    with pytest.raises(SteeringError, match="dose 0"):
        doses.response(whole.isel(arm=np.flatnonzero(whole.dose.values != 0)), confidence=0.95)


def cells(n=16, width=10, size=1.0, noise=1.0, seed=0):
    """A collection of eight cells at three layers whose differences share one axis of some size."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, noise, (2, 2, 2, n, 3, width))
    values[1, 1, 1, :, :, 0] += size
    names = {"weights": ["pt", "it"], "history": ["pt", "it"], "prompt_format": ["raw", "chat"]}
    return xr.DataArray(
        values, names | {"prompt": [f"c{i}" for i in range(n)]}, (*names, "prompt", "layer", "feature")
    )


def slow_rank(own):
    """The measures of rank of differences [prompt, d], from singular values."""
    mean = own.mean(0)
    axis = mean / np.linalg.norm(mean)
    s, v = np.linalg.svd(own, full_matrices=False)[1:]
    centred = np.linalg.svd(own - mean, compute_uv=False) ** 2
    energy = (own**2).sum()
    return {
        "centred_pc1": centred[0] / centred.sum(), "uncentred_pc1": s[0] ** 2 / energy,
        "energy_share": ((own @ axis) ** 2).sum() / energy, "mean_share": mean @ mean / (energy / len(own)),
        "cosine_pc1": abs(v[0] @ axis), "participation": energy**2 / (s**4).sum(),
    }  # fmt: skip


def test_rank_measures_are_those_of_the_differences_themselves():
    own = RNG.normal(size=(9, 2, 30)) + 0.5
    found = geometry.rank_measures(own.transpose(1, 0, 2) @ own.transpose(1, 2, 0))
    for layer in range(2):
        wanted = slow_rank(own[:, layer])
        assert {name: each[layer] for name, each in found.items()} == pytest.approx(wanted)


def test_centring_hides_a_common_direction():
    own = 0.01 * RNG.normal(size=(20, 1, 12))
    own[..., 0] += 1.0
    found = geometry.rank_one(own, draws=40, confidence=0.95)
    one = found.rank_one.isel(layer=0)
    assert one.sel(rank_measure="energy_share") > 0.99 and one.sel(rank_measure="centred_pc1") < 0.3
    # Labels exchanged at random: the line is there, but its sign is not, so that the mean is short and centring keeps it.
    null = found.permuted.isel(layer=0)
    assert null.sel(rank_measure="centred_pc1") > 0.9
    assert float(null.sel(rank_measure="mean_share")) == pytest.approx(1 / 20, abs=0.04)
    assert (found.rank_one_low <= found.rank_one).all() and (found.rank_one_high >= found.rank_one).all()


def test_the_energy_along_the_others_by_loop():
    own = RNG.normal(size=(6, 2, 8)) + 0.4
    found = geometry.energy_along(own)
    for i in range(6):
        for layer in range(2):
            mean = np.delete(own[:, layer], i, 0).mean(0)
            d = own[i, layer]
            assert found[i, layer] == pytest.approx((d @ mean) ** 2 / (mean @ mean) / (d @ d))


def test_halves_give_the_standard_error_of_a_mean():
    values = np.random.default_rng(2).normal(size=41)
    drawn = values[geometry.halves(41, 4000)].mean(1)
    low, high = geometry.half_interval(values.mean(), drawn, 41)
    wanted = 1.96 * values.std(ddof=1) / np.sqrt(41)
    assert (high - low) / 2 == pytest.approx(wanted, rel=0.05) and low + high == pytest.approx(
        2 * values.mean()
    )


def test_stability_tells_a_shared_axis_from_noise():
    strong, weak = (geometry.stability(cells(size=s), draws=30, confidence=0.95) for s in (8.0, 0.0))
    assert (strong.stability.sel(stability_measure="split_half") > 0.9).all()
    assert (weak.stability.sel(stability_measure="split_half") < 0.6).all()
    own, raw = (directions.direction(cells(size=8.0), kind).values for kind in ("mean", "mean_raw"))
    template = strong.stability.sel(stability_measure="template_cosine")
    np.testing.assert_allclose(template, directions.cosine(own, raw))


def test_subspaces_are_orthonormal_and_start_at_the_common_axis():
    own = directions.differences(cells(size=9.0)).values
    found = geometry.subspaces(own, (1, 4, 99))
    assert list(found) == ["top 1", "top 4"] and found["top 4"].shape == (3, 4, 10)
    products = found["top 4"] @ found["top 4"].transpose(0, 2, 1)
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(4), products.shape), atol=1e-12)
    assert (abs(directions.cosine(found["top 1"][:, 0], own.mean(0))) > 0.95).all()
    drawn = geometry.random_subspace(3, 4, 10)
    np.testing.assert_allclose(drawn @ drawn.transpose(0, 2, 1), products, atol=1e-12)


@pytest.mark.parametrize(
    ("n", "bins", "steps"), [(8, 4, [1, 3, 5, 7]), (2, 4, [0, 1]), (1, 3, [0]), (9, 1, [4])]
)
def test_a_point_for_each_part_of_a_reply(n, bins, steps):
    assert clouds.middle_steps(n, bins).tolist() == steps


def test_dimensions_of_parts_are_those_of_the_parts_alone():
    cloud = torch.as_tensor(RNG.normal(size=(60, 7)))
    prompt = np.repeat(np.arange(20), 3)
    halves = geometry.halves(20, 5)
    found = clouds.dimensions(cloud, prompt, halves)
    for i, half in enumerate(halves):
        part = cloud[np.isin(prompt, half)]
        near = intrinsic_dimension.neighbours(part)
        assert found["two_nn"][1][i] == pytest.approx(intrinsic_dimension.two_nn(near.distances))
        spectrum = intrinsic_dimension.spectrum(part)
        assert found["participation"][1][i] == pytest.approx(
            float(intrinsic_dimension.participation_ratio(spectrum))
        )
    assert found["two_nn"][0] == pytest.approx(
        intrinsic_dimension.two_nn(intrinsic_dimension.neighbours(cloud).distances)
    )


def test_repeated_points_count_once():
    cloud = torch.as_tensor(RNG.normal(size=(30, 5)))
    prompt, halves = np.arange(30), geometry.halves(30, 4)
    once = clouds.dimensions(cloud, prompt, halves)
    twice = clouds.dimensions(torch.cat([cloud, cloud[:3]]), np.append(prompt, [0, 1, 2]), halves)
    for name in once:
        assert twice[name][0] == pytest.approx(once[name][0])
        np.testing.assert_allclose(twice[name][1], once[name][1])


def test_a_sheet_has_two_dimensions():
    sheet = RNG.uniform(size=(400, 2)) @ RNG.normal(size=(2, 30))
    found = clouds.dimensions(torch.as_tensor(sheet), np.arange(400), geometry.halves(400, 20))
    assert found["two_nn"][0] == pytest.approx(2, abs=0.25) and found["participation"][0] < 2.01


def states(n=12, layers=10, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(layers, 2 * n, 6)).astype(np.float32)
    found = {dose: base.copy() for dose in measure.CLOUD_DOSES}
    found[0.0][6:] *= np.array([4.0, 1, 1, 1, 1, 1])  # stretched in the late window: fewer dimensions
    return found, np.repeat(np.arange(n), 2)


def options(**more):
    return Params(n_prompts=8, max_new_tokens=8, batch_size=4, n_draws=40, **more)


def test_a_stretched_cloud_loses_dimensions_where_it_is_stretched():
    found = measure.dimensions(*states(), options())
    shift = found.dimension_shift.sel(estimator="participation")
    assert shift.sel(cloud_dose=0, window="late") < -0.5 and shift.sel(window="early").max() == 0
    change = found.dimension_change.sel(estimator="participation", cloud_dose=0)
    assert (change[:6] == 0).all() and (change[6:] < -0.5).all()
    assert found.dimension_shift_high.sel(estimator="participation", cloud_dose=0, window="late") < 0
    assert (shift.sel(cloud_dose=[1, -1]) == 0).all()


def test_a_change_below_the_late_window_is_an_error():
    found, prompt = states()
    found[-1.0][2] += 1
    with pytest.raises(SteeringError, match="changes layer 2, below it"):
        measure.dimensions(found, prompt, options())


def test_doses_must_hold_the_identity_and_the_removal():
    assert options(doses=[2.0, 1.0, 0.0, -1.0]).doses == (-1.0, 0.0, 1.0, 2.0)
    with pytest.raises(ValueError, match="must hold 1"):
        options(doses=[0.0, 0.5, -1.0])


def known(n=12):
    return [(Prompt(f"k{i}", f"c{i % 2}", "Question: Who?\nAnswer:", "Who?"), {}) for i in range(n)]


def test_a_subspace_is_removed_as_a_projection_and_other_rows_are_left_alone():
    basis = geometry.random_subspace(2, 3, 8)
    vectors = {"span": basis, "mean": RNG.normal(size=(2, 8))}
    arms = [
        steering.Arm("none"),
        steering.Arm("span", change="rescale", layers=(0, 1), vector="span", dose=0.0),
        steering.Arm("one", change="rescale", layers=(1,), dose=0.0),
        steering.Arm("half", change="rescale", layers=(1,), vector="span", dose=0.5),
    ]
    h = torch.as_tensor(RNG.normal(size=(4, 5, 8)), dtype=torch.float32)
    edits = steering.row_edits(arms, vectors, 8)
    assert [edit.layer for edit in edits] == [0, 0, 0, 1, 1, 1]
    for layer in (0, 1):
        found = h
        for edit in edits:
            found = changed(found, edit) if edit.layer == layer else found
        inside = h @ torch.as_tensor(basis[layer].T @ basis[layer], dtype=torch.float32)
        axis = torch.as_tensor(directions.unit(vectors["mean"][layer]), dtype=torch.float32)
        wanted = torch.stack([
            h[0], (h - inside)[1], h[2] - (h[2] @ axis)[:, None] * axis if layer else h[2],
            (h - 0.5 * inside)[3] if layer else h[3],
        ])  # fmt: skip
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def measured():
    """The forced measurements of Pocket Llama on four prompts, along a direction of large size."""
    pair = load_pair("llama_pocket")
    chosen = prompts.load_prompts("pocket/prompts.jsonl", 4, seed=1)
    chosen_options = Params(n_prompts=4, max_new_tokens=10, batch_size=3, lens_rows=64, n_draws=20)
    forced = measure.own_replies(pair, chosen, chosen_options)
    direction = np.random.default_rng(0).normal(size=(pair.n_layers, pair.it.config.hidden_size))
    found = measure.under_doses(pair, chosen, forced, direction, chosen_options)
    return pair, chosen, forced, direction, chosen_options, found


def slow_residuals(decoder, ids, direction, dose, layers):
    """Residuals after every block, [layer, position, d], with plain hooks on the MLPs of some layers."""
    blocks, kept, handles = decoder.module.get_submodule(decoder.stack_path).layers, [], []
    for layer, block in enumerate(blocks):
        if layer in layers and dose != 1:
            axis = torch.as_tensor(directions.unit(direction[layer]), dtype=torch.float32)
            hook = lambda m, i, h, d=axis: h + (dose - 1) * (h @ d)[..., None] * d  # noqa: E731
            handles.append(block.mlp.register_forward_hook(hook))
        handles.append(
            block.register_forward_hook(lambda m, i, h: kept.append((h[0] if isinstance(h, tuple) else h)[0]))
        )
    try:
        with torch.no_grad():
            decoder.module(torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(kept)


def slow_commitment(residuals, decoder, end):
    """Layers of commitment of each position by both rules, [rule, position], from whole distributions."""
    logp = [torch.log_softmax(decoder.unembedding.logits(h).float(), -1) for h in (*residuals, end)]
    top = torch.stack([each.argmax(-1) for each in logp])
    kl = torch.stack([(each.exp() * (each - logp[-1])).sum(-1) for each in logp])
    n, found = len(residuals), []
    for good in (top == top[-1], kl < 0.1):
        found.append([next(at for at in range(n + 1) if good[at:, t].all()) for t in range(good.shape[1])])
    return np.array(found)


@pytest.mark.slow
def test_commitment_under_a_dose_is_that_of_plain_hooks(measured):
    pair, chosen, forced, direction, _, (found, states, prompt) = measured
    late, rows = range(7, 12), prompts.read_as(pair.it, chosen, "chat")
    for p, (row, reply) in enumerate(zip(rows, forced)):
        ids, first = [*row, *reply.ids[:-1]], len(row) - 1
        plain = slow_residuals(pair.it, ids, direction, 1.0, late)[:, first:]
        for dose in (1.0, 0.0, -1.0):
            residuals = slow_residuals(pair.it, ids, direction, dose, late)[:, first:]
            at = found.commitment.sel(forced_dose=dose).isel(forced_prompt=p)
            own = slow_commitment(residuals, pair.it, residuals[-1]).clip(max=11)
            unedited = slow_commitment(residuals, pair.it, plain[-1])
            np.testing.assert_allclose(at.sel(endpoint="own"), own.mean(1))
            np.testing.assert_allclose(at.sel(endpoint="unedited"), unedited.mean(1))
            steps = clouds.middle_steps(len(reply.ids), 4)
            np.testing.assert_allclose(states[dose][:, prompt == p], residuals[:, steps], atol=1e-4)
    assert (found.commitment.sel(forced_dose=-1.0) != found.commitment.sel(forced_dose=1.0)).any()


@pytest.mark.slow
def test_pts_commitment_is_on_the_same_tokens_after_its_raw_prompt(measured):
    pair, chosen, forced, _, _, (found, _, _) = measured
    row = prompts.read_as(pair.pt, chosen, "raw")[2]
    residuals = slow_residuals(pair.pt, [*row, *forced[2].ids[:-1]], None, 1.0, ())[:, len(row) - 1 :]
    own = slow_commitment(residuals, pair.pt, residuals[-1]).clip(max=11)
    np.testing.assert_allclose(found.commitment_pt.isel(forced_prompt=2), own.mean(1))


@pytest.mark.slow
def test_removals_leave_it_alone_and_grow_with_the_rank(measured):
    pair, chosen, forced, _, chosen_options, _ = measured
    made = cells(n=6, width=96, size=3.0)
    whole = xr.concat([made] * 4, "layer")  # twelve layers
    read = measure.removals(pair, chosen, forced, whole, chosen_options).forced
    assert read.arm.values.tolist() == ["it", "pt", "direction", "top 1", "top 2", "top 4", "random 4"]
    moved = read.sel(readout="residual_change").mean("forced_prompt")
    assert moved.sel(arm=["it", "pt"]).max() == 0
    assert moved.sel(arm="top 1") < moved.sel(arm="top 2") < moved.sel(arm="top 4")
    assert (read.sel(readout="nll", arm="pt") > read.sel(readout="nll", arm="it")).all()


def test_a_dose_that_changes_nothing_is_an_error():
    plain = SimpleNamespace(residual=[torch.zeros(2, 3)])
    moved = SimpleNamespace(residual=[torch.ones(2, 3)])
    measure.check_dose(plain, plain, 1.0)
    measure.check_dose(moved, plain, 0.0)
    with pytest.raises(SteeringError, match="Dose 0 of the direction changes nothing"):
        measure.check_dose(plain, plain, 0.0)
    with pytest.raises(SteeringError, match="Dose 1 of the direction changes something"):
        measure.check_dose(moved, plain, 1.0)


FIGURES = {
    "dose_response": {}, "dissociation": {}, "removals": {}, "rank": {}, "stability": {},
    "commitment": {"rule": list(figures.RULES.values()), "endpoint": list(figures.ENDPOINTS.values())},
    "dimension": {"estimator": list(figures.ESTIMATORS.values())},
}  # fmt: skip


@pytest.fixture(scope="module")
def results():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=100))
        yield synthetic.results("exp08", n_prompts=12)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_draws_six_pairs_with_a_caption_and_the_readers_choices(name, results):
    spec = getattr(figures, name)(results).to_dict()
    svg = vl_convert.vegalite_to_svg(json.dumps(spec, allow_nan=False))
    assert (
        "NaN" not in svg and "undefined" not in svg and all(f">{title}<" in svg for title in synthetic.TITLES)
    )
    assert {field: list(values) for field, values in controls(spec).items()} == FIGURES[name]
    for look in (looks.has_a_caption, looks.has_words, looks.fits_a_phone, looks.has_the_models_colours):
        look(spec)


def test_every_figure_is_drawn_here():
    assert chart_makers(figures) - {"identity_rule"} == set(FIGURES)


def test_what_a_figure_shows_is_in_the_dataset(results):
    d = results["Qwen"]
    at = rows(figures.dissociation(results)).set_index("panel").loc["Qwen"]
    score = d.score.sel(outcome="format")
    assert at.form_mean == pytest.approx(float((score.sel(dose=0) - score.sel(dose=1)).mean()), abs=1e-4)
    drawn = rows(figures.dimension({"Qwen": d}))
    one = drawn[(drawn.curve == "α = −1") & (drawn.layer == 9) & (drawn.estimator == "TwoNN")]
    wanted = d.dimension_change.sel(cloud_dose=-1, layer=9, estimator="two_nn")
    assert one["mean"].item() == pytest.approx(float(wanted), abs=1e-4)


TABLES = [f for n, f in vars(report).items() if n.endswith("_table") and f.__module__ == report.__name__]


@pytest.mark.parametrize("build", TABLES, ids=lambda build: build.__name__)
def test_a_table_is_whole_text_of_every_pair(build, results):
    for some in (results, {"Pocket Llama": results["Llama"]}):
        table = build(some)
        cells = [str(cell) for cell in table.to_numpy().ravel()]
        assert set(some) <= set(table.index) or len(some) == 1
        assert not any("nan" in cell or "-0" in cell or cell == "None" for cell in cells)


def test_the_change_table_holds_means_and_marks_what_holm_leaves(results):
    d = results["Gemma"].copy(deep=True)
    d["p_holm"].loc[{"outcome": "format", "dose": 0.0}] = 0.01
    d["p_holm"].loc[{"outcome": "choice", "dose": 0.0}] = 0.2
    cell = report.change_table({"Gemma": d, "Llama": results["Llama"]}).loc["Gemma"]
    change = d.score.sel(outcome="format", dose=0) - d.score.sel(outcome="format", dose=1)
    assert cell["form"].startswith(f"{float(change.mean()):.3f}".replace("-", "−")) and cell["form"].endswith(
        " *"
    )
    assert not cell["its letter"].endswith("*")


def test_a_pair_without_checkable_prompts_says_so(results):
    d = results["Qwen"]
    few = d.assign(
        score=d.score * np.nan, detectable=d.detectable * np.nan, selectivity=d.selectivity * np.nan
    )
    alone = {"Pocket Qwen": few}
    assert "No prompt asks for a form" in str(report.verdict(alone)) and "nan" not in str(
        report.verdict(alone)
    )
    for draw in (figures.dose_response, figures.dissociation):
        assert "not measured" in draw(alone).to_dict()["description"]
    both = rows(figures.dose_response(alone | {"Pocket OLMo": results["OLMo"]}))
    assert set(both["panel"]) == {"Pocket OLMo"}


def test_late_quantities_are_means_over_the_late_window(results):
    d = results["Mistral"]
    found = {n: q.values for n, q in quantities.quantities(d).items()}
    late = slice(7, 12)
    wanted = float(d.rank_one.sel(rank_measure="centred_pc1")[late].mean())
    assert found["centred_pc1.late"].mean == pytest.approx(wanted)
    least = float(d.rank_one_low.sel(rank_measure="centred_pc1")[late].mean())
    assert found["centred_pc1.late"].low == pytest.approx(least) and least < wanted
    np.testing.assert_allclose(found["energy_along.late"], d.energy_along[:, late].mean("layer"))
    assert found["late_dimension.two_nn.0"] == pytest.approx(
        float(d.dimension.sel(estimator="two_nn", cloud_dose=0)[late].mean())
    )
    shift = d.commitment.sel(rule="top1_strict", endpoint="own")
    np.testing.assert_allclose(
        found["commitment_shift.top1_strict.own.0"], shift.sel(forced_dose=0) - shift.sel(forced_dose=1)
    )


def test_no_prompt_of_the_directions_is_read():
    collected = xr.Dataset(coords={"prompt": [f"k{i}" for i in range(4)]})
    chosen = measure.held_out(known(), collected, options())
    assert len(chosen) == 8 and not {p.id for p in chosen} & set(collected.prompt.values)
    with pytest.raises(ParameterError):
        measure.held_out(known(4), collected, options())


# The study's figures, computed anew from the files that it released


FILES = "exp08_multimodel_steering_phase0/plots/data/phase0_{}.json"
OF_STUDY = {
    "structure": "structural_token_ratio", "format": "format_compliance_v2", "choice": "mmlu_forced_choice",
    "arithmetic": "exp3_reasoning_em", "alignment": "exp3_alignment_behavior",
}  # fmt: skip


def released(metric, family):
    """The value of one figure in the released files, None if they do not hold it."""
    kind, *rest = metric.split(".", 1)
    of = lambda name: artifacts.read(FILES.format(name))[artifacts.KEYS[family]]  # noqa: E731
    if kind in ("d_z", "score"):
        outcome, dose = rest[0].rsplit(".", 1)
        field = "cohens_d" if kind == "d_z" else {"1": "baseline", "0": "treatment"}[dose]
        return of("effect_sizes")[OF_STUDY[outcome]][field]
    if kind == "spearman":
        return of("monotonicity")[OF_STUDY[rest[0]]]["spearman_rho"]
    if kind in ("centred_pc1", "centred_top5"):
        at = 0 if kind == "centred_pc1" else 4
        return np.mean([x["cumulative_variance"][at] for x in of("pca_scree")["per_layer_pca"].values()])
    if kind == "split_half":
        return of("direction_stability")["corrective_summary"]["split_half_mean"]
    if kind == "bootstrap_cosine":
        group, field = {
            "mean": ("pairwise", "mean"),
            "low": ("pairwise", "min"),
            "stored": ("bootstrap_vs_full", "mean"),
        }[rest[0]]
        values = [x[f"{group}_cosines"][field] for x in of("bootstrap_stability")["per_layer"].values()]
        return min(values) if rest[0] == "low" else np.mean(values)
    if kind == "commitment":
        return of("commitment")[f"A1_alpha_{rest[0].split('.', 1)[1]}"]["mean_commitment"]
    if kind.endswith("_dimension"):
        ids = of("id_steering")["profiles"][f"{float(rest[0].split('.')[1]):.1f}"]["id_twonn"]
        return np.mean(ids[round(0.6 * len(ids)) :])
    return None


@pytest.mark.skipif(not artifacts.FOLDER.exists(), reason=f"{artifacts.FOLDER} is not here")
def test_typed_figures_are_those_of_the_released_files():
    with LEDGER.open(encoding="utf-8") as file:
        typed = [row for row in csv.DictReader(file) if row["id"].startswith("exp08.") and row["value"]]
    found = [(row, released(row["metric"], row["family"])) for row in typed]
    wrong = [
        (row["id"], row["value"], exact)
        for row, exact in found
        if exact and not rounds_to(row["value"], exact)
    ]
    assert not wrong
    assert sum(exact is not None for _, exact in found) == 215
