"""The page that looks into a prompt: what it holds is what the results hold, prompts that nobody picked, in two charts."""

import json
import re

import numpy as np
import pytest

from nbhelpers.book import explore
from nbhelpers.core import params
from nbhelpers.run.explorer import pictures
from tests import synthetic

KEY = explore.source()


@pytest.fixture
def result(monkeypatch):
    """Return a made-up result, which every pair of the profile has for a test."""
    made = {f"{family}_pocket": synthetic.dataset(family, KEY, n_prompts=12) for family in synthetic.FAMILIES}
    monkeypatch.setattr(explore.experiments, "load", lambda profile, model, key: made[model])
    return made["llama_pocket"]


def spelled(index):
    """Return an id as a word."""
    return f" w{index}"


def test_prompts_are_taken_by_hash_one_of_each_category_first_and_none_harmful(result):
    kinds = np.array(["fact", "story", "harmful"] * 4)
    given = result.assign(category=("prompt", kinds))
    found = explore.chosen(given, 20)
    kind = dict(zip(given["prompt"].values, kinds))
    assert len(found) == 8 and {kind[name] for name in found} == {"fact", "story"}
    assert len({kind[name] for name in found[:2]}) == 2
    assert explore.chosen(given.isel(prompt=slice(None, None, -1)), 20) == found
    assert explore.chosen(given, 3) == found[:3]


def test_a_view_is_one_reply_of_the_result_cut_at_its_first_tokens(result, monkeypatch):
    monkeypatch.setattr(explore, "TOKENS", 2)
    prompt = result["prompt"].values[5]
    view = explore.view(result, prompt, "it", spelled)
    steps = np.flatnonzero(
        (result["prompt_index"] == 5) & (result["history"] == "it") & (result["token"] < 2)
    )
    assert list(view["token_text"].values) == [spelled(i) for i in result["token_id"].values[steps]]
    for name in (*pictures.TITLES, "top1"):
        wanted = result[name].isel(step=steps).transpose("variant", "lens", "layer", "step")
        assert (view[name].transpose("who", "lens", "layer", "token").values == wanted.values).all()
    assert view["top1_text"].sel(who="it", lens="tuned").values[3][1] == spelled(
        int(view["top1"].sel(who="it", lens="tuned").values[3][1])
    )


def test_the_page_holds_both_replies_of_every_pair(result):
    held = explore.views("pocket")
    assert list(held["pairs"]) == [f"{family}_pocket" for family in synthetic.FAMILIES]
    assert len(held["views"]) == 6 * explore.PROMPTS * 2
    view = held["views"][f"llama_pocket/{explore.chosen(result, 1)[0]}/pt"]
    assert list(view["whos"]) == ["PT", "IT"] and list(view["whos"]["PT"]) == ["raw", "tuned"]
    values = view["whos"]["IT"]["raw"]
    assert np.shape(values["entropy"]) == (12, len(view["tokens"])) == np.shape(values["top1"])
    assert set(view["texts"]) == {"PT", "IT"}


def test_a_deep_pair_brings_fewer_prompts(result, monkeypatch):
    monkeypatch.setattr(explore, "CELLS", 8 * explore.TOKENS * 12 * 2)
    assert len(explore.views("pocket")["views"]) == 6 * 2 * 2


def test_every_control_has_a_label_and_the_numbers_close_no_script(result):
    result["message"].values[:] = "</script><b>"
    text = explore.explorer("pocket")
    controls = re.findall(r"<label>(\w[\w ]*) <(?:select|input)[^>]* name=\"(\w+)\"", text)
    assert [name for _, name in controls] == [
        "pair",
        "prompt",
        "history",
        "lens",
        "measure",
        "token",
        "layer",
    ]
    assert text.count("</script>") == 1 and "<b>" not in text.partition("<script")[0]
    held = json.loads(re.search(r'id="explore-data">(.+)</script>', text)[1].replace("<\\/", "</"))
    assert held["pairs"]["llama_pocket"] == "Pocket Llama"


def test_without_a_tokenizer_an_id_is_shown(tmp_path):
    missing = params.model_params("llama_pocket").it.model_copy(update={"path": str(tmp_path)})
    assert explore.vocabulary(missing, tmp_path)(7) == "#7"
    assert explore.vocabulary(params.model_params("llama_pocket").it, params.ROOT)(7).strip()


def test_the_page_says_how_many_tokens_of_a_reply_it_shows():
    said = f"first {explore.TOKENS} tokens"
    text = (params.ROOT / "book/explore.md").read_text(encoding="utf-8")
    assert f"## Every layer at the {said}" in text and f"read the {said}" in text
    assert said in explore.charts()["explore_grid"].to_dict()["description"]


def test_the_charts_take_what_is_shown_as_parameters():
    for chart in explore.charts().values():
        spec = chart.to_dict()
        assert {each["name"]: each["value"] for each in spec["params"]} == pictures.SHOWN
        assert spec["description"] and spec["datasets"] == {"cells": []}
