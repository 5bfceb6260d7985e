"""exp06: its arms and read-outs against plain loops on a pocket pair; its quantities on results set by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import store
from nbhelpers.core.params import ParameterError, model_params
from nbhelpers.experiments.exp06_steering import (
    arms,
    content,
    figures,
    gap,
    measure,
    quantities,
    report,
    selections,
)
from nbhelpers.experiments.exp06_steering.experiment import n_arms
from nbhelpers.measures import commitment, scoring, steering, tuned_lens
from nbhelpers.measures.arms import Arm
from nbhelpers.measures.forced_choice import candidate_ids
from nbhelpers.measures.refusal import CLASSES
from nbhelpers.models.generation import generate
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import read_as, read_pairs
from nbhelpers.report.quantities import value
from tests import made_up as generated
from tests import synthetic
from tests.specs import chart_makers, complete, controls, rows, spec_of

ROLES = (
    "format",
    "format",
    "choice",
    "format",
    "arithmetic",
    "format",
    "harmful",
    "format",
    "harmless",
    "format",
)
TUNED, TEXTS = 6, 5


def options(**given):
    """The pocket profile's parameters, with fewer controls."""
    return experiments.experiment_params("exp06", "pocket", **{"n_random": 3, "n_random_removed": 4} | given)


def made_up(rng, lift, coords):
    """Return results in which removing the late direction costs form, by `lift`, and random directions cost nothing."""
    n, n_layers = len(coords["prompt"]), len(coords["layer"])
    groups = arms.groups(n_layers, options())
    flat = [arm.name for group in groups.values() for arm in group] + ["prompted"]
    doses = [arm.name for arm in groups["dose"]]
    roles = [ROLES[i % len(ROLES)] for i in range(n)]
    coords |= arms.described({**groups, "prompted": [arms.PROMPTED]}, n_layers) | {
        "metric": list(measure.METRICS), "shown_arm": [*doses, "it", "it_raw", "pt", "prompted"], "tuned_arm": doses,
        "tuning_prompt": [f"tune-{i}" for i in range(TUNED)], "neutral_arm": doses, "text_id": range(TEXTS),
        "reader": [*doses, "pt"], "rule": list(gap.RULES), "role": ("prompt", roles),
        "message": ("prompt", generated.texts(rng, n)),
    }  # fmt: skip
    found = generated.filled("exp06", rng, lift, coords)
    found["score"] = (("metric", "arm", "prompt"), made_up_scores(rng, lift, coords, groups, flat, roles))
    drop = np.array([min(0.0, arm.dose - 1) for arm in groups["dose"]])
    found["tuning_format"] = (("tuned_arm", "tuning_prompt"), 0.9 + 0.3 * drop[:, None] * np.ones(TUNED))
    found["tuning_incoherent"] = (("tuned_arm", "tuning_prompt"), np.zeros((len(doses), TUNED)))
    read = ("reader", "lens", "layer", "prompt")
    found["kl_layer_final"] = (
        read,
        found["kl_layer_final"][1] * np.r_[np.ones(len(doses)), 0.5][:, None, None, None],
    )
    found["text"] = (("shown_arm", "prompt"), generated.texts(rng, len(coords["shown_arm"]), n))
    found["engagement"] = (("arm", "prompt"), rng.integers(0, len(CLASSES), (len(flat), n)))
    found["edited_positions"] = (("arm", "prompt"), rng.integers(20, 40, (len(flat), n)))
    return found


def made_up_scores(rng, lift, coords, groups, flat, roles):
    """Rates of 0 and 1: form lost under late doses below 1, everything lost in PT, nothing elsewhere."""
    n, place = len(roles), {name: i for i, name in enumerate(flat)}
    score = np.full((len(measure.METRICS), len(flat), n), np.nan)
    rank = (np.arange(n) * 0.618) % 1
    for m, name in enumerate(measure.METRICS):
        of = (
            scoring.METRICS[name].roles
            if name in scoring.METRICS
            else ("format",)
            if name == "content"
            else ROLES
        )
        mine = np.isin(roles, of)
        style = name not in (*quantities.RATES, "format_loose", "choice_logprob", "refusal_harmless")
        score[m][:, mine] = rng.uniform(0, 0.1, (len(flat), mine.sum())) if style else 1.0
        if not style:
            score[m, place["pt"]][mine] = 0.0
        if name == "format":
            for arm in groups["dose"]:
                lost = min(0.95, 1.5 * lift * max(0.0, 1 - arm.dose))  # enough for an exact test of 8 prompts
                score[m, place[arm.name]] = np.where(mine, (rank >= lost).astype(float), np.nan)
    return score


