"""The widgets of the explorer's notebook: controls above, the grid, the curves and the replies below.

`scene` says what they show. A slider reports when it is released, so that no picture is drawn on the way. The curves are
drawn by the book's one renderer of charts. Widgets are not saved with a notebook.
"""

import html
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from IPython.display import display

from nbhelpers.core import depths, params
from nbhelpers.core.params import ParameterError
from nbhelpers.core.store import ResultError
from nbhelpers.models.edits import InterventionError
from nbhelpers.models.tokens import TokenizerError
from nbhelpers.report import charts
from nbhelpers.run.explorer import address, pictures, reading, scene, sources
from nbhelpers.run.explorer.scene import Scene, State

ERRORS = (ParameterError, ResultError, InterventionError, TokenizerError)
HISTORIES = {"IT’s reply": "it", "PT’s reply": "pt"}
GRAFTS = {"none": "", "PT with IT’s MLPs": "pt", "IT with PT’s MLPs": "it"}
REPLY = "white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid; padding: 0.4em; flex: 1 1 14em; margin: 0.2em"


def page() -> str:
    """Return the address of the book's page that shows a view: of the book here, or by its name alone if none is built."""
    built = params.ROOT / "_build" / "html" / address.PAGE
    return built.as_uri() if built.exists() else address.PAGE


def controls(state: State) -> dict:
    """Return the widgets that set a state, by the name of what they set; `window` sets its first and last layer."""
    import ipywidgets as w

    titles = {params.model_params(key).title: key for key in params.profile_params(state.profile).models}
    measures = {title: name for name, (title, _) in pictures.TITLES.items()}
    wide, still = {"layout": {"width": "34em"}}, {"continuous_update": False}
    last = sources.pair(state.pair).n_layers - 1
    return {
        "pair": w.Dropdown(options=titles, value=state.pair, description="Pair"),
        "text": w.Text(state.text, description="Prompt", placeholder="type a request, then press Enter", **still, **wide),
        "history": w.ToggleButtons(options=HISTORIES, value=state.history, description="Text"),
        "tokens": w.IntSlider(state.tokens, 1, reading.MOST_TOKENS, description="Tokens", **still),
        "lens": w.ToggleButtons(options=["raw", "tuned"], value=state.lens, description="Lens"),
        "measure": w.Dropdown(options=measures, value=state.measure, description="Shows"),
        "host": w.ToggleButtons(options=GRAFTS, value=state.host, description="Graft"),
        "window": w.IntRangeSlider(
            value=(state.first, state.last), min=0, max=last, description="Layers", **still
        ),
        "alpha": w.FloatSlider(state.alpha, min=-1, max=2, step=0.25, description="α", readout_format=".2f", **still),
    }  # fmt: skip


def desk(state: State, book: str = ""):
    """Return the widget, in which every control and each cell of the grid draws anew; book: address of the page for links."""
    import ipywidgets as w

    from nbhelpers.run.explorer.grid import Grid

    given, grid = controls(state), Grid(cell={"layer": state.layer, "token": state.token})
    views = {name: w.HTML() for name in ("status", "said", "replies", "link")} | {"curves": w.Output()}
    for name, widget in (given | views).items():
        widget.add_class(f"explore-{name}")
    draw = drawing(given, grid, views, state, book or page())
    for name, control in given.items():
        control.observe(lambda change, name=name: draw(name), "value")
    grid.observe(lambda change: draw("cell"), "cell")
    draw("")
    rows = [w.HBox([given[name] for name in names], layout={"flex_flow": "row wrap"}) for names in
            (("pair", "text"), ("history", "tokens"), ("lens", "measure"), ("host",), ("window", "alpha"))]  # fmt: skip
    return w.VBox(
        [*rows, views["status"], grid, views["said"], views["curves"], views["replies"], views["link"]]
    )


