"""What the explorer shows for a state of its controls: grid, curves, replies, words and address. No widgets here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import xarray as xr

from nbhelpers.core.params import ParameterError
from nbhelpers.measures.arms import Arm
from nbhelpers.models.conditions import OTHER
from nbhelpers.models.prompts import Prompt
from nbhelpers.run.explorer import address, pictures, reading, sources
from nbhelpers.run.explorer.pictures import NAMES


@dataclass(frozen=True)
class State:
    """The controls: a pair, a typed prompt, whose reply is read and how, a graft and a dose, and the chosen cell.

    host: whose MLPs of layers `first` to `last` the graft replaces; empty: no graft. alpha: of IT's MLP outputs at these
    layers along the IT − PT direction; 1 changes nothing.
    """

    pair: str
    text: str
    profile: str = "pocket"
    history: str = "it"
    tokens: int = 16
    lens: str = "raw"
    measure: str = "kl_final_layer"
    host: str = ""
    first: int = 0
    last: int = 0
    alpha: float = 1.0
    token: int = 0
    layer: int = 0


@dataclass(frozen=True)
class Scene:
    """What is shown: `panels` for the grid, the specification of the curves, replies by name, and words.

    `notes` say in a sentence each what a pair lacks; `fragment` is the part of the view's address behind `#`.
    """

    tokens: list[str]
    panels: list[dict]
    cell: dict[str, int]
    curves: dict
    replies: dict[str, str]
    said: str
    notes: list[str]
    fragment: str


@lru_cache(1)
def _curves() -> dict:
    return pictures.curves().to_dict()


def edits(state: State) -> dict[str, Arm]:
    """Return the arms that a state's edits make, by what they are called; ParameterError if the layers are not the pair's."""
    n, found = sources.pair(state.pair).n_layers, {}
    if not 0 <= state.first <= state.last < n:
        raise ParameterError(
            f"Layers {state.first} to {state.last} are no window of {state.pair}: it has layers 0 to {n - 1}."
        )
    span = f"layers {state.first}–{state.last}" if state.first < state.last else f"layer {state.first}"
    if state.host:
        donor = OTHER[state.host]
        name = f"grafted: {NAMES[state.host]} with {NAMES[donor]}’s MLPs of {span}"
        found[name] = reading.grafted(state.host, state.first, state.last)
    if state.alpha != 1 and "directions" not in sources.lacking(state.pair, state.profile):
        found[f"scaled: IT, IT − PT direction × {state.alpha:g} at {span}"] = reading.scaled(
            state.first, state.last, state.alpha
        )
    return found


def notes(state: State) -> list[str]:
    """Return a sentence for each thing that a state asks for and its pair has not."""
    asked = {"lenses": state.lens == "tuned", "directions": state.alpha != 1}
    return [text for name, text in sources.lacking(state.pair, state.profile).items() if asked[name]]


def scene(state: State) -> Scene:
    """Return what is shown for a state; ParameterError or ResultError, in one sentence, if it cannot be shown."""
    prompt, made = sources.request(state.text, state.profile), edits(state)
    options = dict(history=state.history, max_new_tokens=state.tokens, profile=state.profile)
    view, tree = _view(state.pair, prompt, tuple(made.values()), **options)
    lens = state.lens if state.lens in view["lens"] else "raw"
    cell = {
        "token": min(state.token, view.sizes["token"] - 1),
        "layer": min(state.layer, view.sizes["layer"] - 1),
    }
    arms = {NAMES[name]: arm for name, arm in reading.PLAIN.items()} | made
    replies = {
        name: reading.written(state.pair, prompt, arm, state.tokens, state.profile)
        for name, arm in arms.items()
    }
    shown = {"lens": lens, "measure": state.measure, "at_token": cell["token"], "at_layer": cell["layer"]}
    data = [_only(row, cell["token"]) for row in pictures.rows(tree)]
    curves = pictures.filled(_curves(), data, whos=list(tree["whos"]), **shown)
    return Scene(
        tree["tokens"], panels(tree, lens, state.measure), cell, curves, replies,
        pictures.said(view, cell["token"], cell["layer"], lens), notes(state),
        fragment(state, prompt.id, lens, cell, tree | {"message": prompt.message, "texts": replies}),
    )  # fmt: skip


@lru_cache(reading.KEPT)
def _view(pair: str, prompt: Prompt, arms: tuple[Arm, ...], **options) -> tuple[xr.Dataset, dict]:
    """Return a view of `reading.explore` and the same as `pictures.compact` makes it."""
    view = reading.explore(pair, prompt, arms=arms, **options)
    return view, pictures.compact(view)


def _only(row: Mapping[str, Any], token: int) -> dict:
    """Return a row for the charts with one of its tokens."""
    return {
        name: value[token : token + 1] if isinstance(value, list) else value for name, value in row.items()
    }


def panels(tree: dict, lens: str, measure: str) -> list[dict]:
    """Return the grid's panels, one for each arm: its name, and the words and values of each layer and token."""
    return [
        {"name": who, "words": lenses[lens]["top1"], "values": lenses[lens][measure]}
        for who, lenses in tree["whos"].items()
    ]


def fragment(state: State, prompt: str, lens: str, cell: Mapping[str, int], tree: Mapping) -> str:
    """Return the part of a view's address behind `#`, its numbers included."""
    kept = {
        "pair": state.pair,
        "prompt": prompt,
        "history": state.history,
        "lens": lens,
        "measure": state.measure,
        **cell,
    }
    changed = {"window": f"{state.first}-{state.last}"} if state.host or state.alpha != 1 else {}
    changed |= {"host": state.host} | ({"alpha": f"{state.alpha:g}"} if state.alpha != 1 else {})
    return address.fragment(kept | changed, tree)


def started(text: str, given: State) -> State:
    """Return the state that an address names, for the rest a given one; ParameterError if it cannot be read."""
    found = address.state(text)
    try:
        tree = address.numbers(text)
        values = {
            field.name: type(getattr(given, field.name))(found[field.name])
            for field in fields(given)
            if field.name in found
        }
        if "window" in found:
            values["first"], values["last"] = map(int, found["window"].split("-"))
    except ValueError:
        raise ParameterError(
            "This address cannot be read: copy the whole of it from the explorer or the book’s page."
        ) from None
    texts = {prompt.id: prompt.message for prompt in sources.known(given.profile).values()}
    values |= {"text": texts[found["prompt"]]} if found.get("prompt") in texts else {}
    values |= {"text": tree["message"], "tokens": len(tree["tokens"])} if tree else {}
    return State(**asdict(given) | values)
