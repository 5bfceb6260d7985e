"""Charts as SVG for code hosts: true to the chart, small, the same on every run; saved by `nbh refresh` alone."""

import json
import re
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest

from nbhelpers.report import charts
from nbhelpers.run import drawing, notebooks
from tests.stubs import code, write_notebook


@pytest.fixture
def spec():
    rows = [
        {"panel": panel, "variant": variant, "layer": layer, "mean": layer / 3 + len(variant), "onset": 7}
        for panel in ("Ann", "Bob", "Cid")
        for variant in ("PT", "IT")
        for layer in range(12)
    ]
    line = alt.Chart().mark_line().encode(x="layer:Q", y="mean:Q", **charts.by_variant())
    dots = alt.Chart().mark_point(opacity=0).encode(x="layer:Q", y="mean:Q")
    chart = charts.panels(pd.DataFrame(rows), "Distance by layer", line, dots)
    return chart.properties(description="Distance over layers, a panel for each pair.").to_dict()


def test_a_drawing_shows_every_panel_in_its_colours_and_says_what_it_shows(spec):
    found = drawing.svg(spec)
    root = ElementTree.fromstring(found)
    texts = [text.text for text in root.iter(f"{{{drawing.SVG}}}text")]
    assert {"Distance by layer", "Ann", "Bob", "Cid", "PT", "IT"} <= set(texts)
    assert root[0].text == "Distance over layers, a panel for each pair."
    assert charts.PT in found and charts.IT in found and "stroke-dasharray" in found


def test_a_drawing_is_small_and_the_same_on_every_run(spec):
    found = drawing.svg(spec)
    assert found == drawing.svg(json.loads(json.dumps(spec)))
    import vl_convert

    assert len(found) < 0.5 * len(vl_convert.vegalite_to_svg(spec))
    assert not re.search(r"\d\.\d\d", found) and 'opacity="0"' not in found and "aria-" not in found


def test_a_refresh_adds_the_drawing_of_the_main_figure_alone(project):
    chart = "import altair as alt\nfrom nbhelpers.report import charts\nalt.Chart(title='One').mark_point()"
    first, second = code("a = 2", "parameters"), code(chart)
    main = code(chart.replace("One", "Two"))
    main["metadata"]["name"] = "main_figure"
    path = project / "notebooks/exp90_stub_across.ipynb"
    write_notebook(path, first, second, main)
    cells = json.loads(notebooks.refresh(path).read_text())["cells"]
    kinds = [set(cell["outputs"][0]["data"]) for cell in cells[1:]]
    assert kinds[0] == {charts.VEGALITE, "text/plain"} and kinds[1] == kinds[0] | {"image/svg+xml"}
    assert "Two" in "".join(cells[2]["outputs"][0]["data"]["image/svg+xml"])
