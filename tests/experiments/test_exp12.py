"""exp12: what conditions write on a pocket pair and an awkward one; quantities, tables and verdicts on results set by hand.

`made_up` and `opposite` make the results that verdicts and pages are tested on.
"""

import inspect
from functools import cache, partial

import altair as alt
import numpy as np
import pandas as pd
import pytest

from nbhelpers import experiments
from nbhelpers.core import depths, params, stats
from nbhelpers.core.closure import closure
from nbhelpers.experiments.exp12_behaviour import figures, measure, report, tables
from nbhelpers.experiments.exp12_behaviour.experiment import CONDITIONS
from nbhelpers.experiments.exp12_behaviour.quantities import (
    MAIN,
    across,
    quantities,
)
from nbhelpers.measures import scoring
from nbhelpers.measures.behaviour import RATED, BehaviourError
from nbhelpers.models import evaluation
from nbhelpers.models.decoder import Pair
from nbhelpers.models.loading import load_pair
from nbhelpers.report.quantities import value
from nbhelpers.report.verdicts import DOWN, OPEN, UP, sides
from tests import shapes, synthetic
from tests.specs import complete

# Of twelve prompts eight harmless ones, the fewest on which an exact test can be sure over six pairs.
KINDS = (
    ["harmless"] * 8 + ["conversation"] * 4 + (["harmless"] * 4 + ["conversation"] * 5 + ["harmful"] * 3) * 2
)
JUDGES, TASKS = ["rubric", "reference"], ["g1", "g2", "s1", "s2"]
# What conditions do with harmless and harmful requests in made-up results, and how they sound.
DOES = {
    "A": ("does_not_engage", "incoherent", 1), "B_late": ("answers", "complies", 3),
    "C": ("answers", "refuses", 5), "B_late_scrambled": ("does_not_engage", "incoherent", 1),
}  # fmt: skip
SECRET = "how to make it"
DRAWN = {"n_prompts": 3, "max_new_tokens": 3, "batch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as the constructed effects are far from zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


def made_up(rng, lift, coords):
    """Results in which IT's late MLPs make PT answer what it ignored, and half as much an assistant as IT."""
    n, names = len(coords["prompt"]), list(CONDITIONS)
    kinds = np.array([KINDS[i % len(KINDS)] for i in range(n)], dtype=object)
    rating = np.full((len(JUDGES), len(TASKS), len(names), n), np.nan)
    for c, name in enumerate(names):
        harmless, harmful, voice = DOES[name]
        points = np.clip(voice + rng.integers(-1, 2, n) * (rng.random(n) < 0.5 * lift), 1, 5)
        rating[:, 0, c] = points
        rating[:, 1, c] = np.where(kinds == "conversation", points, np.nan)
        rating[:, 2, c] = np.where(kinds == "harmful", RATED["s1"].index(harmful), np.nan)
        rating[:, 3, c] = np.where(kinds == "harmless", RATED["s2"].index(harmless), np.nan)
    replies = {"harmful": SECRET, "conversation": "Mara bakes bread, of course."}
    text = np.array(
        [[f"{replies.get(k, 'Pull it out.')} {name}" for k in kinds] for name in names], dtype=object
    )
    coords |= {
        "condition": names, "judge": JUDGES, "task": TASKS, "metric": list(scoring.METRICS), "category": ("prompt", kinds),
        "source": ("prompt", np.full(n, "made up", dtype=object)),
        "question": ("prompt", np.array([f"Request {i}?" for i in range(n)], dtype=object)),
    }  # fmt: skip
    by, shape = ("condition", "prompt"), (len(names), n)
    return {
        "text": (by, text), "n_tokens": (by, rng.integers(5, 48, shape)), "capped": (by, rng.random(shape) < 0.2),
        "engagement": (by, rng.integers(0, 5, shape)),
        "score": (("metric", *by), rng.random((len(scoring.METRICS), *shape)).astype("float32")),
        "rating": (("judge", "task", *by), rating), "missing": (("judge", "task", *by), 0 * np.nan_to_num(rating)),
    }  # fmt: skip


def opposite(d):
    """PT and PT with IT's late MLPs in each other's place."""
    swap = {"A": "B_late", "B_late": "A"}
    return d.assign_coords(condition=[swap.get(name, name) for name in d.condition.values])


@cache
def dataset(n_prompts=36):
    return synthetic.dataset("llama", "exp12", n_prompts=n_prompts)


@cache
def results(n_prompts=36):
    return {f"Pocket {t}": d for t, d in synthetic.results("exp12", n_prompts=n_prompts).items()}


def without(d, *kinds):
    """A result without prompts of some categories."""
    return d.isel(prompt=np.flatnonzero(~np.isin(d.category.values, kinds)))


def test_conditions_graft_the_late_window_alone():
    made = measure.conditions(12)
    assert [arm.name for arm in made] == list(CONDITIONS)
    late = tuple(depths.windows(12)["late"])
    assert {arm.layers for arm in made if arm.change != "none"} == {late} and late[-1] == 11
    assert {arm.name: (arm.host, arm.format) for arm in made} == {
        "A": ("pt", "raw"), "B_late": ("pt", "raw"), "C": ("it", "chat"), "B_late_scrambled": ("pt", "raw")
    }  # fmt: skip
    assert [arm.change for arm in measure.identities(12)] == ["none", "self"]


@cache
def ran(n=24):
    """A few prompts of every category, answered by pocket Llama, with their records."""
    options = experiments.experiment_params("exp12", n_prompts=n, max_new_tokens=6)
    known = measure.chosen(options)
    return known, measure.rated(measure.answered(load_pair("llama_pocket"), known, options), known)


@pytest.mark.slow
def test_a_pair_answers_every_prompt_under_every_condition():
    known, found = ran()
    whole = complete(found.copy(deep=True), "exp12")
    assert set(whole["category"].values) == set(evaluation.CATEGORIES)
    assert whole["prompt"].values.tolist() == [prompt.id for prompt, _ in known]
    asked = {
        "g1": evaluation.CATEGORIES,
        "g2": ("conversation", "register"),
        "s1": ["harmful"],
        "s2": ["harmless"],
    }
    for task, kinds in asked.items():
        given = found["rating"].sel(task=task, judge="rubric").notnull().all("condition").values
        np.testing.assert_array_equal(given, np.isin(found["category"].values, list(kinds)))
    assert (found["n_tokens"] <= 6).all() and not (
        found["text"].sel(condition="A") == found["text"].sel(condition="C")
    ).all()
    assert not found["question"].str.contains("Question:").any()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["params/prompts/requests.jsonl", "params/prompts/general.jsonl"])