def opposite(d):
    """Form is missing in IT as it is, and removal brings it."""
    form = d["score"].sel(metric=["format", "content"])
    turned = xr.where(d["metric"].isin(form["metric"]), 1 - d["score"], d["score"])
    tuned = 1 - d["tuning_format"]
    return d.assign(score=turned.transpose(*d["score"].dims), tuning_format=tuned).assign_attrs(d.attrs)


# Parameters, arms and prompts


def test_every_arm_has_a_name_of_its_own_and_the_cost_counts_them():
    groups = arms.groups(12, options())
    flat = [arm for group in groups.values() for arm in group]
    assert len({arm.name for arm in flat}) == len(flat)
    assert n_arms(options(), 12) == len(flat) + 1  # and the prompt-only baseline
    counts = {dose: sum(arm.dose == dose for arm in groups["matched"]) for dose in (-1, 0, 2)}
    assert counts == {-1: 3, 0: 4, 2: 3}
    assert {arm.name for arm in flat if arm.identity} == {"it", "it_raw", "pt", "dose_1", "raw_1", "inject_0"}


def test_windows_and_skips_are_of_late_layers():
    groups = arms.groups(12, options())
    assert {arm.layers for arm in groups["dose"]} == {(7, 8, 9, 10, 11)}
    assert [arm.layers for arm in groups["skip"]] == [tuple(range(first, 12)) for first in (11, 10, 9, 8, 7)]
    assert not any(0 in arm.layers for arm in groups["skip"])
    assert (
        arms.window_of(groups["early"][0], 12) == "early"
        and arms.window_of(groups["single"][0], 12) == "layer"
    )


@pytest.mark.parametrize(
    ("given", "said"), [({"doses": (0, 2, 3)}, "changes nothing"), ({"counts": {"choice": 3}}, "role format")]
)
def test_parameters_that_leave_nothing_to_compare_are_refused(given, said):
    with pytest.raises(ParameterError, match=said):
        options(**given)


def test_prompts_of_direction_choice_and_evaluation_are_disjoint():
    known = read_pairs("pocket/prompts.jsonl")
    used = [prompt.id for prompt, _ in known if prompt.id.endswith("0")]
    evaluation, tuning = measure.chosen(known, used, options())
    sets = [set(used), {p.id for p, _ in evaluation}, {p.id for p, _ in tuning}]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    roles = [scoring.task(record).role for _, record in evaluation]
    assert {role: roles.count(role) for role in set(roles)} == dict(options().counts)
    assert [scoring.task(record).role for _, record in tuning] == ["format"] * options().n_tuning


def test_prompts_of_the_directions_are_refused():
    known = read_pairs("pocket/prompts.jsonl")[:3]
    artifact = xr.Dataset(coords={"prompt": [known[1][0].id]})
    with pytest.raises(store.ResultError, match=known[1][0].id):
        measure.check_upstream(artifact, [prompt for prompt, _ in known])
    measure.check_upstream(artifact, [known[0][0]])


def test_a_set_without_checks_has_what_needs_none():
    evaluation, tuning = measure.chosen(read_pairs("params/prompts/general.jsonl"), [], options())
    assert {scoring.task(record).role for _, record in evaluation} == {"harmful", "harmless"} and not tuning


def test_a_set_without_checks_leaves_nothing_to_score():
    with pytest.raises(ParameterError):
        unchecked = [
            pair for pair in read_pairs("params/prompts/general.jsonl") if pair[0].category == "fact"
        ]
        measure.chosen(unchecked, [], options())


def test_every_request_of_our_own_is_met_by_its_own_reply():
    for _, record in read_pairs("params/prompts/requests.jsonl"):
        found = scoring.scores(scoring.task(record), record["reply"])
        for name in ("format", "choice", "arithmetic", "refusal_harmful"):
            assert math.isnan(found[name]) or found[name] == 1, (record["id"], name)


# Content


