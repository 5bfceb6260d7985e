"""The charts and tables of the internal-causality chapter, on results built so that the answer is known."""

import json
import re
from functools import cache, partial

import numpy as np
import pytest
import vl_convert

from nbhelpers.core import stats
from nbhelpers.experiments.exp11_matched_prefix import quantities as exp11_quantities
from nbhelpers.experiments.exp11_matched_prefix import report as exp11_report
from nbhelpers.experiments.exp13_token_support import report as exp13_report
from nbhelpers.experiments.exp14_symmetric_causality import quantities as exp14_quantities
from nbhelpers.experiments.exp14_symmetric_causality import report as exp14_report
from nbhelpers.report import graft_charts, theme
from nbhelpers.report.families import POOL
from nbhelpers.report.quantities import named, value
from tests import looks, synthetic
from tests.specs import chart_makers, controls, encodings, filters, pairs_of, rows

LENS, SIDE = {"lens": ["raw", "tuned"]}, {"side": ["IT's MLPs in PT", "PT's MLPs in IT"]}
BASIS = {"basis": ["each host", "PT"]}
FIGURES = {
    "trajectories": ("exp11", exp11_report.trajectories, {"host": ["PT", "IT"]} | LENS),
    "trajectories_js": ("exp11", lambda r: exp11_report.trajectories(r, "js_teacher"), {"host": ["PT", "IT"]} | LENS),
    "window_shifts": ("exp11", exp11_report.window_shifts, LENS | BASIS),
    "nll": ("exp11", lambda r: exp11_report.window_shifts(r, "nll"), {}),
    "controls": ("exp11", exp11_report.controls, LENS),
    "sliding": ("exp11", exp11_report.sliding, LENS),
    "widths": ("exp11", exp11_report.widths, SIDE | LENS),
    "teachers": ("exp11", exp11_report.teachers, SIDE | LENS),
    "sufficiency_necessity": ("exp14", exp14_report.sufficiency_necessity, LENS | BASIS),
    "cosine": ("exp14", lambda r: exp14_report.sufficiency_necessity(r, "delta_cosine_mlp"), {}),
    "strongest": ("exp14", exp14_report.strongest, SIDE | LENS),
    "displaced": ("exp13", exp13_report.displaced, LENS),
    "gains": ("exp13", exp13_report.gains, LENS),
    "pushes": ("exp13", exp13_report.pushes, {}),
    "related": (
        "exp13", exp13_report.related,
        {"kind": list(exp13_report.KINDS.values()), "given": list(exp13_report.GIVEN.values())} | LENS,
    ),
    "late_wins": ("exp13", exp13_report.late_wins, LENS),
}  # fmt: skip
# One panel a pair; the others have a row a pair.
CURVES = {"trajectories", "trajectories_js", "sliding", "widths", "strongest"}
TABLES = {
    "late_table": ("exp11", exp11_report.late_table), "branch_table": ("exp11", exp11_report.branch_table),
    "necessity": ("exp11", lambda r: exp11_report.late_table(r, "necessity", "raw")),
    "divergence_table": ("exp11", exp11_report.divergence_table), "test_table": ("exp14", exp14_report.test_table),
    "correlation_table": ("exp13", exp13_report.correlation_table), "class_table": ("exp13", exp13_report.class_table),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Bootstrap a little, as no test here is about the ends of an interval."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
        yield


@cache
def made(key):
    return synthetic.results(key, n_prompts=12)


@pytest.fixture(scope="module", params=FIGURES)
def drawn(request):
    """Return each figure's name and specification for six families, in turn."""
    key, draw, _ = FIGURES[request.param]
    return request.param, draw(made(key)).to_dict()


def test_no_chart_is_left_out():
    of_tables = {"shift_forest", "push_forest"}  # which figures below make
    assert chart_makers(graft_charts, exp11_report, exp13_report, exp14_report) - of_tables <= FIGURES.keys()


def test_a_figure_draws_every_family_in_order(drawn):
    name, spec = drawn
    svg = vl_convert.vegalite_to_svg(json.dumps(spec, allow_nan=False))
    assert "NaN" not in svg and "undefined" not in svg and "null<" not in svg
    assert all(f">{title}<" in svg for title in synthetic.TITLES)
    assert [title for title in pairs_of(spec) if title != POOL] == synthetic.TITLES
    by_pair = spec["facet"]["field"] == "panel"
    assert by_pair == (name in CURVES) and (not by_pair or spec["columns"] == 3)
    assert by_pair or "x" not in spec["resolve"].get("scale", {})  # a row a pair, on one axis


def test_hosts_keep_their_models_colours(drawn):
    looks.has_the_models_colours(drawn[1])


def test_a_figure_has_a_caption(drawn):
    looks.has_a_caption(drawn[1])


def test_a_figure_speaks_in_words(drawn):
    looks.has_words(drawn[1])
    looks.fits_a_phone(drawn[1])


def test_a_page_opens_on_the_tuned_lens(drawn):
    looks.opens_on(drawn[1], "tuned")


def test_windows_differ_in_shape_and_step(drawn):
    for encoding in encodings(drawn[1]):
        if encoding.get("shape", {}).get("field") == "window":
            shapes, steps = (
                dict(zip(encoding[channel]["scale"]["domain"], encoding[channel]["scale"]["range"]))
                for channel in ("shape", "color")
            )
            assert [shapes[w] for w in graft_charts.WINDOWS] == ["triangle-up", "square", "circle"]
            assert [steps[w] for w in graft_charts.WINDOWS] == theme.STEPS


@pytest.mark.slow
def test_one_model_is_drawn_too(drawn):
    key, draw, choices = FIGURES[drawn[0]]
    spec = draw({"Pocket Llama": made(key)["Llama"]}).to_dict()
    assert controls(spec).keys() == choices.keys()
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    assert "NaN" not in svg and "undefined" not in svg


@pytest.mark.slow
def test_a_figure_is_small_and_the_same_bytes_again(drawn):
    key, draw, _ = FIGURES[drawn[0]]
    text = json.dumps(drawn[1], ensure_ascii=False)
    assert len(text.encode()) < 500_000
    assert json.dumps(draw(made(key)).to_dict(), ensure_ascii=False) == text


def test_a_reader_chooses_from_what_the_data_have(drawn):
    _, _, choices = FIGURES[drawn[0]]
    offered, data = controls(drawn[1]), rows(drawn[1])
    assert offered == choices
    for field, values in choices.items():
        assert set(data[field]) == set(values)
        assert f"datum['{field}'] === shown_{field}" in filters(drawn[1])


def test_intervals_hold_their_mean(drawn):
    data = rows(drawn[1])
    if {"low", "high"} <= set(data):
        assert (data["low"] <= data["mean"] + 1e-9).all() and (data["mean"] <= data["high"] + 1e-9).all()


def it_replies(d, readout, condition, lens="tuned"):
    """The mean of a readout of one condition over the final fifth, layers 9 to 11 of 12, IT's replies, own lens."""
    return float(
        d[readout]
        .sel(teacher="it", condition=condition, lens=lens, basis="host")
        .isel(layer=[9, 10, 11])
        .mean()
    )


def test_shifts_are_differences_of_the_datasets_means():
    d = made("exp11")["OLMo"]
    data = rows(exp11_report.window_shifts({"OLMo": d}))
    data = data[data["basis"] == "each host"].set_index(["side", "window", "lens"])["mean"]
    for side, letter, base in (("IT's MLPs in PT", "B", "A'"), ("PT's MLPs in IT", "D", "C")):
        for window in ("early", "mid", "late"):
            wanted = it_replies(d, "kl_layer_final", f"{letter}_{window}") - it_replies(
                d, "kl_layer_final", base
            )
            assert data[side, window, "tuned"] == pytest.approx(wanted, abs=2e-4)


def test_controls_stand_beside_the_graft():
    d = made("exp11")["Gemma"]
    data = rows(exp11_report.controls({"Gemma": d})).set_index(["side", "control", "lens"])["mean"]
    for name, shown in exp11_report.CONTROLS.items():
        condition = "D_late" if name == "graft" else f"D_late_{name}"
        wanted = it_replies(d, "kl_layer_final", condition, "raw") - it_replies(
            d, "kl_layer_final", "C", "raw"
        )
        assert data["PT's MLPs in IT", shown, "raw"] == pytest.approx(wanted, abs=2e-4)


def test_a_sliding_window_stands_at_its_centre():
    d = made("exp11")["Qwen"]
    data = rows(exp11_report.sliding({"Qwen": d}))
    assert sorted(set(data["centre"])) == [start + 1 for start in range(10)]
    one = data[(data["sweep"] == "4-6") & (data["lens"] == "raw") & (data["side"] == "IT's MLPs in PT")]
    wanted = float(d.sweep_kl_layer_final.sel(side="sufficiency", sweep="4-6", lens="raw").mean())
    assert one["centre"].item() == 5 and one["mean"].item() == pytest.approx(wanted, abs=1e-4)
    wide = rows(exp11_report.widths({"Qwen": d}))
    assert set(wide["width"]) == {1, 2, 4} and set(wide["window"]) == {"early", "mid", "late"}


def test_trajectories_have_the_host_and_its_grafts():
    d = made("exp11")["Llama"]
    data = rows(exp11_report.trajectories({"Llama": d})).set_index(["host", "window", "lens", "layer"])[
        "mean"
    ]
    for host, base, late in (("PT", "A'", "B_late"), ("IT", "C", "D_late")):
        for window, condition in (("none", base), ("late", late)):
            of = d.kl_layer_final.sel(teacher="it", basis="host", lens="raw", condition=condition, layer=3)
            assert data[host, window, "raw", 3] == pytest.approx(float(of.mean()), abs=1e-4)


def test_teachers_have_their_own_replies():
    d = made("exp11")["Llama"]
    data = rows(exp11_report.teachers({"Llama": d})).set_index(["teacher", "side", "window", "lens"])["mean"]
    assert (
        data["IT's replies", "IT's MLPs in PT", "late", "raw"]
        > 5 * data["PT's replies", "IT's MLPs in PT", "late", "raw"]
    )


def test_the_strongest_window_is_the_likelier():
    data = rows(exp14_report.strongest(made("exp14"))).set_index(
        ["panel", "side", "readout", "lens", "window"]
    )["share"]
    own, cross = (exp14_report.SHORT[name] for name in ("kl_layer_final", "kl_layer_teacher"))
    assert data["Llama", "IT's MLPs in PT", own, "tuned", "late"] > 0.99
    # The made-up graft carries PT away from the teacher: late is then the weakest of the three.
    assert data["Llama", "IT's MLPs in PT", cross, "tuned", "late"] < 0.01
    np.testing.assert_allclose(data.groupby(level=[0, 1, 2, 3]).sum(), 1, atol=1e-3)


def test_displaced_and_supported_classes():
    d = made("exp13")["DeepSeek"]
    data = rows(exp13_report.displaced({"DeepSeek": d})).set_index(["lens", "role", "token_class"])["mean"]
    wanted = float(d.share.sel(condition="B_late", lens="tuned", role="supported", token_class="content"))
    assert data["tuned", "supported", "content"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_whole_text_of_every_family(name):
    key, build = TABLES[name]
    table = build(made(key))
    heads = {str(part) for axis in table.axes for label in axis for part in np.atleast_1d(label)}
    assert all(title in heads for title in synthetic.TITLES)
    assert not any(re.search(r"\b[ABD]['2_]|pooled|_late|tmpl", head) for head in heads)
    cells = [str(cell) for cell in table.to_numpy().ravel()]
    assert not table.isna().any(axis=None) and not any(
        "nan" in cell or re.search(r"-\d|e-", cell) for cell in cells
    )


def test_the_figure_of_both_sides_has_the_dense_pool():
    results = made("exp14")
    data = rows(exp14_report.sufficiency_necessity(results))
    assert list(dict.fromkeys(data["panel"])) == [*synthetic.TITLES, "dense pool"]
    data = data.set_index(["panel", "side", "window", "lens", "basis"])["mean"]
    for name, basis in (("each host", "host"), ("PT", "pt")):
        of = {
            title: float(d["shift"].sel(readout="kl_layer_final", region="final_fifth", side="necessity", window="mid",
                                        lens="raw", basis=basis).mean())
            for title, d in results.items()
        }  # fmt: skip
        shown = data.xs(("PT's MLPs in IT", "mid", "raw", name), level=("side", "window", "lens", "basis"))
        assert shown["Qwen"] == pytest.approx(of["Qwen"], abs=1e-4)
        assert shown["dense pool"] == pytest.approx(np.mean([of[t] for t in of if t != "DeepSeek"]), abs=1e-4)


def test_the_dense_pool_leaves_deepseek_out():
    results = made("exp14")
    pool = exp14_report.test_table(results).loc["dense pool"].iloc[2]
    dense = [d for title, d in results.items() if title != "DeepSeek"]
    wanted = np.mean(
        [value(exp14_quantities.quantities, d, "shift.kl_layer_final.sufficiency.late.tuned") for d in dense]
    )
    assert float(pool.split()[0]) == pytest.approx(wanted, abs=1e-3)


def test_readouts_are_counted_over_families():
    table = exp14_report.readout_table(made("exp14"))
    own = table.loc[(graft_charts.READOUTS["kl_layer_final"][0], "final fifth")]
    assert (
        own["IT's MLPs in PT: late strongest"] == "6 of 6" and own["IT's MLPs in PT: surely not"] == "0 of 6"
    )
    cross = table.loc[(graft_charts.READOUTS["js_teacher"][0], "final fifth")]
    assert cross["IT's MLPs in PT: surely not"] == "6 of 6"
    assert (graft_charts.READOUTS["commitment"][0], "all layers") in table.index


def test_classes_are_pooled_by_their_counts():
    results = {title: made("exp13")[title] for title in ("Llama", "DeepSeek", "OLMo")}
    table = exp13_report.pooled_classes(results)
    counts = sum(d.replaced.sel(condition="B_late", lens="tuned").sum("prompt") for d in results.values())
    won, lost = (counts.sum(dim) / counts.sum() for dim in ("displaced", "supported"))
    wanted = float(won.sel(supported="content")) - float(lost.sel(displaced="content"))
    assert float(table.loc["all pairs", "content"].split()[0].replace("−", "-")) == pytest.approx(
        wanted, abs=6e-3
    )
    assert list(table.index) == ["all pairs", "dense pool"]


def test_late_shifts_by_token_weigh_long_replies_more():
    d = made("exp11")["Llama"]
    name = "shift.kl_layer_final.sufficiency.graft.tuned"
    shift = named(exp11_quantities.quantities, name)(d)
    n = d.n_tokens.sel(teacher="it").values
    found = value(exp11_quantities.quantities, d, f"{name}.by_token")
    assert found == pytest.approx(float((shift.values * n).sum() / n.sum()))
