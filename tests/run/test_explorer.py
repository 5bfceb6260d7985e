"""The explorer without its widgets: readings equal those of the finished result, edits do what they say, and it is quick."""

import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from nbhelpers.book import explore as page
from nbhelpers.core import params, store
from nbhelpers.core.params import ParameterError
from nbhelpers.measures.arms import Arm
from nbhelpers.run import notebooks
from nbhelpers.run.explorer import address, pictures, reading, scene, sources
from nbhelpers.run.explorer.scene import State
from tests.stubs import REPOSITORY

MODEL, TEXT = "llama_pocket", "What does Veka want for supper?"
# Seconds from a slider to its picture that are wanted on two idle cores, and by how much a slow one may exceed them.
CACHED, FRESH, GENEROUS = 0.3, 1.5, 3


@pytest.fixture
def bare(monkeypatch):
    """Take from the pair its tuned lenses and its directions for a test, as where nothing was measured."""

    def missing(*_):
        raise store.ResultError("the result of llama_pocket is missing; run it.")

    for name in ("lenses", "directions"):
        monkeypatch.setattr(sources, name, missing)
    kept = (sources.lacking, reading.lens_view, reading.explore, scene._view)
    for each in kept:
        each.cache_clear()
    yield
    for each in kept:
        each.cache_clear()


@pytest.fixture(scope="module")
def prompt():
    """Return a prompt of the profile, as it is typed."""
    return sources.request(f"  {TEXT}\n", "pocket")


def test_a_typed_prompt_of_the_profile_is_its_record_and_another_has_its_form(prompt):
    assert prompt.id.startswith("unknown-") and prompt.message == TEXT
    typed = sources.request("Who are you?", "pocket")
    assert (typed.id, typed.text) == ("typed", "Question: Who are you?\nAnswer:")


@pytest.mark.parametrize("model", ["llama_pocket", "deepseek_pocket"])
@pytest.mark.parametrize("history", ["pt", "it"])
def test_a_reading_is_that_of_the_finished_result(prompt, model, history):
    path = store.result_path("pocket", model, page.source())
    if not path.exists():
        pytest.skip(f"{store.shown(path)} is missing; `nbh batch` measures it.")
    if sources.lacking(model, "pocket"):
        pytest.skip("the tuned lenses are missing; `nbh batch` trains them.")
    result = store.load(path)
    wanted = page.view(
        result, prompt.id, history, page.vocabulary(params.model_params(model).it, params.ROOT)
    )
    found = reading.explore(model, prompt, history=history, max_new_tokens=page.TOKENS)
    assert list(found["token_text"].values) == list(wanted["token_text"].values)
    for name in pictures.TITLES:
        ours, theirs = xr.align(found[name], wanted[name], join="exact", exclude=("token", "layer"))
        np.testing.assert_allclose(ours.transpose(*theirs.dims).values, theirs.values, atol=2e-3)
    assert (found["top1"].transpose(*wanted["top1"].dims).values == wanted["top1"].values).mean() > 0.999


def test_a_graft_of_the_own_mlps_changes_nothing(prompt):
    arm, plain = Arm("self", host="pt", change="self", layers=tuple(range(7, 12))), reading.PLAIN["pt"]
    found, wanted = (reading.lens_view(MODEL, prompt, each, "it", 8) for each in (arm, plain))
    xr.testing.assert_allclose(found, wanted)
    assert reading.reply(MODEL, prompt, arm, 8) == reading.reply(MODEL, prompt, plain, 8)


def test_a_late_graft_changes_late_layers_alone(prompt):
    plain, late = (
        reading.lens_view(MODEL, prompt, arm, "it", 8).sel(lens="raw")["entropy"]
        for arm in (reading.PLAIN["pt"], reading.grafted("pt", 9, 11))
    )
    np.testing.assert_allclose(late.sel(layer=slice(0, 8)), plain.sel(layer=slice(0, 8)), atol=1e-4)
    assert (abs(late - plain).sel(layer=slice(9, 11)).max("token") > 0.05).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": " \n"}, "The prompt is empty"),
        ({"text": "bread " * 400}, "exceed its context of 256: shorten"),
        ({"tokens": 25}, "A reply of 25 tokens cannot be shown: choose 1 to 24"),
        ({"tokens": 0}, "A reply of 0 tokens cannot be shown"),
        ({"pair": "llama_pockt"}, "there is no model 'llama_pockt'; did you mean 'llama_pocket'"),
        (
            {"host": "pt", "first": 3, "last": 12},
            "Layers 3 to 12 are no window of llama_pocket: it has layers 0 to 11",
        ),
        ({"history": "sft"}, "There is no reply of 'sft'"),
    ],
)
def test_an_error_is_one_sentence(change, message):
    with pytest.raises(ParameterError, match=message) as found:
        scene.scene(replace(State(MODEL, TEXT), **change))
    assert "\n" not in str(found.value)


def test_what_was_not_measured_is_said_and_the_rest_is_shown(bare):
    shown = scene.scene(State(MODEL, TEXT, lens="tuned", alpha=0.5, first=7, last=11))
    assert [panel["name"] for panel in shown.panels] == ["PT", "IT"] and "raw lens" in shown.said
    assert shown.notes == ["The result of llama_pocket is missing; run it."] * 2
    assert not scene.scene(State(MODEL, TEXT)).notes


def edited():
    """Return a state with a graft and a dose; skip where no direction was measured."""
    if lacks := sources.lacking(MODEL, "pocket"):
        pytest.skip(f"{' '.join(lacks.values())}")
    return State(MODEL, "What is a painter?", host="pt", first=7, last=11, alpha=0.25, token=4, layer=9)