@pytest.mark.parametrize(
    ("kind", "reply", "text", "expected"),
    [
        ("upper_case", "THE PEACH IS BROWN.", "It is brown.", 1.0), ("upper_case", "THE PEACH IS BROWN.", "RED.", 0.0),
        ("json", '{"food": "figs", "town": "Garno"}', "Figs, in Garno", 1.0),
        ("json", '{"food": "figs", "town": "Garno"}', '{"food": "figs"}', 0.0),
        ("bullet_list", "- Ann\n- Bob", "- Ann\n- Bob", math.nan), ("one_word", "peach", "peach", math.nan),
    ],
)  # fmt: skip
def test_content_is_what_the_request_does_not_give_away(kind, reply, text, expected):
    task = scoring.Task("format", kind, {"n": 2}, message="Say the food and the town of the peach.")
    assert content.content(task, {"reply": reply}, text) == pytest.approx(expected, nan_ok=True)
    assert math.isnan(content.content(replace_role(task), {"reply": reply}, text))


def replace_role(task):
    return task._replace(role="choice")


# Measures, on a pair


@cache
def pair():
    return load_pair(model_params("llama_pocket"))


@cache
def known():
    every = read_pairs("pocket/prompts.jsonl")
    at = {
        role: [p for p in every if scoring.task(p[1]).role == role]
        for role in ("format", "choice", "arithmetic")
    }
    return [*at["format"][::25], *at["choice"][:2], *at["arithmetic"][:1]]


def asked():
    return [prompt for prompt, _ in known()]


@cache
def vectors():
    drawn = np.random.default_rng(0).standard_normal((2, 12, 96))
    return {"mean": drawn[0], "random_00": drawn[1], "permuted": drawn[1]}


DOSES = [
    Arm(f"dose_{dose:g}", change="rescale", layers=(7, 8, 9, 10, 11), dose=dose) for dose in (-1.0, 0.0, 1.0)
]
EARLY = Arm("early_0", change="rescale", layers=(0, 1), dose=0.0)
FEW = [Arm("it"), Arm("it_raw", prompt_format="raw"), Arm("pt", host="pt"), *DOSES, EARLY]


@cache
def written():
    return measure.with_baseline(pair(), {"few": FEW}, known(), vectors(), options(max_new_tokens=12))


def test_arms_that_decode_apart_come_back_in_their_order():
    assert written()["arm"].values.tolist() == [*(arm.name for arm in FEW), "prompted"]
    whole = steering.written(pair(), FEW, asked(), vectors(), max_new_tokens=12)
    for name in ("ids", "text", "n_tokens", "edited_positions"):
        assert (written()[name].sel(arm=whole["arm"]) == whole[name]).all(), name


@pytest.mark.slow
def test_random_controls_beyond_the_first_answer_requests_for_a_form_and_choices_alone():
    few = options(max_new_tokens=6, n_elsewhere=1, batch_size=64)
    band = [
        Arm(f"matched_0_{i}", change="matched", layers=(9,), dose=0.0, write="random_00") for i in range(3)
    ]
    groups = {"plain": FEW[:1], "matched": band}
    found = measure.with_baseline(pair(), groups, known(), vectors(), few)
    assert found["arm"].values.tolist() == ["it", *(arm.name for arm in band), "prompted"]
    role = np.array([scoring.task(record).role for _, record in known()])
    wanted = np.ones((5, len(role)), bool)
    wanted[2:4] = np.isin(role, ("format", "choice"))
    np.testing.assert_array_equal(found["answered"], wanted)
    # The three directions are one, so that what the third wrote is what the first did.
    same = found["ids"].sel(arm="matched_0_0") == found["ids"].sel(arm="matched_0_2")
    assert same.values[wanted[3]].all()
    scored = measure.scored(found, known(), {})
    length = scored["score"].sel(metric="length").values
    assert np.isnan(length[~wanted]).all() and not np.isnan(length[wanted]).any()
    assert (scored["engagement"].values[~wanted] == -1).all() and (
        scored["engagement"].values[wanted] >= 0
    ).all()


def test_the_baseline_is_asked_for_plain_text_and_nothing_is_edited():
    plainly = [replace(prompt, message=measure.PLAINLY + prompt.message) for prompt in asked()]
    plain = generate(pair().it, read_as(pair().it, plainly, "chat"), max_new_tokens=12)
    assert steering.continuations(written(), "prompted") == plain