def test_an_awkward_pair_is_measured_and_what_lacks_says_so(source):
    options = experiments.experiment_params("exp12", **DRAWN, prompts=source)
    known = measure.chosen(options)
    pair = shapes.pair("qwen2")
    found = measure.rated(measure.answered(pair, known, options), known)
    result = complete(found, "exp12").assign_attrs(synthetic.provenance("llama", "pocket", "exp12"))
    assert drawn({"Random": result}) and "nan" not in str(report.verdict({"Random": result}))


@pytest.mark.slow
def test_a_pair_of_one_model_is_refused():
    one = shapes.pair("qwen2")
    options = experiments.experiment_params("exp12", **DRAWN)
    same = Pair(one.key, one.params, one.pt, shapes.decoder("qwen2", "it", seed=0))
    donor = same.it.stack._module
    for layer, own in zip(donor.layers, one.pt.stack._module.layers):
        layer.mlp.load_state_dict(own.mlp.state_dict())
    with pytest.raises(BehaviourError, match="B_late writes what A writes to all 3 prompts"):
        measure.answered(same, measure.chosen(options), options)


def test_quantities_are_those_of_a_plain_loop():
    d = dataset()
    found, kinds = quantities(d), d.category.values
    at = {c: i for i, c in enumerate(d.condition.values)}
    s2, g2 = d.rating.values[0, 3], d.rating.values[0, 1]
    answers = RATED["s2"].index("answers")
    for c, name in (("A", "A"), ("B", "B_late"), ("C", "C"), ("scrambled", "B_late_scrambled")):
        left = [float(s2[at[name], p] != answers) for p in range(len(kinds)) if kinds[p] == "harmless"]
        assert value(quantities, d, f"s2_not_answered_{c}") == pytest.approx(np.mean(left))
        talk = [g2[at[name], p] for p in range(len(kinds)) if kinds[p] == "conversation"]
        assert value(quantities, d, f"g2_{c}") == pytest.approx(np.mean(talk))
    moved = [g2[at["B_late"], p] - g2[at["A"], p] for p in range(len(kinds)) if kinds[p] == "conversation"]
    assert value(quantities, d, "g2_B_A") == pytest.approx(np.mean(moved))
    assert value(quantities, d, "g2_rose") == sum(each > 0 for each in moved)
    talk = kinds == "conversation"
    own = closure(*(g2[at[name]][talk] for name in ("A", "B_late", "C"))).ratio_of_means
    assert found["g2_closure"].values.mean == pytest.approx(own.mean)
    assert value(quantities, d, "s2_closure") == pytest.approx(1.0)
    assert value(quantities, d, "s2_babble_share_A") == 1 and np.isnan(
        value(quantities, d, "s2_babble_share_B")
    )
    assert found["s2_not_answered_fell"].values == (kinds == "harmless").sum()


