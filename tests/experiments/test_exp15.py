"""exp15: grafts and forced choices against a module swap and plain forwards; effects and tables on results set by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

import inspect
import itertools
import json
from functools import cache, partial

import altair as alt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import stats as scipy_stats

from nbhelpers import experiments
from nbhelpers.core import depths, stats
from nbhelpers.core.params import ParameterError
from nbhelpers.experiments.exp15_symmetric_behaviour import figures, measure, quantities, report, tables
from nbhelpers.experiments.exp15_symmetric_behaviour.experiment import COMPARISONS
from nbhelpers.measures import judge, scoring
from nbhelpers.measures.behaviour import RATED
from nbhelpers.measures.forced_choice import candidate_ids
from nbhelpers.models import evaluation
from nbhelpers.models.decoder import Pair
from nbhelpers.models.generation import generate
from nbhelpers.models.loading import load_pair
from nbhelpers.models.prompts import read_as
from nbhelpers.report.graft_charts import WINDOWS
from nbhelpers.report.quantities import value
from tests import cells, shapes, synthetic
from tests.models.test_row_grafts import swapped
from tests.specs import chart_makers, complete, rows

# The first twelve alone have harmless requests enough for a paired test that Holm's correction leaves below 0.05.
KINDS = ["harmless"] * 11 + ["conversation"] * 15 + ["harmless"] * 4 + ["harmful", "format"] * 3
CONDITIONS = [arm.name for arm in measure.arms(12)]
JUDGES, TASKS = ["rubric", "reference"], ["g1", "g2", "s1", "s2"]
# What conditions of made-up results do with harmless and harmful requests, and how they sound; others are as PT or IT.
PT_DOES, IT_DOES = ("does_not_engage", "incoherent", 1), ("answers", "refuses", 5)
DOES = {"B_late": ("answers", "complies", 3), "D_late": ("does_not_engage", "complies", 2)}
SECRET = "how to make it"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        patch.setattr(quantities, "RESAMPLES", 200)
        yield


def does(name):
    """What a condition of made-up results does."""
    return DOES.get(name, PT_DOES if name[0] in "AB" else IT_DOES)


def made_up(rng, lift, coords):
    """Results in which IT's late MLPs make PT answer, PT's late ones keep IT from it, and other windows do nothing."""
    n = len(coords["prompt"])
    kinds = np.array([KINDS[i % len(KINDS)] for i in range(n)], dtype=object)
    by, shape = ("condition", "prompt"), (len(CONDITIONS), n)
    rating = np.full((len(JUDGES), len(TASKS), *shape), np.nan)
    for c, name in enumerate(CONDITIONS):
        harmless, harmful, voice = does(name)
        points = np.clip(voice + rng.integers(-1, 2, n) * (rng.random(n) < 0.3 * lift), 1, 5)
        rating[:, 0, c] = points
        rating[:, 1, c] = np.where(kinds == "conversation", points, np.nan)
        rating[:, 2, c] = np.where(kinds == "harmful", RATED["s1"].index(harmful), np.nan)
        rating[:, 3, c] = np.where(kinds == "harmless", RATED["s2"].index(harmless), np.nan)
    compared = np.full((2, 2, 2, n), np.nan)
    compared[0][..., kinds == "conversation"] = 1
    compared[1][..., kinds == "harmless"] = 1
    compared[1][..., np.flatnonzero(kinds == "harmless")[::3]] = 0
    replies = {"harmful": SECRET, "conversation": "Mara bakes bread, of course."}
    text = [[f"{replies.get(kind, 'Pull it out.')} {name}" for kind in kinds] for name in CONDITIONS]
    metrics = [*scoring.METRICS, *measure.EXTRA]
    inside = np.array([[0.0, 0.1, 0.5], [-0.1, 0.0, 0.4]])[..., None] + rng.uniform(-0.05, 0.05, (2, 3, 10))
    coords |= {
        "condition": CONDITIONS, "judge": JUDGES, "task": TASKS, "metric": metrics, "pair_task": list(judge.PAIRWISE),
        "comparison": list(COMPARISONS), "order": list(judge.ORDERS), "side": list(quantities.SIDES),
        "window": list(WINDOWS), "internal_prompt": [f"forced-{i}" for i in range(10)],
        "category": ("prompt", kinds), "source": ("prompt", np.full(n, "made up", dtype=object)),
        "question": ("prompt", np.array([f"Request {i}?" for i in range(n)], dtype=object)),
    }  # fmt: skip
    pairs = ("pair_task", "comparison", "order", "prompt")
    return {
        "text": (by, np.array(text, dtype=object)), "n_tokens": (by, rng.integers(5, 48, shape)),
        "capped": (by, rng.random(shape) < 0.2), "engagement": (by, rng.integers(0, 5, shape)),
        "score": (("metric", *by), rng.integers(0, 2, (len(metrics), *shape)).astype("float32")),
        "rating": (("judge", "task", *by), rating), "missing": (("judge", "task", *by), 0 * np.nan_to_num(rating)),
        "preference": (pairs, compared), "preference_missing": (pairs, 0 * np.nan_to_num(compared)),
        "internal_shift": (("side", "window", "internal_prompt"), inside.astype("float32")),
    }  # fmt: skip


def opposite(d):
    """The early window does what the late one did, and the late one nothing."""
    swap = {"early": "late", "late": "early"}
    names = ["_".join(swap.get(word, word) for word in name.split("_")) for name in CONDITIONS]
    known = d.drop_sel(condition="B_late_scrambled").assign_coords(
        condition=[name for name in names if name != "B_early_scrambled"]
    )
    control = d.sel(condition=["B_late_scrambled"])
    whole = xr.concat([known, control], "condition", data_vars="minimal", coords="minimal", compat="override")
    return whole.sel(condition=CONDITIONS).assign_attrs(d.attrs)


@cache
def dataset(n_prompts=36):
    return synthetic.dataset("llama", "exp15", n_prompts=n_prompts)


@cache
def results(n_prompts=36):
    return {f"Pocket {t}": d for t, d in synthetic.results("exp15", n_prompts=n_prompts).items()}


def without(d, *kinds):
    """A result without prompts of some categories."""
    return d.isel(prompt=np.flatnonzero(~np.isin(d.category.values, kinds)))


def of(d, name):
    """The value of a quantity; change a dataset before the first call, since its quantities are kept with it."""
    return value(quantities.quantities, d, name)


# Conditions and prompts


def test_conditions_are_three_windows_on_both_sides_each_in_its_hosts_format():
    arms = {arm.name: arm for arm in measure.arms(12)}
    spans = {name: tuple(span) for name, span in depths.windows(12).items()}
    for letter, host, words in (("B", "pt", "raw"), ("D", "it", "chat")):
        for name, layers in spans.items():
            graft = arms[f"{letter}_{name}"]
            assert (graft.host, graft.format, graft.change, graft.layers) == (host, words, "graft", layers)
    plain = {name for name, arm in arms.items() if arm.change == "none"}
    scrambled = {name.removesuffix("_scrambled") for name, arm in arms.items() if arm.change == "scrambled"}
    assert plain == {"A", "C"} and scrambled == set(measure.SCRAMBLED)
    assert all(arms[f"{name}_scrambled"].layers == arms[name].layers for name in scrambled)
    own = {arm.name: arm for arm in measure.identities(12)}
    assert {name: (arm.host, arm.change) for name, arm in own.items()} == {
        "A": ("pt", "none"), "C": ("it", "none"), "B_self": ("pt", "self"), "D_self": ("it", "self")
    }  # fmt: skip


def test_prompts_are_those_of_the_core_subset_and_do_not_change_with_the_seed_of_resamples():
    options = experiments.experiment_params("exp15")
    known = measure.chosen(options)
    kinds = [evaluation.category(record) for _, record in known]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict(options.counts)
    again = measure.chosen(experiments.experiment_params("exp15", seed=7))
    assert [prompt.id for prompt, _ in known] == [prompt.id for prompt, _ in again]
    assert options.subset_seed == 20260420
    with pytest.raises(ParameterError, match="one bucket"):
        experiments.experiment_params("exp15", counts={"easy": 0})


# A pair


FEW = {"content_fact": 2, "conversation": 3, "harmful": 1, "harmless": 3, "content_reason": 1}


@cache
def ran():
    """A few prompts answered by pocket Llama: options, the pair, its prompts, what was written, and the dataset."""
    options = experiments.experiment_params("exp15", counts=FEW, max_new_tokens=8, batch_size=64)
    pair, known = load_pair("llama_pocket"), measure.chosen(options)
    written = measure.written(pair, [prompt for prompt, _ in known], options)
    likely = measure.forced_choice(pair, known, batch_size=32)
    found = measure.scored(written, known, likely)
    inside = measure.internal(synthetic.dataset("llama", "exp14", n_prompts=12))
    whole = measure.assembled(found, measure.judged(found["text"], known), inside, pair.n_layers)
    return options, pair, known, likely, whole


@pytest.mark.slow
def test_a_pair_answers_every_prompt_under_every_condition():
    _, _, known, _, whole = ran()
    made = complete(whole.drop_attrs(deep=False), "exp15")
    assert made["condition"].values.tolist() == CONDITIONS and made.sizes["prompt"] == len(known)
    assert made["metric"].values.tolist() == [*scoring.METRICS, *measure.EXTRA]
    rating = made["rating"].sel(judge="rubric", condition="C", drop=True)
    for task in judge.TASKS:
        asked = [judge.applies(task, kind) for kind in made["category"].values]
        np.testing.assert_array_equal(rating.sel(task=task).notnull(), asked)
    known_pairs = made["preference"].notnull().all(("comparison", "order"))
    assert known_pairs.sel(pair_task="pairwise_s2").sum() == FEW["harmless"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A", "B_early", "B_late", "D_mid", "D_late"])
def test_a_condition_writes_what_a_module_swap_writes(name):
    options, pair, known, _, whole = ran()
    arm = next(arm for arm in measure.arms(pair.n_layers) if arm.name == name)
    host, donor = (pair.pt, pair.it) if arm.host == "pt" else (pair.it, pair.pt)
    prompts = [prompt for prompt, _ in known]
    layers = arm.layers if arm.change == "graft" else ()
    with swapped(host, donor, layers):
        made = generate(host, read_as(host, prompts, arm.format), max_new_tokens=options.max_new_tokens)
    texts = [host.tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in made]
    assert whole["text"].sel(condition=name).values.tolist() == texts


@pytest.mark.slow
def test_the_likeliest_candidate_is_that_of_plain_forwards():
    _, pair, known, likely, _ = ran()
    arms = {arm.name: arm for arm in measure.arms(pair.n_layers)}
    for name in ("A", "B_late", "D_early"):
        arm = arms[name]
        host, donor = (pair.pt, pair.it) if arm.host == "pt" else (pair.it, pair.pt)
        for p, (prompt, record) in enumerate(known):
            got = float(likely.sel(condition=name).values[p])
            if scoring.task(record).role != "choice":
                assert np.isnan(got)
                continue
            texts, right = scoring.candidates(record)
            row = read_as(host, [prompt], arm.format)[0]
            with swapped(host, donor, arm.layers if arm.change == "graft" else ()):
                total = [log_probability(host, row, candidate_ids(host, arm.format, t).ids) for t in texts]
            assert got == (int(np.argmax(total)) == right), (name, prompt.id)


def log_probability(decoder, row, ids):
    """Σ log p of ids after a row, by one plain forward over real tokens."""
    with torch.no_grad():
        z = decoder.module(torch.tensor([[*row, *ids]])).logits[0].float()
    z[:, ~torch.as_tensor(decoder.real_tokens)] = -torch.inf
    return float(z.log_softmax(-1)[range(len(row) - 1, len(row) + len(ids) - 1), list(ids)].sum())


@pytest.mark.slow
def test_a_pair_without_checks_choices_or_harmful_prompts_is_measured_as_far_as_it_goes():
    made = shapes.pair("qwen2")
    pair = Pair("qwen2", made.params, made.pt, made.it)
    counts = {"conversation": 2, "harmless": 2}
    options = experiments.experiment_params(
        "exp15", prompts="params/prompts/general.jsonl", counts=counts, max_new_tokens=3, batch_size=64
    )
    known = [
        (prompt, {k: v for k, v in record.items() if k not in ("check", "reply")})
        for prompt, record in measure.chosen(options)
    ]
    written = measure.written(pair, [prompt for prompt, _ in known], options)
    found = measure.scored(written, known, measure.forced_choice(pair, known, batch_size=8))
    inside = measure.internal(synthetic.dataset("llama", "exp14", n_prompts=12))
    whole = measure.assembled(found, measure.judged(found["text"], known), inside, pair.n_layers)
    made_whole = complete(whole.drop_attrs(deep=False), "exp15").assign_attrs(
        synthetic.provenance("llama", "pocket", "exp15") | {"n_layers": pair.n_layers}
    )
    assert made_whole["judge"].values.tolist() == ["rubric"]
    shown({"Ann": made_whole})


# Scores and quantities


@pytest.mark.parametrize(
    ("role", "text", "expected"),
    [
        ("choice", "It is B.", 1.0), ("choice", "The answer", 0.0), ("choice", "I cannot", 0.0),
        ("arithmetic", "So 6 are left.", 1.0), ("arithmetic", "Some are left.", 0.0), ("format", "B.", np.nan),
    ],
)  # fmt: skip
def test_an_answer_is_read_only_where_there_is_one(role, text, expected):
    assert measure.parsed(scoring.Task(role), text) == pytest.approx(expected, nan_ok=True)


def test_changes_inside_are_those_of_exp14_with_the_sign_of_its_side_turned():
    caused = synthetic.dataset("llama", "exp14", n_prompts=12)
    found = measure.internal(caused)
    at = {
        "readout": "kl_layer_final",
        "region": "final_fifth",
        "lens": "tuned",
        "basis": "host",
        "window": "late",
    }
    own = caused["shift"].sel(**at)
    for side, sign in (("sufficiency", 1), ("necessity", -1)):
        wanted = sign * own.sel(side=side).transpose("prompt").values
        np.testing.assert_allclose(found.sel(side=side, window="late"), wanted, rtol=1e-6)


def test_an_effect_is_what_its_mlps_bring_on_either_side():
    d = dataset()
    for side in quantities.SIDES:
        assert of(d, f"s2_effect.{side}.late") == 1 and of(d, f"s2_effect.{side}.early") == 0
        assert of(d, f"s2_lead.{side}") == 1 and of(d, f"s2_control.{side}.late") == 0
    assert of(d, "s1_effect.sufficiency.late") == 0 and of(d, "s1_effect.necessity.late") == 1
    g2 = {name: of(d, f"g2_{name}") for name in ("A", "B_late", "C", "D_late")}
    assert of(d, "g2_effect.sufficiency.late") == pytest.approx(g2["B_late"] - g2["A"])
    assert of(d, "g2_effect.necessity.late") == pytest.approx(g2["C"] - g2["D_late"])
    assert (
        of(d, "s2_not_answered_A") == 1 and of(d, "s2_does_not_engage_A") == 1 and of(d, "s2_refuses_A") == 0
    )
    structure = d["score"].sel(metric="structure").mean("prompt")
    wanted = float(structure.sel(condition="C") - structure.sel(condition="D_mid"))
    assert of(d, "structure_effect.necessity.mid") == pytest.approx(wanted, abs=1e-6)


def test_lost_and_gained_are_counted_with_its_mlps():
    d, n = dataset(), int((dataset().category == "harmless").sum())
    for side in quantities.SIDES:
        assert (of(d, f"lost.s2.{side}.late"), of(d, f"gained.s2.{side}.late")) == (0, n)
        assert of(d, f"p.s2.{side}.late") == pytest.approx(scipy_stats.binomtest(0, n).pvalue)
        assert of(d, f"p.s2.{side}.early") == 1 and of(d, f"win_share.g2.{side}.late") > 0.9


def test_an_effect_on_coherent_replies_leaves_the_others_out():
    d = dataset().copy(deep=True)
    score = d["score"]
    score.loc[{"metric": "incoherent"}] = 0
    bad = d["prompt"].values[d.category.values == "harmless"][:3]
    score.loc[{"metric": "incoherent", "condition": "D_late", "prompt": bad}] = 1
    d["rating"].loc[{"judge": "rubric", "task": "s2", "condition": "D_late", "prompt": bad[:2]}] = 0
    n = int((d.category == "harmless").sum())
    assert of(d, "s2_effect.necessity.late") == pytest.approx((n - 2) / n)
    assert of(d, "s2_coherent.necessity.late") == 1


@pytest.mark.parametrize("values", [[[0, 0, 1], [0, 1, 1], [0, 0, 1]], [[1, 0, 0], [0, 2, 1], [3, 0, 1]]])
def test_the_chance_of_a_lead_is_that_of_all_exchanges(values):
    """Against every order of every prompt, one by one."""

    def ahead(table):
        means = np.mean(table, axis=0)
        return means[2] - max(means[:2])

    orders = itertools.product(itertools.permutations(range(3)), repeat=len(values))
    every = [ahead([[row[i] for i in order] for row, order in zip(values, each)]) for each in orders]
    exact = np.mean([one >= ahead(values) - 1e-9 for one in every])
    assert quantities.order_p(np.array(values, float), n_resamples=4000) == pytest.approx(exact, abs=0.03)


def test_a_lead_among_equal_windows_has_no_chance_to_surprise():
    assert quantities.order_p(np.zeros((5, 3))) == 1 and np.isnan(quantities.order_p(np.full((5, 3), np.nan)))
    table = np.r_[np.eye(3), np.tile(np.nan, (2, 3))]
    assert quantities.order_p(table) == quantities.order_p(np.eye(3))


def test_preferences_count_where_both_orders_agree():
    d = dataset().copy(deep=True)
    mine = d["prompt"].values[d.category.values == "conversation"]
    n, at = len(mine), {"pair_task": "pairwise_g2", "comparison": "pt_late_vs_a"}
    d["preference"].loc[at | {"prompt": mine[0], "order": "target_first"}] = -1  # the order decides
    d["preference"].loc[at | {"prompt": mine[1]}] = -1
    d["preference"].loc[at | {"prompt": mine[2]}] = 0
    found = {word: of(d, f"{word}.g2.sufficiency") for word in ("win", "loss", "tie", "flip")}
    assert found == pytest.approx({"win": (n - 3) / n, "loss": 1 / n, "tie": 1 / n, "flip": 1 / n})
    assert of(d, "net_preference.g2.sufficiency") == pytest.approx((n - 3 - 1) / n)
    assert of(d, "sign_p.g2.sufficiency") == pytest.approx(scipy_stats.binomtest(1, n - 2).pvalue)
    assert of(d, "flip.g2.necessity") == 0


def test_closure_goes_from_each_host_to_the_other():
    d = dataset()
    g2 = {name: of(d, f"g2_{name}") for name in ("A", "B_late", "C", "D_late")}
    assert of(d, "s2_closure.sufficiency.late") == of(d, "s2_closure.necessity.late") == 1
    wanted = (g2["B_late"] - g2["A"]) / (g2["C"] - g2["A"]), (g2["D_late"] - g2["C"]) / (g2["A"] - g2["C"])
    got = tuple(of(d, f"g2_closure.{side}.late") for side in quantities.SIDES)
    assert got == pytest.approx(wanted)


# Tables and figures


def test_windows_are_ranked_with_ties():
    d = dataset()
    assert report.ranked(d, "s2", "necessity") == "late > early = mid"
    assert report.ranked(without(d, "harmless"), "s2", "necessity") == "–"


def test_a_tie_is_counted_as_largest_and_said_to_be_one():
    made = {f"Pocket {t}": d for t, d in synthetic.results("exp15", n_prompts=12).items()}
    titles = [title for title in made if "DeepSeek" not in title]
    alike = made[titles[0]].copy(deep=True)
    for name in CONDITIONS:
        if name.startswith("B_"):
            alike["rating"].loc[{"condition": name}] = alike["rating"].sel(condition="A").values
    made = made | {titles[0]: alike, titles[1]: opposite(made[titles[1]])}
    row = tables.acceptance_table(made).loc["S2, into PT"].to_dict()
    assert row == {
        "largest, ties counted": 4,
        "of these ties": 1,
        "nothing changes": 1,
        "dense pairs measured": 5,
    }


def test_late_by_answers_or_by_voice_counts_each_pair_once():
    made = dict(results())
    titles = [title for title in made if "DeepSeek" not in title]
    made |= {titles[0]: opposite(made[titles[0]])}
    mixed = made[titles[1]].copy(deep=True)  # late by voice alone
    answers = mixed["rating"].sel(condition="B_late", task="s2").values
    mixed["rating"].loc[{"condition": "B_mid", "task": "s2"}] = answers
    mixed["rating"].loc[{"condition": "B_late", "task": "s2"}] = mixed["rating"].sel(condition="A", task="s2")
    table = tables.acceptance_table(made | {titles[1]: mixed})["largest, ties counted"]
    assert table["S2, into PT"] == 3 and table["G2, into PT"] == table["S2 or G2, into PT"] == 4


def test_words_of_no_request_and_no_baseline_reply_are_broken_ones():
    d = without(dataset(), "harmful", "conversation", "format").copy(deep=True)
    n = d.sizes["prompt"]
    d["text"].loc[{"condition": "D_late", "prompt": d["prompt"].values[0]}] = "Pulll it"
    d["text"].loc[{"condition": "D_late", "prompt": d["prompt"].values[1:]}] = "PULL it 7 out. Request?"
    d["text"].loc[{"condition": "D_late_scrambled"}] = "Pull it."
    d["rating"].loc[{"task": "s2", "condition": "D_late", "prompt": d["prompt"].values[2:]}] = 0  # answers
    row = tables.broken_table({"Ann": d}).loc[("Ann", "late")]
    assert row["new words, all"] == row["harmless"] == f"{100 / n:.0f} %" and row["prompts"] == n - 1
    assert row["harmless, scrambled"] == "0 %" and row["of lost answers"] == "50 %"
    assert row["effect on the rest"].startswith(f"{1 / (n - 1):.2f} [")


def test_a_change_is_split_by_whether_the_reply_stops():
    d = without(dataset(), "harmful", "harmless", "format").copy(deep=True)
    at = {"condition": "A", "prompt": d["prompt"].values[:4]}
    d["text"].loc[at] = "He bakes bread.\n\nQuestion: Who bakes?\nAnswer: He."
    effect = quantities.effect(d, "g2", "sufficiency", "late")
    assert of(d, "thread_A") == pytest.approx(4 / d.sizes["prompt"]) and of(d, "thread_B_late") == 0
    wanted = float(effect[:4].sum()) / d.sizes["prompt"]
    assert of(d, "g2_stopping.sufficiency.late") == pytest.approx(wanted)
    assert of(d, "g2_stopping.necessity.late") == 0
    shown_as = tables.stopping_table({"Ann": d}).loc[("Ann", "late"), "G2"]
    assert shown_as == f"{wanted:.2f} of {float(effect.mean()):.2f}"


def test_judges_are_said_to_agree_where_both_are_sure_of_the_same_sign():
    d = dataset().copy(deep=True)
    assert "both judges are sure of 4 with the same sign and of 0" in tables.judges_said({"Ann": d})
    d["rating"].loc[{"judge": "reference", "task": "s2"}] = 0
    said = tables.judges_said({"Ann": d})
    assert "sure of 2 with the same sign" in said and "2 only the rubric sees, 0 only the reference" in said
    assert "alone" in tables.judges_said({"Ann": d.sel(judge=["rubric"])})


def test_scrambled_changes_are_said_by_their_largest():
    d = dataset().copy(deep=True)
    harmless = d["prompt"].values[d.category.values == "harmless"]
    d["rating"].loc[{"task": "s2", "condition": "D_mid_scrambled", "prompt": harmless[:3]}] = 3
    cost = round(100 * 3 / len(harmless))
    said = tables.controls_said({"Ann": d})
    assert f"cost IT's answers at most {cost} points" in said and "They move voice most in Ann" in said


def test_values_all_alike_have_an_exact_interval_or_none():
    zeros = xr.DataArray(np.zeros(44), dims="prompt")
    high = scipy_stats.binomtest(0, 44).proportion_ci(0.95, "exact").high
    assert tables.cell(zeros, "1") == f"0.00 [−{high:.2f}, {high:.2f}]"
    assert tables.cell(zeros) == "0.00, all 44 alike" and tables.cell(zeros[:1]) == "–"


def test_the_interval_over_families_resamples_families():
    values = np.array([0.1, 0.4, 0.2, 0.9, 0.3])
    draws = np.random.default_rng(17).integers(5, size=(4000, 5))
    low, high = np.percentile([values[draw].mean() for draw in draws], (2.5, 97.5))
    assert figures.family_interval(values) == f"0.38 [{low:.2f}, {high:.2f}]"
    assert figures.family_interval(np.array([0.1])) == figures.family_interval(np.array([0.1, np.nan])) == "–"


def test_a_correlation_is_pearsons_and_its_interval_holds_it():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    assert figures.pearson(x, y) == pytest.approx(scipy_stats.pearsonr(x, y)[0])
    assert np.isnan(figures.pearson(x[:2], y[:2])) and np.isnan(figures.pearson(x, 0 * y))
    table = figures.correlation_table(results())
    low, high = map(float, table.loc["G2, into PT", "95 %, over prompts"].replace("−", "-").split(" to "))
    assert low <= float(table.loc["G2, into PT", "r"]) <= high and table.loc["G2, into PT", "points"] == 15


def test_the_star_of_an_effect_is_holms_over_all_tests():
    table = report.effect_table(results())
    assert (
        table["into PT", "late"].str.endswith(" *").all()
        and table["into IT", "late"].str.endswith(" *").all()
    )
    assert not table["into PT", "early"].str.contains("*", regex=False).any()
    few = report.effect_table({"Ann": dataset(4)})
    assert not few.stack().str.contains("*", regex=False).any()


def test_missing_verdicts_are_counted_by_condition():
    d = dataset().copy(deep=True)
    at = {"judge": "reference", "task": "g1", "condition": "B_mid", "prompt": d["prompt"].values[:2]}
    d["rating"].loc[at], d["missing"].loc[at] = np.nan, 1
    table = tables.missing_table({"Ann": d})["Ann"]
    assert table["reference"]["B_mid"] == 2 and table["reference"]["A"] == table["rubric"]["B_mid"] == 0
    assert table["rubric"]["asked of each"] == 36 + 15 + 15 + 3


def test_no_reply_to_a_harmful_request_is_shown():
    assert SECRET in " ".join(dataset()["text"].values.ravel())
    made = tables.examples(dataset(), n=3)
    assert SECRET not in made.html + made.plain and "not shown" in made.plain
    assert "Mara bakes bread" in made.plain


def shown(found):
    """Every figure and table of results, drawn."""
    made = {}
    for module in (figures, report, tables):
        for name, make in vars(module).items():
            own = inspect.isfunction(make) and make.__module__ == module.__name__
            kind = inspect.signature(make).return_annotation if own else None
            if (
                kind in (alt.Chart, pd.DataFrame)
                and next(iter(inspect.signature(make).parameters)) == "results"
            ):
                needed = [
                    p for p in list(inspect.signature(make).parameters.values())[1:] if p.default is p.empty
                ]
                if not needed:
                    made[name] = make(found)
    for made_one in made.values():
        if isinstance(made_one, alt.TopLevelMixin):
            made_one.to_dict()
    made["verdict"] = report.verdict(found)
    made["agreement"] = tables.agreements(found)
    return made


@pytest.mark.slow
def test_every_figure_is_drawn_of_six_pairs_and_of_one():
    assert chart_makers(figures) <= set(shown(results()))
    one = shown({"Ann": dataset()})
    assert set(rows(one["effects"])["control"]) == {"graft", "scrambled"}


@pytest.mark.parametrize(
    "lacking", [("harmful",), ("harmless",), ("conversation",), ("harmful", "harmless", "conversation")]
)
def test_what_was_not_measured_is_said_and_never_an_error(lacking):
    made = shown({"Ann": without(dataset(), *lacking)})
    text = str(made["verdict"])
    assert "nan" not in text and made["verdict"].words <= 60
    if len(lacking) == 3:
        assert made["verdict"].answer == "Not measured" and "not measured" in str(made["effects"].title)


def test_constant_ratings_and_replies_that_all_agree_have_no_interval_to_fear():
    d = dataset().copy(deep=True)
    d["rating"] = d["rating"] * 0 + 1
    made = shown({"Ann": d, "Bob": d})
    assert "nan" not in str(made["verdict"]) and of(d, "g2_effect.necessity.late") == 0


@pytest.mark.slow
def test_the_answer_is_by_side_and_by_outcome():
    made = results()
    assert report.verdict(made).answer == "Yes"
    turned = {title: opposite(d) for title, d in made.items()}
    assert report.verdict(turned).answer == "No"
    half = {
        t: d.assign(rating=d["rating"].where(d["task"] != "g2", 3 + 0 * d["rating"])) for t, d in made.items()
    }
    assert report.verdict(half).answer == "In part" and "by answers" in str(report.verdict(half))


def unchanged(d):
    """A result in which IT's MLPs change nothing in PT."""
    made = d.copy(deep=True)
    for name in CONDITIONS:
        if name.startswith("B_"):
            made["rating"].loc[{"condition": name}] = made["rating"].sel(condition="A").values
    return made


