"""Colours, dashes, shapes and sizes of the book's charts, and the theme that Altair draws with.

PT is blue and dashed, IT orange and solid, a difference is in ink. Importing this module registers the theme.
"""

import altair as alt

PT, IT, INK, GRID = "#2b7bba", "#d95f02", "#7a7a7a", "#8888883f"
# Categories and the steps early, mid, late: neither PT's nor IT's hue, and told apart with any colour vision.
CATEGORIES = ["#259365", "#cc35aa", "#a39300", "#1a1a1a"]
STEPS, NO_STEP = ["#a086d6", "#7044ba", "#371575"], "#d4d4d4"
FILL = "#7a5bb5"  # cells of a matrix, on any page
SHAPES = ("circle", "diamond", "square", "triangle-up")
# What a page puts in place of a specification's colours: {theme: {colour: as it reads on that background}}.
THEMES = {
    "light": {INK: "#4d4d4d"},
    "dark": {INK: "#c4c9d1", PT: "#62a8e5", IT: "#f4873a"}
    | dict(zip(CATEGORIES, ("#2ea878", "#e85fc9", "#c4a82a", "#f2f2f2")))
    | dict(zip((*STEPS, NO_STEP), ("#7d5fc0", "#b19ae8", "#f0eaff", "#3d434c"))),
}
DASHES = {"pt": [4, 2], "it": [1, 0]}
PANEL, SINGLE = {"width": 190, "height": 140}, {"width": 420, "height": 240}


@alt.theme.register("nbhelpers", enable=True)
def theme():
    """Return the book's chart theme: no background and greys that read on light and dark pages."""
    text = {
        "labelColor": INK,
        "titleColor": INK,
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    return {
        "config": {
            "background": "transparent",
            "font": "system-ui, sans-serif",
            "view": {**PANEL, "continuousWidth": 400, "continuousHeight": 240, "stroke": "transparent"},
            "title": {"color": INK, "fontSize": 13, "anchor": "start", "offset": 10},
            "axis": {**text, "gridColor": GRID, "domainColor": INK, "tickColor": INK, "tickCount": 5},
            "legend": {
                **text,
                "orient": "top",
                "symbolSize": 300,
                "symbolStrokeWidth": 2.5,
                "labelLimit": 260,
            },
            "header": {**text, "labelFontSize": 12, "labelFontWeight": "bold", "labelAnchor": "start"},
            "facet": {"spacing": 18},
            "text": {"color": INK, "fontSize": 11},
            "rule": {"color": INK},
        }
    }