def test_a_scene_holds_every_arm_and_its_address_brings_it_back():
    state = edited()
    shown = scene.scene(state)
    assert [panel["name"] for panel in shown.panels] == ["PT", "IT", "grafted", "scaled"]
    assert list(shown.replies)[2:] == [
        "grafted: PT with IT’s MLPs of layers 7–11",
        "scaled: IT, IT − PT direction × 0.25 at layers 7–11",
    ]
    again = scene.started(f"file:///book/explore.html#{shown.fragment}", State("qwen_pocket", "other"))
    assert replace(again, tokens=state.tokens) == state
    tree = address.numbers(shown.fragment)
    assert (
        tree["tokens"] == shown.tokens
        and tree["whos"]["IT"]["raw"]["kl_final_layer"] == shown.panels[1]["values"]
    )


def test_an_address_of_the_book_s_page_opens_its_prompt(prompt):
    found = scene.started(
        f"explore.html#pair=qwen_pocket&prompt={prompt.id}&history=pt&layer=3", State(MODEL, "other")
    )
    assert (found.pair, found.text, found.history, found.layer) == ("qwen_pocket", TEXT, "pt", 3)


@pytest.mark.parametrize("text", ["#data=abc", "#pair=a&token=x", "#data=%%%", "#window=7"])
def test_a_damaged_address_is_refused(text):
    with pytest.raises(ParameterError, match="This address cannot be read: copy the whole of it"):
        scene.started(text, State(MODEL, TEXT))


def test_the_curves_hold_one_token_of_every_arm_and_lens():
    shown = scene.scene(replace(edited(), measure="entropy"))
    rows = shown.curves["datasets"]["cells"]
    assert {row["who"] for row in rows} == {"PT", "IT", "grafted", "scaled"} and len(rows) == 4 * 2 * 12
    assert all(row["token"] == [4] for row in rows)
    shown_as = {each["name"]: each["value"] for each in shown.curves["params"]}
    assert shown_as == {
        "lens": "raw", "measure": "entropy", "at_token": 4, "at_layer": 9, "whos": ["PT", "IT", "grafted", "scaled"]
    }  # fmt: skip
    it = next(row for row in rows if (row["who"], row["lens"], row["layer"]) == ("IT", "raw", 9))
    assert it["entropy"] == [shown.panels[1]["values"][9][4]]


def test_words_are_shown_whole_and_blanks_are_seen():
    assert [pictures.word(text) for text in (" the", "\n\n", "  ", "a b")] == ["the", "↵↵", "␣", "a b"]


def test_a_slider_soon_has_its_picture():
    state = edited()
    scene.scene(state)  # loads the pair

    def took(changed):
        start = time.process_time()  # what other programs take does not count
        scene.scene(changed)
        return time.process_time() - start

    fresh = [
        took(replace(state, tokens=24, **change))
        for change in ({"alpha": -0.5}, {"first": 2}, {"alpha": 1.75})
    ]
    cached = [
        took(replace(state, tokens=24, **change)) for change in ({"alpha": -0.5}, {"first": 2}, {"token": 1})
    ]
    print({"fresh": [round(x, 3) for x in fresh], "cached": [round(x, 3) for x in cached]})
    assert max(fresh) < GENEROUS * FRESH and max(cached) < GENEROUS * CACHED


def test_the_notebook_is_committed_with_a_picture_and_without_widgets():
    book = json.loads((REPOSITORY / "notebooks/explore.ipynb").read_text())
    kinds = [
        {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        for cell in book["cells"]
    ]
    assert not any(notebooks.WIDGET in each for each in kinds) and "widgets" not in book["metadata"]
    assert any("vegalite" in kind for kind in kinds[-1])
    opening = "".join(book["cells"][0]["source"]).split("\n", 2)[2]
    assert (
        opening.count(". ") + opening.count(".\n") + opening.endswith(".") == 2
    )  # two sentences on what to try


def test_the_notebook_without_the_widgets_says_what_to_install(monkeypatch, capsys):
    from nbhelpers.run.explorer import desk

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert desk.opened(MODEL, TEXT) is None
    assert "needs ipywidgets; install it with `pip install --editable '.[lab]'`" in capsys.readouterr().out


def test_the_picture_is_of_the_view_that_opens_first(capsys, monkeypatch):
    from nbhelpers.run.explorer import desk

    drawn = []
    monkeypatch.setattr(desk, "display", lambda data, raw: drawn.append(data))
    desk.picture(MODEL, TEXT)
    shown = scene.scene(desk.opening(MODEL, TEXT, "pocket", ""))
    said = capsys.readouterr().out
    assert shown.said in said and all(text.strip() in said for text in shown.replies.values())
    assert drawn == [desk.charts.spec_renderer(shown.curves)]


def test_the_notebook_with_an_unknown_pair_says_so(capsys):
    from nbhelpers.run.explorer import desk

    assert desk.opened("llama_pockt", TEXT) is None
    assert capsys.readouterr().out.startswith("There is no model 'llama_pockt'; did you mean 'llama_pocket'?")


def test_a_refresh_saves_no_widget():
    shown = {
        "output_type": "display_data",
        "data": {notebooks.WIDGET: {"model_id": "1"}, "text/plain": "VBox()"},
    }
    said = {"output_type": "stream", "name": "stdout", "text": "Loading the pair.\n"}
    cells = [{"outputs": [said, shown]}, {"outputs": [said]}, {"cell_type": "markdown"}]
    notebooks.drop_widgets(cells)
    assert cells == [{"outputs": [said]}, {"outputs": [said]}, {"cell_type": "markdown"}]
