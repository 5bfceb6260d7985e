"""Tables and figures of exp12 by independent means: replies that stop, closure over pairs, exact intervals, second judges."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from nbhelpers.experiments.exp12_behaviour import figures, report, tables
from nbhelpers.experiments.exp12_behaviour.quantities import (
    jackknife,
    mean_of_ratios,
    ratio_of_means,
    stopping,
)
from tests import synthetic


def dataset():
    return synthetic.dataset("llama", "exp12", n_prompts=36)


def test_the_part_of_a_change_from_replies_that_stop_is_that_of_a_plain_loop():
    d = dataset()
    text = d.text.copy(deep=True)
    rows = np.flatnonzero(d.category == "conversation")
    goes_on = {"A": rows[:6], "B_late": rows[4:5]}
    for name, which in goes_on.items():
        for p in which:
            text.values[list(d.condition.values).index(name), p] += "\nQuestion: And then?"
    made = d.assign(text=text)
    voice = d.rating.sel(judge="rubric", task="g2")
    moves = [float((voice.sel(condition="B_late") - voice.sel(condition="A"))[p]) for p in rows]
    found = stopping(made, "g2")
    assert (found.moved, found.n) == (5, len(rows))
    assert found.part == pytest.approx(sum(moves[i] for i in (0, 1, 2, 3, 5)) / len(rows))
    assert found.change == pytest.approx(np.mean(moves))
    cells = tables.stopping_table({"One": made}).astype(str).to_string()
    assert f"(5 of {len(rows)} prompts)" in cells
    assert not report.by_stopping({"One": made})


def test_over_pairs_a_mean_of_ratios_has_the_t_interval():
    rng = np.random.default_rng(0)
    shift, gap = rng.normal(size=6), 2 + rng.random(6)
    found = jackknife(mean_of_ratios, shift, gap)
    ratios = shift / gap
    expected = scipy_stats.t.interval(0.95, 5, ratios.mean(), scipy_stats.sem(ratios))
    assert found == pytest.approx((ratios.mean(), *expected))
    pooled = jackknife(ratio_of_means, shift, gap)
    assert pooled.mean == pytest.approx(shift.sum() / gap.sum()) and pooled.low < pooled.mean < pooled.high
    assert np.isnan(jackknife(ratio_of_means, shift[:2], gap[:2]).low)


def test_a_share_that_no_prompt_changes_has_an_exact_interval():
    made = {"One": dataset()}
    row = figures.level_rows(made, ["s2_not_answered"]).set_index("condition").loc["A"]
    n = (dataset().category == "harmless").sum().item()
    assert row["mean"] == 1 and row["low"] == pytest.approx(0.025 ** (1 / n))


def test_the_judges_agree_on_voice_if_both_see_it():
    d = dataset()
    assert report.judges_agree({"One": d}).answer == "On changes of voice: yes"
    blind = d.rating.copy(deep=True)
    where = {"judge": "reference", "task": "g2"}
    blind.loc[where | {"condition": "B_late"}] = blind.sel(where | {"condition": "A"})
    said = report.judges_agree({"One": d.assign(rating=blind)})
    assert said.answer == "On changes of voice: no" and "does not see" in said.exception
