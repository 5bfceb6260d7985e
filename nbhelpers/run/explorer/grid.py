"""The widget of the grid: `grid.js` draws it in the page, and a click or a key there chooses a cell here."""

from pathlib import Path

import anywidget
import traitlets


class Grid(anywidget.AnyWidget):
    """A grid of layers and tokens for each arm.

    view: {"tokens": words, "panels": as `scene.panels`}. cell: {"layer": int, "token": int}, the chosen one. title: what the
    cells are filled by.
    """

    _esm = Path(__file__).with_name("grid.js")
    view = traitlets.Dict({"tokens": [], "panels": []}).tag(sync=True)
    cell = traitlets.Dict({"layer": 0, "token": 0}).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