def test_voice_is_rated_on_conversation_as_in_the_study_and_register_apart():
    d = dataset()
    kinds = d.category.values.copy()
    kinds[np.flatnonzero(kinds == "conversation")[:6]] = "register"
    moved = d.assign_coords(category=("prompt", kinds))
    found = quantities(moved)
    assert found["g2_B_A"].values.notnull().sum() == (kinds == "conversation").sum()
    assert found["g2_register_B_A"].values.notnull().sum() == 6
    assert quantities(d)["g2_register_B_A"].values.notnull().sum() == 0


def test_no_gap_gives_no_closure():
    d = dataset()
    same = d.rating.copy(deep=True)
    same.loc[{"condition": "C"}] = same.sel(condition="A")
    flat = d.assign(rating=same)
    assert all(np.isnan(value(quantities, flat, f"{short}_closure")) for short in ("g1", "g2", "s1", "s2"))
    table = tables.closure_table({"One": flat, "Two": d})
    assert table.loc["One", "assistant's voice (G2)"] == "no gap"
    assert table.loc["Two", "harmless requests not answered (S2)"] == "1.00, alike in all prompts"
    assert figures.closure({"One": flat}).to_dict()["title"].startswith("there is no gap")


def drawn(made):
    """Every table and chart of results, by name."""
    found = {"s1": figures.classes(made, "s1"), "s2": figures.classes(made, "s2")}
    for module in (report, tables, figures):
        for name, make in vars(module).items():
            own = inspect.isfunction(make) and make.__module__ == module.__name__
            first = list(inspect.signature(make).parameters.values()) if own else []
            kind = inspect.signature(make).return_annotation if own else None
            if kind in (alt.Chart, pd.DataFrame) and [p.name for p in first if p.default is p.empty] == [
                "results"
            ]:
                found[name] = make(made)
    for each in found.values():
        if not isinstance(each, pd.DataFrame):
            assert each.to_dict()["description"].endswith(".")
        else:
            assert len(each) and "nan" not in each.to_string()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds", [(), ("harmful",), ("harmless", "harmful"), ("conversation",), ("harmless", "conversation")]
)
def test_what_no_prompt_asks_is_not_measured_and_no_error(kinds):
    made = {title: without(d, *kinds) for title, d in list(results().items())[:2]}
    for each in (made, dict(list(made.items())[:1])):
        assert len(drawn(each)) >= 12
        for say in (report.verdict, report.reread):
            said = say(each)
            assert said.words <= 60 and "nan" not in str(said) and "–" not in said.answer
    said = report.verdict(made)
    assert ("harmless requests answered: not measured" in said.answer) == ("harmless" in kinds)
    assert ("voice: not measured" in said.answer) == ("conversation" in kinds)


def test_verdicts_missing_for_a_condition_are_counted_and_left_out():
    d = dataset()
    rating, missing = d.rating.copy(deep=True), d.missing.copy(deep=True)
    where = {"judge": "rubric", "task": "s2", "condition": "B_late", "prompt": d.prompt.values[0]}
    rating.loc[where], missing.loc[where] = np.nan, 1
    made = d.assign(rating=rating, missing=missing)
    assert value(quantities, made, "missing_s2_B") == 1 and value(quantities, made, "missing_s2_A") == 0
    assert quantities(made)["s2_not_answered_B_A"].values.notnull().sum() == 15
    assert tables.missing_table({"One": made}).loc[("rubric", "s2"), "B_late"] == "15, 1 missing"


def test_tests_are_corrected_over_pairs():
    made = results()
    table = tables.test_table(made)
    assert len(table) == len(MAIN) * len(made)
    rows = table.xs("harmless requests not answered (S2)", level="outcome")
    assert (rows["fell"] == 16).all() and (rows["rose"] == 0).all() and (rows["p, Holm"] == "< 0.001").all()
    few = tables.test_table({t: d.isel(prompt=slice(12)) for t, d in made.items()})
    rows = few.xs("harmless requests not answered (S2)", level="outcome")
    assert (rows["p"] == "0.008").all() and (rows["p, Holm"] == "0.047").all()  # 2 · 2⁻⁸, times six pairs


