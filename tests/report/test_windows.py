"""The figure that defines the sets of layers."""

import json

import pytest
import vl_convert

from nbhelpers.core import depths
from nbhelpers.report.windows import layer_sets, windows_figure
from tests import looks
from tests.specs import rows

STUDY = {
    "early window": range(13), "mid window": range(9, 22), "late window": range(19, 32), "corrective phase": range(19, 32),
    "late half": range(16, 32), "late third": range(21, 32), "final fifth": range(25, 32),
}  # fmt: skip


def test_sets_of_the_study_s_depth_worked_by_hand():
    assert layer_sets(32) == STUDY


@pytest.mark.parametrize("size", [2, 12, 27, 34])
def test_every_set_ends_with_the_model_or_is_a_window_of_the_same_width(size):
    found = layer_sets(size)
    assert len(found["early window"]) == len(found["mid window"]) == len(found["late window"])
    assert all(
        layers[-1] == size - 1 for name, layers in found.items() if name not in ("early window", "mid window")
    )
    assert found["late window"] == found["corrective phase"] and found["late window"][0] == depths.onset(size)


def test_a_bar_covers_its_layers_and_says_which():
    data = rows(windows_figure([12, 32])).set_index(["panel", "set"])
    for name, layers in STUDY.items():
        bar = data.loc["32 layers", name]
        assert (bar["left"], bar["right"]) == (layers[0] - 0.5, layers[-1] + 0.5)
        assert bar["shown"] == f"{layers[0]}–{layers[-1]}"
    assert data.loc["12 layers", "late window"]["shown"] == "7–11"


def test_the_figure_draws_and_says_what_it_shows():
    spec = windows_figure().to_dict()
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    assert all(f">{name}<" in svg for name in STUDY) and "NaN" not in svg
    looks.has_a_caption(spec)
    looks.has_words(spec)
    looks.has_the_models_colours(spec)
    assert "12 and 32 layers" in spec["description"]
