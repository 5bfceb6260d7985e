"""The figures that exp09 alone has: forest plots of IT − PT, and the heat map of the δ-cosine."""

import json
from functools import cache, partial

import numpy as np
import pytest
import vl_convert

from nbhelpers.core import stats
from nbhelpers.experiments.exp09_convergence_gap import figures
from nbhelpers.experiments.exp09_convergence_gap.quantities import GAPS, LENSES, TEXTS, gap_name, quantities
from nbhelpers.measures.steps import STRATA
from nbhelpers.report import charts
from nbhelpers.report.families import POOL, is_dense
from nbhelpers.report.quantities import value
from tests import synthetic
from tests.specs import rows

FORESTS = {
    "gap_intervals": {"direction": "KL(final ‖ layer)"},
    "confidence_gap": {"lens": "raw"},
    "category_gap": {"lens": "raw"},
    "delay_intervals": {"rule": "KL stays below 0.1 nats"},
}  # what each opens on


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as no test here is about the ends of an interval."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


@cache
def made():
    return synthetic.results(n_prompts=24)


@cache
def drawn(name):
    return getattr(figures, name)(made()).to_dict()


def opened(spec):
    """Return what a chart's controls show first."""
    return {p["name"].removeprefix("shown_"): p["value"] for p in spec["params"]}


@pytest.mark.parametrize("name", FORESTS)
def test_a_forest_opens_on_the_verdicts_choice_and_draws_every_pair(name):
    spec = drawn(name)
    assert opened(spec) == FORESTS[name]
    svg = vl_convert.vegalite_to_svg(json.dumps(spec, allow_nan=False))
    assert all(f">{title}<" in svg for title in made()) and "NaN" not in svg
    one = getattr(figures, name)({"Pocket Llama": made()["Llama"]}).to_dict()
    assert "facet" not in one and opened(one) == FORESTS[name]


@pytest.mark.parametrize("name", FORESTS)
def test_differences_are_in_no_models_colour(name):
    assert not any(colour in json.dumps(drawn(name)) for colour in (charts.PT, charts.IT))


def test_the_gap_is_drawn_by_text_lens_and_direction():
    data = rows(drawn("gap_intervals")).set_index(["panel", "text", "lens", "direction"])["mean"]
    dense = [title for title, d in made().items() if is_dense(d)]
    for text, shown in TEXTS.items():
        for lens in LENSES:
            for direction in GAPS:
                gaps = {t: value(quantities, d, gap_name(text, direction, lens)) for t, d in made().items()}
                at = data.xs((shown, f"{lens} lens", charts.KL[direction]), level=(1, 2, 3))
                assert at.drop(POOL).to_dict() == pytest.approx(gaps, abs=1e-4)
                assert at[POOL] == pytest.approx(np.mean([gaps[t] for t in dense]), abs=1e-4)


def test_strata_are_drawn_on_both_texts():
    data = rows(drawn("confidence_gap")).set_index(["panel", "text", "confidence", "lens"])["mean"]
    for key, shown in (("free", TEXTS["own"]), ("it", TEXTS["it"])):
        for stratum in STRATA:
            gap = value(quantities, made()["Qwen"], f"gap_by_confidence.{stratum}.{key}.tuned")
            assert data["Qwen", shown, stratum, "tuned"] == pytest.approx(gap, abs=1e-4)


def test_categories_and_rules_are_those_of_the_run():
    data = rows(drawn("category_gap")).set_index(["panel", "category", "lens"])["mean"]
    gap = value(quantities, made()["OLMo"], "kl_excess_by_category.story.raw")
    assert data["OLMo", "story", "raw"] == pytest.approx(gap, abs=1e-4)
    data = rows(drawn("delay_intervals")).set_index(["panel", "rule", "lens"])["mean"]
    delay = value(quantities, made()["OLMo"], "commitment_delay.tuned.top1_strict")
    assert data["OLMo", "top-1 match that stays", "tuned lens"] == pytest.approx(delay, abs=1e-4)
    assert "cosine" not in " ".join(data.index.get_level_values("rule").unique())


@pytest.mark.parametrize("name", ["commitment_histograms", "commitment_cdf"])
def test_commitment_opens_on_the_rule_of_the_verdict(name):
    assert opened(drawn(name)) == {"lens": "raw", "rule": "KL stays below 0.1 nats"}


def test_the_heat_map_has_no_models_hue():
    scale = json.dumps(figures.DIVERGING)
    assert charts.PT not in scale and charts.IT not in scale
    for colour in (figures.DIVERGING[0], figures.DIVERGING[-1]):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert not (blue > 1.3 * red and blue > green), f"{colour} is blue as PT"
        assert not (red > green > blue), f"{colour} is orange as IT"