def drawing(given: Mapping, grid, views: Mapping, state: State, book: str) -> Callable[[str], None]:
    """Return the function that draws what the widgets' values ask for; its argument names the widget that changed."""
    busy = False

    def draw(changed: str) -> None:
        nonlocal busy
        if busy:  # a change that this function makes itself
            return
        busy, start = True, time.perf_counter()
        try:
            fit(given, changed)
            found = scene.scene(stated(given, grid, state))
            show(found, grid, views, book)
            views["status"].value = said([*found.notes, f"Drawn in {time.perf_counter() - start:.2f} s."])
        except ERRORS as error:
            views["status"].value = f"<b>{said([sentence(error)])}</b>"
        finally:
            busy = False

    return draw


def fit(given: Mapping, changed: str) -> None:
    """Make the layers that can be chosen those of the chosen pair."""
    if changed == "pair":
        n = sources.pair(given["pair"].value).n_layers
        given["window"].max = n - 1
        given["window"].value = ends(n)


def ends(n_layers: int) -> tuple[int, int]:
    """Return the first and the last layer of the late window."""
    late = depths.windows(n_layers)["late"]
    return late[0], late[-1]


def stated(given: Mapping, grid, state: State) -> State:
    """Return the state that the widgets' values make."""
    values = {name: control.value for name, control in given.items()}
    first, last = values.pop("window")
    return replace(state, **values, **grid.cell, first=first, last=last)


def show(found: Scene, grid, views: Mapping, book: str) -> None:
    """Put a scene into the widgets."""
    with grid.hold_sync():
        grid.view = {"tokens": found.tokens, "panels": found.panels}
        grid.cell = found.cell
        grid.title = found.said
    views["said"].value = said([found.said])
    boxes = [
        f'<div style="{REPLY}"><b>{html.escape(name)}</b>\n{html.escape(text) or "(nothing)"}</div>'
        for name, text in found.replies.items()
    ]
    views["replies"].value = f'<div style="display: flex; flex-wrap: wrap">{"".join(boxes)}</div>'
    link = html.escape(f"{book}#{found.fragment}", quote=True)
    views["link"].value = (
        f'<a href="{link}" target="_blank" >This view in the book</a>: copy the link’s address, since a browser opens '
        "no page of the disk from a page of a server."
    )
    # Last, since it takes the page longest.
    data = charts.spec_renderer(found.curves)
    views["curves"].outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)


def said(sentences: list[str]) -> str:
    """Return sentences as HTML."""
    return " ".join(html.escape(text) for text in sentences)


def sentence(error: Exception) -> str:
    """Return what an error says, with a capital letter."""
    text = str(error)
    return text[:1].upper() + text[1:]


def opening(model: str, prompt: str, profile: str, view: str) -> State:
    """Return the state that the explorer opens with: the late window, its first layer at the first token, or a view's."""
    first, last = ends(sources.pair(model).n_layers)
    state = State(model, prompt, profile, first=first, last=last, layer=first)
    return scene.started(view, state) if view else state


def picture(model: str, prompt: str, *, profile: str = "pocket", view: str = "") -> None:
    """Print the cell and the replies of the view that `opened` shows first, and draw its curves, all without a widget.

    Parameters are those of `opened`; ParameterError or ResultError if the view cannot be shown.
    """
    found = scene.scene(opening(model, prompt, profile, view))
    print(found.said)
    for name, text in found.replies.items():
        print(f"{name} writes: {text.strip()}")
    display(charts.spec_renderer(found.curves), raw=True)


def opened(model: str, prompt: str, *, profile: str = "pocket", view: str = "", book: str = ""):
    """Return the explorer's widget, or None after printing the sentence that says what to do first.

    Parameters
    ----------
    model
        Key of the pair that is shown first.
    prompt
        The prompt that is shown first.
    profile
        Whose pairs can be chosen, and whose results hold tuned lenses and directions.
    view
        An address that the explorer or the book's page gave; it takes the place of model and prompt.
    book
        Address of the book's page, if it is read elsewhere than in `_build/html`.
    """
    try:
        return desk(opening(model, prompt, profile, view), book)
    except ERRORS as error:
        print(sentence(error))
    except ImportError as error:
        print(
            f"The explorer needs {Path(error.name or 'ipywidgets').stem}; install it with `pip install --editable '.[lab]'`."
        )
    return None