def log_probabilities(decoder, row, ids):
    """log p of each id after a row, by one plain forward."""
    with torch.no_grad():
        z = decoder.module(torch.tensor([[*row, *ids]])).logits[0].float()
    z[:, ~torch.as_tensor(decoder.real_tokens)] = -torch.inf
    return z.log_softmax(-1)[range(len(row) - 1, len(row) + len(ids) - 1), list(ids)]


def test_nll_of_a_reply_is_that_of_a_plain_forward_of_its_host():
    every = [*FEW, arms.PROMPTED]
    nll = measure.reply_nll(pair(), every, asked(), written(), batch_size=3)
    for a, arm in enumerate(every):
        decoder = getattr(pair(), arm.host)
        rows = read_as(decoder, asked(), arm.format)
        for p, reply in enumerate(steering.continuations(written(), arm.name)):
            wanted = -float(log_probabilities(decoder, rows[p], reply.ids).mean())
            assert nll[a, p] == pytest.approx(wanted, abs=1e-4), (arm.name, p)


def test_forced_choice_takes_the_likeliest_whole_reply():
    found = measure.forced_choice(pair(), FEW[:3], known(), vectors(), batch_size=64)
    for arm in FEW[:3]:
        decoder = getattr(pair(), arm.host)
        rows = read_as(decoder, asked(), arm.format)
        for p, (_, record) in enumerate(known()):
            got = float(found.sel(arm=arm.name).values[p])
            if scoring.task(record).role != "choice":
                assert math.isnan(got)
                continue
            texts, right = scoring.candidates(record)
            ids = [candidate_ids(decoder, arm.format, text).ids for text in texts]
            total = [float(log_probabilities(decoder, rows[p], one).sum()) for one in ids]
            assert got == (int(np.argmax(total)) == right)


def test_scores_are_those_of_each_text_with_what_else_was_measured():
    nll = np.arange(8.0 * len(asked())).reshape(8, -1)
    found = measure.scored(written(), known(), {"nll_unedited": nll})
    for arm, p in (("dose_0", 0), ("pt", 1), ("it", len(asked()) - 1)):
        own = scoring.scores(scoring.task(known()[p][1]), written()["text"].sel(arm=arm).values[p])
        got = found["score"].sel(arm=arm, metric=list(own)).values[:, p]
        np.testing.assert_allclose(got, list(own.values()), rtol=1e-6)
    np.testing.assert_array_equal(found["score"].sel(metric="nll_unedited"), nll)
    assert found["score"].sel(metric="choice_logprob").isnull().all()
    assert (found["score"].sel(metric="length") == written()["n_tokens"]).all()


@cache
def distances():
    lenses = {d.variant: tuned_lens.untrained(12, d.unembedding) for d in pair()}
    read = steering.continuations(written(), "it")
    return read, gap.gap(pair(), DOSES, asked(), read, vectors(), lenses, options(batch_size=4))


def layers_by_hand(decoder, row, ids, arm=None):
    """Log-probabilities of the raw lens after every block at the steps of a reply, [layer, step, vocabulary]."""
    kept, handles = [], []
    for layer, block in enumerate(decoder.stack._module.layers):
        if arm and layer in arm.layers:
            d = torch.as_tensor(vectors()["mean"][layer], dtype=torch.float32)
            d = d / d.norm()
            edit = lambda m, i, o, d=d: o + (arm.dose - 1) * (o @ d)[..., None] * d  # noqa: E731
            handles.append(block.mlp.register_forward_hook(edit))
        handles.append(
            block.register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
        )
    with torch.no_grad():
        decoder.module(torch.tensor([[*row, *ids[:-1]]]), use_cache=False)
    for handle in handles:
        handle.remove()
    states = torch.stack([h[0, len(row) - 1 :] for h in kept])
    return (
        decoder.unembedding.logits(states.flatten(0, 1))
        .float()
        .log_softmax(-1)
        .unflatten(0, states.shape[:2])
    )


