"""Forest plots: one row a pair, one axis for all, what is drawn is what the quantities say."""

import pytest

from nbhelpers.experiments.exp09_convergence_gap.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.families import POOL, interval_table, is_dense
from nbhelpers.report.forest import forest, forest_rows
from nbhelpers.report.quantities import named
from tests import synthetic

GAPS = {f"kl_excess_late_half.{lens}": {"lens": lens} for lens in ("raw", "tuned")}
TEXTS = {
    f"matched_gap_late_half.{text}.{lens}": {"text": f"{text.upper()}'s text", "lens": lens}
    for text in ("pt", "it")
    for lens in ("raw", "tuned")
}


@pytest.fixture(scope="module")
def results():
    """Return six small made-up results by title."""
    return synthetic.results(n_prompts=16)


def drawn(rows, **options):
    """Return the specification of a forest plot and the table that it draws."""
    spec = forest(rows, x="IT − PT, nats", title="Gap", description="A sentence.", **options).to_dict()
    return spec, next(iter(spec["datasets"].values()))


def marks(spec):
    """Return the encodings of the bars and of the dots."""
    layers = (spec.get("spec") or spec)["layer"]
    return [layer["encoding"] for layer in layers if "y" in layer["encoding"]]


def test_rows_are_the_quantities_and_the_pool_of_dense_pairs(results):
    rows = forest_rows(results, quantities, GAPS)
    assert rows.panel.tolist() == 2 * [*results, POOL] and rows.lens.tolist() == 7 * ["raw"] + 7 * ["tuned"]
    for name, labels in GAPS.items():
        table = interval_table(results, named(quantities, name))
        mine = rows[rows.lens == labels["lens"]]
        assert mine[["mean", "low", "high"]].to_numpy() == pytest.approx(
            table[["mean", "low", "high"]].to_numpy()
        )


def test_there_is_no_pool_of_one_dense_pair(results):
    mixture = next(title for title, d in results.items() if not is_dense(d))
    two = {title: results[title] for title in (next(iter(results)), mixture)}
    assert forest_rows(two, quantities, GAPS).panel.unique().tolist() == list(two)
    assert POOL not in forest_rows(results, quantities, GAPS, pool=False).panel.values


def test_a_pair_is_left_out_of_what_it_lacks(results):
    def some(dataset):
        return {} if dataset is results[next(iter(results))] else quantities(dataset)

    assert next(iter(results)) not in forest_rows(results, some, GAPS).panel.values


def test_pairs_are_rows_in_their_order_on_one_axis(results):
    spec, data = drawn(forest_rows(results, quantities, GAPS), by="lens")
    assert "facet" not in spec and spec["description"] == "A sentence."
    for encoding in marks(spec):
        assert encoding["y"]["field"] == "panel" and encoding["y"]["sort"] == [*results, POOL]
        assert encoding["yOffset"]["field"] == "lens"
    shapes = [e["shape"] for e in marks(spec) if "shape" in e]
    assert len(shapes) == 1 and len(set(shapes[0]["scale"]["range"])) == 2
    assert len(data) == 14 and {"mean", "low", "high", "prompts"} <= data[0].keys()


def test_differences_are_in_neither_models_colour(results):
    spec, _ = drawn(forest_rows(results, quantities, GAPS), by="lens")
    assert charts.PT not in str(spec) and charts.IT not in str(spec)


def test_columns_share_the_axis_and_a_choice_keeps_one_value(results):
    rows = forest_rows(results, quantities, TEXTS)
    spec, _ = drawn(rows, column="text", toggles={"lens": "lens"})
    assert spec["facet"]["sort"] == ["PT's text", "IT's text"]
    assert "x" not in spec.get("resolve", {}).get("scale", {})
    assert [p["name"] for p in spec["params"]] == ["shown_lens"]
    assert [t["filter"] for t in spec["transform"]] == ["datum['lens'] === shown_lens"]


@pytest.mark.parametrize(
    ("options", "row"),
    [({"by": "lens"}, "lens"), ({"column": "text", "by": "lens"}, "text"), ({"column": "text"}, "text")],
)
def test_of_one_pair_the_rows_are_what_it_was_measured_by(results, options, row):
    one = dict(list(results.items())[:1])
    spec, _ = drawn(forest_rows(one, quantities, TEXTS), **options)
    assert "facet" not in spec and {e["y"]["field"] for e in marks(spec)} == {row}


def test_rows_without_a_mean_are_left_out(results):
    rows = forest_rows(results, quantities, GAPS)
    rows.loc[0, ["mean", "low", "high"]] = float("nan")
    assert len(drawn(rows, by="lens")[1]) == len(rows) - 1