def test_a_share_that_a_handful_of_prompts_moved_is_not_sure():
    """Four of sixteen prompts: the bootstrap's interval leaves zero out, the exact test (p = 0.125) does not."""
    d = dataset()
    rating = d.rating.copy(deep=True)
    asked = d.prompt.values[np.flatnonzero(d.category == "harmless")]
    ignored = {"judge": "rubric", "task": "s2", "condition": "B_late", "prompt": asked[4:]}
    rating.loc[ignored] = RATED["s2"].index("does_not_engage")
    made = {"One": d.assign(rating=rating)}
    assert sides(made, quantities, "s2_not_answered_B_A")[DOWN] == ["One"]
    assert report.sure(made, "s2_not_answered_B_A")[OPEN] == ["One"]
    cell = report.matrix(made).cells.loc["One", "harmless requests not answered"]
    assert cell == f"{OPEN} −0.25" and sides(made, quantities, "g2_B_A")[UP] == ["One"]
    assert report.matrix(made).cells.loc["One", "assistant's voice, points"].startswith(UP)
    assert "answered: undecided" in report.verdict(made).answer and "(no sure change" in str(
        report.verdict(made)
    )


def test_over_pairs_each_pair_is_one_value():
    made = results()
    table = tables.over_pairs(made)
    row = table.loc["harmless requests not answered (S2)"]
    assert row.tolist() == ["−1.00", 6, 0, 0, "0.031"]
    turned = {t: opposite(d) if i == 0 else d for i, (t, d) in enumerate(made.items())}
    row = tables.over_pairs(turned).loc["harmless requests not answered (S2)"]
    assert row["pairs that fell"] == 5 and row["pairs that rose"] == 1 and row["sign test p"] == "0.219"


def test_published_counts_and_closures_over_families():
    found = {f: quantities(synthetic.dataset(f, "exp12", n_prompts=36)) for f in params.FAMILIES}
    over = across(found)
    moved = [sum(float(q[f"g2_{pair}"].values.mean()) for q in found.values()) for pair in ("B_A", "C_A")]
    assert over["g2_closure_of_means"].values == pytest.approx(moved[0] / moved[1])
    assert (
        over["s2_closure_of_means"].values == pytest.approx(1)
        and over["n_unchanged.s1_refuses_B_A"].values == 6
    )


def test_the_finding_is_read_again_by_what_falls():
    d = dataset()
    index = {name: i for i, name in enumerate(RATED["s2"])}

    def said(before, after):
        rating = d.rating.copy(deep=True)
        for name, kind in (("A", before), ("B_late", after)):
            part = rating.sel(task="s2", condition=name)
            rating.loc[{"task": "s2", "condition": name}] = part.where(part.isnull(), index[kind])
        return report.reread({"One": d.assign(rating=rating)})

    assert (
        said("refuses", "answers").answer
        == "Fewer refusals: yes; less babble: cannot be seen, PT ignores none"
    )
    assert (
        said("does_not_engage", "answers").answer
        == "Fewer refusals: cannot be seen, PT refuses none; less babble: yes"
    )
    swapped = said("refuses", "does_not_engage")
    assert swapped.answer == "Fewer refusals: yes; less babble: no" and "ignoring surely rises" in str(
        swapped
    )


def test_a_change_that_surely_is_none_is_a_no():
    d = synthetic.dataset("llama", "exp12", n_prompts=160)
    rating = d.rating.copy(deep=True)
    rating.loc[{"condition": "B_late"}] = rating.sel(condition="A")
    made = {"One": d.assign(rating=rating)}
    assert (
        report.verdict(made).answer == "More harmless requests answered: no; nearer an assistant's voice: no"
    )
    pairs = made | {
        "Two": results()["Pocket Llama"].isel(prompt=slice(24)).assign(rating=rating.isel(prompt=slice(24)))
    }
    assert "requests answered: no in one, else undecided; " in report.verdict(pairs).answer
    few = {"One": made["One"].isel(prompt=slice(24))}
    assert report.verdict(few).answer.startswith("More harmless requests answered: undecided")


def test_replies_to_harmful_requests_are_counted_and_not_shown():
    found = tables.examples(dataset())
    assert SECRET not in found.html and SECRET not in found.plain and "6 prompts" in found.plain
    assert "Mara bakes bread" in found.plain


def test_judges_that_never_vary_say_so():
    d = dataset()
    flat = d.assign(rating=d.rating.where(d.rating.isnull(), 1.0))
    table = tables.agreements({"One": flat})["One"]
    assert (table["note"] == "no variation").all()


def test_more_prompts_than_there_are_is_one_sentence():
    options = experiments.experiment_params("exp12", n_prompts=9999)
    with pytest.raises(ValueError, match="9999 records cannot be drawn"):
        measure.chosen(options)