@pytest.mark.parametrize("reader", ["dose_0", "dose_1", "pt"])
def test_the_gap_is_that_of_plain_forwards(reader):
    read, found = distances()
    decoder = pair().pt if reader == "pt" else pair().it
    arm = next((arm for arm in DOSES if arm.name == reader), None)
    p = 1
    row = read_as(decoder, asked(), "raw" if reader == "pt" else "chat")[p]
    logp = layers_by_hand(decoder, row, read[p].ids, arm)
    kl = (logp.exp() * (logp - logp[-1])).sum(-1)
    one = found.sel(reader=reader, lens="raw").isel(prompt=p)
    np.testing.assert_allclose(one["kl_layer_final"], kl.mean(1), rtol=2e-3, atol=2e-4)
    settled = commitment.kl_stays(kl.T.numpy()).mean()
    assert float(one["commitment"].sel(rule="kl_stays_0.1")) == pytest.approx(settled, abs=1e-4)
    if reader == "pt":
        assert one["kl_layer_unedited_final"].isnull().all()
        return
    plain = layers_by_hand(decoder, row, read[p].ids)[-1]
    far = (logp.exp() * (logp - plain)).sum(-1).mean(1)
    np.testing.assert_allclose(one["kl_layer_unedited_final"], far, rtol=2e-3, atol=2e-4)