def test_a_null_on_few_prompts_is_undecided_and_says_what_could_be_seen():
    said = report.verdict({"Ann": unchanged(dataset())})
    assert said.answer == "In PT undecided, in IT yes" and "points go unseen" in said.size
    assert "surely leads in IT" in said.exception and "possible" in said.caveat


def test_a_null_on_many_prompts_is_no():
    said = report.verdict({"Ann": unchanged(dataset(600))})
    assert said.answer == "In PT no, in IT yes"


def test_a_sign_without_its_paired_test_does_not_count():
    d = dataset()
    name = "g2_effect.necessity.late"
    assert report.sure({"Ann": d}, name)["▲"] == ["Ann"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "starred", lambda results, task: dict.fromkeys(
            itertools.product(results, quantities.SIDES, WINDOWS), False
        ))  # fmt: skip
        assert report.sure({"Ann": d}, name)["·"] == ["Ann"]
        cells = report.matrix({"Ann": d}).cells.loc["Ann"]
        assert all(text.startswith("·") for text in cells)


def test_the_prompts_of_a_laptop_are_those_that_ship():
    known = measure.chosen(experiments.experiment_params("exp15", "laptop"))
    assert len(known) == 64 and {evaluation.category(record) for _, record in known} == set(
        evaluation.CATEGORIES
    )


# Notebooks


@pytest.mark.slow
def test_the_notebook_measures_a_pair_and_says_how_to_ask_a_language_model(monkeypatch, capsys):
    caused = synthetic.dataset("llama", "exp14", n_prompts=12)
    scope = cells.run(monkeypatch, "exp15", {"exp14": caused}, counts=FEW, max_new_tokens=8, n_resamples=100)
    assert scope["result"].sizes["prompt"] == sum(FEW.values())
    assert "nbh judge exp15" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_across_pairs_has_every_cell(monkeypatch):
    monkeypatch.setattr(experiments, "open_results", lambda profile, key: results())
    path = experiments.params.ROOT / "notebooks" / "exp15_across.ipynb"
    scope = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    assert len(scope["results"]) == 6
