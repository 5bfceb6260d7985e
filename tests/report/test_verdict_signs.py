"""Signs of several pairs rest on intervals that hold jointly; each cell of a matrix is its own pair's and quantity's."""

import math

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.report import verdicts
from nbhelpers.report.quantities import Quantity


def spread(mean, n=24):
    """Values of one prompt each with a mean and a standard error of one."""
    values = np.linspace(-1, 1, n)
    return xr.DataArray(mean + values * math.sqrt(n) / values.std(), dims="prompt")


def results(**means):
    """Datasets by title, and a source that gives each its value `one`."""
    datasets = {title: xr.Dataset(attrs={"mean": mean}) for title, mean in means.items()}

    def source(dataset):
        return {"one": Quantity(spread(dataset.attrs["mean"]), "nats", "shift", 0.0)}

    return datasets, source


def test_a_sign_that_holds_alone_is_open_among_six():
    """A mean of 2.3 standard errors: above zero at 95 %, not at 1 − 0.05 / 6."""
    alone, among = stats.bca_mean(spread(2.3)), stats.bca_mean(spread(2.3), confidence=1 - 0.05 / 6)
    assert alone.low > 0 > among.low
    one, source = results(a=2.3)
    assert verdicts.signs(one, source, "one").above == ["a"]
    six, source = results(a=2.3, b=5.0, c=-2.3, d=-5.0, e=0.1, f=9.0)
    found = verdicts.signs(six, source, "one")
    assert (found.above, found.below, found.open) == (["b", "f"], ["d"], ["a", "c", "e"])
    cells = verdicts.matrix(six, source, {"heading": "one"}).cells["heading"]
    assert [cell[0] for cell in cells] == ["·", "▲", "·", "▼", "·", "▲"]


@pytest.mark.parametrize("n, confidence", [(1, 0.95), (2, 0.975), (6, 1 - 0.05 / 6)])
def test_each_of_several_intervals_has_its_share_of_the_error(n, confidence):
    assert verdicts.joint(dict.fromkeys(range(n))) == pytest.approx(confidence)


def test_the_interval_on_hover_is_the_joint_one():
    both, source = results(a=2.1, b=4.0)
    hint = verdicts.matrix(both, source, {"h": "one"}).hints.loc["a", "h"]
    joint = stats.bca_mean(spread(2.1), confidence=0.975)
    assert hint == f"{joint.mean:.3f} [{joint.low:.3f}, {joint.high:.3f}] nats".replace("-", "−")


@pytest.mark.parametrize(
    ("values", "centre", "sign"),
    [
        (stats.Interval(1.2, 1.1, 1.3), 1.0, "▲"),
        (stats.Interval(0.8, 0.7, 0.9), 1.0, "▼"),
        (stats.Interval(1.2, 1.0, 1.3), 1.0, "·"),
        (stats.Interval(-0.2, -0.3, 0.0), 0.0, "·"),
        (0.9, 1.0, "▼"),
        (1.0, 1.0, "·"),
        (math.nan, 0.0, "–"),
        (spread(9.0, n=4), 0.0, "·"),  # too few prompts for an interval
        (spread(9.0, n=5), 0.0, "▲"),
        (spread(9.0, n=4).where(False), 0.0, "–"),
    ],
)
def test_marks_around_a_centre(values, centre, sign):
    """An interval that ends on the centre is open; a number without one counts by its value."""
    assert verdicts.mark(Quantity(values, "1", "level", centre), 0.95) == sign
    assert verdicts.mark(None, 0.95) == "–"


@pytest.mark.parametrize(
    ("n", "answer"),
    [(0, "no"), (1, "hardly"), (2, "hardly"), (3, "in part"), (4, "mostly"), (5, "mostly"), (6, "yes")],
)
def test_an_answer_by_its_share_of_six(n, answer):
    assert verdicts.degree(list("abcdef")[:n], dict.fromkeys("abcdef")) == answer


def test_shares_on_the_edge_are_the_weaker_word():
    assert verdicts.degree("abc", dict.fromkeys("abcde")) == "in part"
    assert verdicts.degree("ab", dict.fromkeys("abcde")) == "hardly"


def test_a_span_is_from_the_least_to_the_largest():
    several, source = results(a=0.4, b=-0.126, c=0.3)
    assert verdicts.span(several, source, "one") == "−0.13 to 0.40"
    assert verdicts.span({"a": several["a"], "c": several["c"]}, source, "one") == "0.30–0.40"
    assert (
        verdicts.span({"a": several["a"], "c": several["c"]}, source, "one", signed=True) == "+0.30 to +0.40"
    )
    assert verdicts.span({"a": several["a"]}, source, "one", digits=1) == "0.4"