def test_an_untrained_tuned_lens_is_the_raw_one():
    _, found = distances()
    raw, tuned = (found["kl_layer_final"].sel(lens=lens) for lens in ("raw", "tuned"))
    np.testing.assert_allclose(raw, tuned, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_whole_run_holds_what_the_slice_declares():
    few = options(
        max_new_tokens=6,
        n_random=1,
        n_random_removed=2,
        n_elsewhere=1,
        n_texts=2,
        text_tokens=8,
        force_every=1,
        batch_size=128,
    )
    groups = arms.groups(12, few)
    every = [arm for group in groups.values() for arm in group]
    drawn = np.random.default_rng(0).standard_normal((4, 12, 96))
    given = dict(zip(("mean", "permuted", "random_00", "random_01"), drawn))
    found = measure.with_baseline(pair(), groups, known(), given, few)
    own = steering.continuations(found, "it")
    lenses = {d.variant: tuned_lens.untrained(12, d.unembedding) for d in pair()}
    parts = [
        measure.all_scores(pair(), groups, known(), found, given, few),
        measure.on_own_replies(pair(), every, asked(), own, given, few),
        gap.gap(pair(), groups["dose"], asked(), own, given, lenses, few),
        measure.on_neutral_text(pair(), [*groups["dose"], *groups["permuted"]], given, few),
        measure.on_tuning_prompts(pair(), groups["dose"], known()[:2], given, few),
    ]
    result = complete(measure.assembled(groups, known(), found, parts, 12), "exp06")
    assert (
        result["text"].sel(shown_arm="dose_1").values.tolist()
        == result["text"].sel(shown_arm="it").values.tolist()
    )
    assert float(result["neutral_kl"].sel(neutral_arm="dose_1").max()) < 1e-6
    assert result["forced_kl_unedited"].sel(arm="prompted").isnull().all()
    assert quantities.quantities(result)


# Quantities, by hand


@cache
def made():
    return synthetic.dataset("llama", "exp06", n_prompts=40)


def test_a_shift_is_an_arm_less_its_own_host():
    d, metric = made(), "format"
    rows = dict(zip(d["arm"].values.tolist(), d["score"].sel(metric=metric).values))
    found = quantities.quantities(d)
    for name, arm, base in (
        ("dose.0", "dose_0", "it"), ("dose.m0_5", "dose_-0.5", "it"), ("raw.2", "raw_2", "it_raw"),
        ("inject.1", "inject_1", "pt"), ("prompted", "prompted", "it"), ("single.03", "single_03", "it"),
    ):  # fmt: skip
        np.testing.assert_allclose(found[f"shift.{metric}.{name}"].values, rows[arm] - rows[base])
    band = np.mean([rows[f"matched_0_{i:02d}"] - rows["it"] for i in range(4)], axis=0)
    np.testing.assert_allclose(found["shift.format.matched.0"].values, band, atol=1e-9)
    np.testing.assert_allclose(
        found["over_band.format.0"].values, rows["dose_0"] - rows["it"] - band, atol=1e-9
    )


def test_a_rank_is_taken_among_the_matched_directions():
    found = quantities.quantities(made())
    assert found["rank_p.format.0"].values == pytest.approx(2 / 5)  # below all four, two-sided
    assert found["rank_p.format.m1"].values == pytest.approx(1 / 4)
    assert found["rank_p.choice.0"].values == 1.0


def tuned(**by_dose):
    """Results whose other prompts have these compliances and incoherences by dose."""
    form, broken = (
        made()["tuning_format"].copy(deep=True) * 0 + 0.9,
        made()["tuning_incoherent"].copy(deep=True),
    )
    for dose, (level, share) in by_dose.items():
        form.loc[{"tuned_arm": f"dose_{dose}"}] = level
        broken.loc[{"tuned_arm": f"dose_{dose}"}] = share
    return made().assign(tuning_format=form, tuning_incoherent=broken)


def test_the_chosen_dose_is_the_lowest_coherent_one_with_a_band():
    assert quantities.chosen_dose(tuned(**{"-1": (0.5, 0.0), "2": (0.7, 0.0)})) == -1
    assert quantities.chosen_dose(tuned(**{"-1": (0.5, 0.3), "2": (0.7, 0.0)})) == 2
    assert quantities.chosen_dose(tuned(**{"-0.5": (0.1, 0.0), "0": (0.8, 0.0)})) == 0  # −0.5 has no band
    assert quantities.chosen_dose(tuned()) in (0, 2)  # of equal ones one nearest to 1
    assert quantities.chosen_dose(made().drop_dims("tuning_prompt")) == 0


def test_two_doses_above_one_have_a_slope_and_no_trend():
    whole = made()
    few = whole.sel(arm=~((whole["group"] == "dose") & (whole["dose"] > 1.5)))
    assert sorted(d for d in quantities.of_group(few, "dose") if d >= 1) == [1, 1.5]
    found = quantities.trends(few)
    assert np.isnan(found["page_p.format.above"].values) and not np.isnan(found["page_p.format.below"].values)
    half = quantities.score(few, "format", "dose_1.5") - quantities.score(few, "format", "dose_1")
    np.testing.assert_allclose(found["slope.format.above"].values, half / 0.5)
    assert "Page p, above 1" in str(report.test_table({"One": few}))


def test_the_share_of_the_way_is_a_ratio_of_sums():
    it, pt, v = (
        xr.DataArray(np.array(x), dims="prompt") for x in ([4.0, 2.0, 3.0], [1.0, 1.0, 1.0], [3.0, 2.0, 2.5])
    )
    found = quantities.share_of_way(v, it, pt)
    assert (
        found.mean == pytest.approx((-1 + 0 - 0.5) / (-3 - 1 - 2)) and found.low <= found.mean <= found.high
    )
    assert math.isnan(quantities.share_of_way(it, it, it).mean)


def test_the_gap_is_a_mean_over_the_late_half():
    d, found = made(), quantities.quantities(made())
    late = d["kl_layer_final"].sel(lens="tuned").isel(layer=slice(6, 12)).mean("layer")
    np.testing.assert_allclose(found["gap.tuned.pt"].values, late.sel(reader="pt"), rtol=1e-6)
    moved = late.sel(reader="dose_0") - late.sel(reader="dose_1")
    np.testing.assert_allclose(found["gap_shift.tuned.0"].values, moved, atol=1e-9)


def test_counts_of_changed_prompts_are_mcnemars():
    d, found = made(), quantities.quantities(made())
    before, after = (d["score"].sel(metric="format", arm=arm).values for arm in ("it", "dose_0"))
    assert found["lost.format"].values == ((before == 1) & (after == 0)).sum() > 0
    assert found["gained.format"].values == 0 and found["lost.choice"].values == 0


@pytest.mark.parametrize(
    ("n", "answer", "said"), [(5, "Undecided", "5 of 12 lost"), (6, "Yes", "fewer replies")]
)
def test_form_is_surely_lost_only_if_the_exact_test_says_so(n, answer, said):
    d = synthetic.dataset("gemma", "exp06", n_prompts=20).copy(deep=True)
    asked = d["prompt"].values[d["role"].values == "format"]
    for prompts, value_ in ((asked, 1.0), (asked[:n], 0.0)):
        d["score"].loc[{"metric": "format", "arm": "dose_0", "prompt": prompts}] = value_
    verdict = report.verdict({"One": d})
    assert verdict.answer == answer and said in str(verdict)


def test_controls_that_did_not_answer_leave_the_rank_to_the_others():
    d = made().copy(deep=True)
    names = selections.of_group(d, "matched")[0.0]
    d["score"].loc[{"metric": "choice", "arm": names[1:]}] = np.nan
    assert value(quantities.quantities, d, "rank_p.choice.0") == pytest.approx(1.0)
    assert np.isfinite(value(quantities.quantities, d, "band_low.choice.0"))


def test_labels_of_doses():
    assert [selections.label(dose) for dose in (-1.0, -0.5, 0.0, 0.25, 2.0)] == [
        "m1",
        "m0_5",
        "0",
        "0_25",
        "2",
    ]


def test_examples_are_ordered_by_hash_and_never_answer_harmful_requests():
    found = report.examples(made(), n=2)
    roles = found.index.get_level_values(0)
    assert "harmful" not in roles and roles.value_counts().max() == 2
    mine = made()["prompt"].values[(made()["role"] == "format").values]
    first = made().sel(prompt=report.hashed(mine)[0])
    assert found.iloc[0]["α = 0"] == str(first["text"].sel(shown_arm="dose_0").item())
    assert report.hashed(["b", "a", "c"]) == report.hashed(["c", "a", "b"])


def test_a_dose_with_too_many_incoherent_replies_is_marked():
    score = made()["score"].copy(deep=True)
    score.loc[{"metric": "incoherent", "arm": "dose_2"}] = 0.5
    panel = report.dose_panel(made().assign(score=score))
    assert [name for name in panel.index if report.BROKEN in name] == ["2†"]


def test_a_metric_that_no_prompt_has_is_not_measured():
    d = made()
    score = d["score"].where(~d["metric"].isin(["arithmetic", "content"]))
    found = report.shift_table({"One": d.assign(score=score), "Two": d})
    assert found.loc["One", "right sums"].startswith("–") and not found.loc["Two", "right sums"].startswith(
        "–"
    )
    assert math.isnan(value(quantities.quantities, d.assign(score=score), "shift.arithmetic.dose.0"))


# Figures


@cache
def pairs():
    return {f"Pocket {title}": d for title, d in list(synthetic.results("exp06", n_prompts=20).items())[:2]}


FIGURES = sorted(chart_makers(figures) - {"published_curves", "dose_chart"})


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("n", [1, 2])
def test_every_figure_is_drawn_of_one_pair_and_of_several(name, n):
    results = dict(list(pairs().items())[:n])
    spec = spec_of(getattr(figures, name)(results))
    said = spec["description"]
    assert said.endswith(".") and (list(results)[0] in said) == (n == 1), said
    drawn = rows(spec)
    assert set(drawn["panel"]) == set(results)
    if "mean" in drawn:
        measured = drawn.dropna(subset=["mean"])
        whole = measured.dropna(subset=["low", "high"]) if "low" in measured else measured
        assert len(measured) and (whole["low"] <= whole["mean"] + 1e-9).all()


def test_the_main_figure_holds_the_scores_the_band_and_both_models():
    spec = spec_of(figures.dose_curves(pairs()))
    drawn = rows(spec)
    assert controls(spec)["metric"] == list(dict.fromkeys(drawn["metric"]))
    one = drawn[(drawn["panel"] == "Pocket Gemma") & (drawn["metric"] == "requested form")]
    d = pairs()["Pocket Gemma"]
    curve = one[one["part"] == "curve"].set_index("dose")["mean"]
    for dose, arm in ((-1.0, "dose_-1"), (0.0, "dose_0"), (2.0, "dose_2")):
        assert curve[dose] == pytest.approx(float(d["score"].sel(metric="format", arm=arm).mean()), abs=1e-4)
    band = one[one["part"] == "random"].set_index("dose")
    assert band.loc[1.0, "low"] == band.loc[1.0, "high"] == 1.0 and sorted(band.index) == [-1, 0, 1, 2]
    ends = one[one["part"] == "end"].set_index("variant")["mean"]
    assert ends["PT"] == 0.0 and ends["IT"] == 1.0


def test_the_published_curve_has_every_dose_once():
    drawn = rows(figures.published_curves())
    assert not drawn.duplicated(["score", "dose"]).any()
    assert drawn.groupby("score").size().tolist() == [14] * 4
    form = drawn[drawn["score"] == "requested form"].set_index("dose")["mean"]
    assert form[0.0] < form[1.0]
