"""Token classes displaced and supported, and rank gains, by hand and against loops."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core import schemas
from nbhelpers.core.depths import final_fifth
from nbhelpers.core.params import FAMILIES
from nbhelpers.experiments.exp13_token_support import measure as exp13_measure
from nbhelpers.experiments.exp13_token_support import support as exp13_support
from nbhelpers.measures import graft_shifts
from nbhelpers.models import conditions
from nbhelpers.models.token_classes import CLASSES, token_classes
from tests.experiments.test_exp11 import whole
from tests.grafted import case, made_up
from tests.models.test_interventions import pair
from tests.specs import complete

CONDITIONS = conditions.study_conditions(10)[:5]  # C, A', B_early, B_mid, B_late
SHAPE = ("lens", "basis", "condition", "layer", "step")


class Words:
    """A byte-level tokenizer of seven whole words."""

    words = ["Ġtower", "Ġthe", ".", "Ġhowever", "#", "<end>", "Ġriver"]
    kinds = ["content", "function", "punctuation", "discourse", "structural", "special", "content"]
    all_special_ids = [5]

    class backend_tokenizer:
        decoder = "ByteLevel"

    def convert_ids_to_tokens(self, ids):
        return [self.words[i] for i in ids]


def classes_of(ids):
    return [CLASSES[k] for k in token_classes(Words(), ids)]


def test_the_words_have_the_classes_that_the_tests_say():
    assert classes_of(range(7)) == Words.kinds


def late_steps(lengths, **assigned):
    """Made-up steps at ten layers, of which the last two are read, for assigning [condition, layer 8 and 9, step]."""
    steps = made_up(lengths, conditions=CONDITIONS).isel(lens=[0], basis=[0])
    for name, values in assigned.items():
        whole = steps[name].astype(float).values if name != "top1" else steps[name].values
        whole[0, 0, :, 8:] = values
        steps[name] = SHAPE, whole
    return steps


def test_replaced_tokens_by_hand():
    """Two prompts of two and one steps, layers 8 and 9; B_late alone differs from A', in three of its six cells."""
    base = [[0, 1, 6], [0, 0, 2]]
    top1 = np.array([base] * 5)
    top1[0] += 1  # C is a baseline: not compared
    top1[4] = [[0, 2, 0], [1, 0, 2]]  # function → punctuation; content → content; content → function
    steps = late_steps((2, 1), top1=top1)
    steps["token_id"] = "step", [6, 3, 0]
    found = exp13_support.replaced(steps, Words())
    assert found.sizes == {"condition": 3, "lens": 1, "displaced": 7, "supported": 7, "prompt": 2}
    assert found.sel(condition=["B_early", "B_mid"]).sum() == 0 and found.attrs["cells_per_step"] == 2
    late = found.sel(condition="B_late").squeeze("lens")
    assert int(late.sum()) == 3
    assert late.sel(displaced="function", supported="punctuation").values.tolist() == [1, 0]
    assert late.sel(displaced="content", supported="content").values.tolist() == [0, 1]
    assert late.sel(displaced="content", supported="function").values.tolist() == [1, 0]
    assert found.window.sel(condition="B_late") == "late"


def test_shares_by_hand_and_pooled():
    test = late_steps((2, 1), top1=[[[0, 1, 6], [0, 0, 2]]] * 4 + [[[0, 2, 0], [1, 0, 2]]])
    test["token_id"] = "step", [6, 3, 0]
    counts = exp13_support.replaced(test, Words()).sel(condition=["B_late"])
    found = exp13_support.shares(counts, n_resamples=200).squeeze(["condition", "lens"])
    value = found.value.to_series().unstack("role")
    assert value.loc["content"].round(6).to_dict() == {"displaced": 0.666667, "supported": 0.333333,
                                                       "change": -0.333333}  # fmt: skip
    assert value.loc["punctuation"].to_dict() == pytest.approx(
        {"displaced": 0, "supported": 1 / 3, "change": 1 / 3}
    )
    assert value[["displaced", "supported"]].sum().tolist() == pytest.approx([1, 1])
    assert (found.low <= found.value + 1e-9).all() and (found.high >= found.value - 1e-9).all()
    # Prompts of two families: sums, not means of shares.
    other = counts.isel(prompt=[1]).assign_coords(prompt=[7])
    pooled = exp13_support.shares(xr.concat([counts, other], "prompt"), n_resamples=50)
    content = pooled.value.sel(token_class="content", role="displaced").squeeze()
    assert float(content) == pytest.approx(3 / 4)


def test_groups_hold_every_class_once_and_keep_the_counts():
    assert sorted(kind for kinds in exp13_support.GROUPS.values() for kind in kinds) == sorted(CLASSES)
    rng = np.random.default_rng(0)
    dims = ("condition", "lens", "displaced", "supported", "prompt")
    coords = {"condition": ["B"], "lens": ["raw"], "displaced": list(CLASSES), "supported": list(CLASSES)}
    counts = xr.DataArray(rng.integers(0, 9, (1, 1, 7, 7, 4)), coords, dims)
    found = exp13_support.grouped(counts, "displaced", "supported")
    assert found.displaced.values.tolist() == list(exp13_support.GROUPS) and int(found.sum()) == int(
        counts.sum()
    )
    expected = counts.sel(displaced=["structural", "punctuation", "discourse"], supported="content").sum(
        "displaced"
    )
    assert (found.sel(displaced="format", supported="content") == expected).all()
    shares = exp13_support.shares(found, n_resamples=20)
    assert shares.token_class.values.tolist() == list(exp13_support.GROUPS)


def test_nothing_replaced_has_no_share():
    steps = late_steps((2, 2), top1=[[[0, 1, 2, 3], [0, 1, 2, 3]]] * 5)
    found = exp13_support.shares(exp13_support.replaced(steps, Words()), n_resamples=20)
    assert found.to_array().isnull().all()


def test_rank_gains_by_hand():
    """Layers 8 and 9; prompt 0: a function word, then two content words; prompt 1: a content word first."""
    rank = np.array([[[5, 4, 9, 2], [3, 4, 1, 2]]] * 5)
    rank[4] = [[9, 2, 9, 1], [9, 2, 1, 1]]
    steps = late_steps((3, 1), target_rank=rank, target_log_probability=-np.log(rank))
    function, content = CLASSES.index("function"), CLASSES.index("content")
    steps["token_class"] = "step", np.array([function, content, content, content], dtype="int8")
    found = exp13_support.rank_gains(steps).sel(condition="B_late").squeeze("lens")
    first, later = found.sel(part="first"), found.sel(part="later")
    one, two = first.sel(token_class="function"), later.sel(token_class="content")
    # Ranks 5 and 3 become 9 and 9; then 4, 4 become 2, 2 and 9, 1 stay.
    assert one.rank_gain.values[0] == -5 and np.isnan(one.rank_gain.values[1])
    assert one.log_rank_gain.values[0] == pytest.approx(np.log(5 / 9 * 3 / 9) / 2)
    assert one.rank_loss.values[0] == 1 and one.rank_win.values[0] == 0
    assert two.rank_gain.values[0] == 1 and two.log_rank_gain.values[0] == pytest.approx(np.log(2) / 2)
    assert two.rank_win.values[0] == 0.5 and two.rank_loss.values[0] == 0
    assert two.log_probability_gain.values[0] == pytest.approx(np.log(2) / 2)
    assert first.sel(token_class="content").rank_gain.values[1] == 1
    assert (
        found.n_steps.sel(part="later").values.sum() == 2
        and found.n_steps.sel(part="first").values.sum() == 2
    )
    assert exp13_support.rank_gains(steps).sel(condition="B_mid").rank_gain.fillna(0).values.any() == False  # noqa: E712


def test_gains_by_window_and_group():
    steps = made_up((4, 3, 5))
    gains = exp13_support.rank_gains(steps)
    window = graft_shifts.by_window(gains)
    np.testing.assert_array_equal(
        window.rank_gain.sel(side="necessity", window="mid"), gains.rank_gain.sel(condition="D_mid")
    )
    found = exp13_support.grouped_means(gains)
    rank = steps.target_rank.sel(basis="host", layer=[8, 9]).astype(float)
    gain = (rank.sel(condition="A'") - rank.sel(condition="B_mid")).mean("layer").sel(lens="tuned").values
    for group, kinds in exp13_support.GROUPS.items():
        for prompt in range(3):
            chosen = (steps.prompt_index == prompt) & (steps.token > 0)
            chosen = chosen.values & np.isin(
                steps.token_class.values, [CLASSES.index(kind) for kind in kinds]
            )
            ours = found.sel(token_class=group, part="later", condition="B_mid", lens="tuned", prompt=prompt)
            assert int(ours.n_steps) == chosen.sum()
            if chosen.any():
                assert float(ours.rank_gain) == pytest.approx(gain[chosen].mean())
            else:
                assert np.isnan(ours.rank_gain)


def test_late_wins_by_hand():
    """Ten layers, late from 8 on: first in front at layer 8; at 3 and again at 9; never."""
    steps = made_up((3,), conditions=CONDITIONS).isel(lens=[0], basis=[0])
    rank = np.full(steps.target_rank.shape, 5)
    rank[..., 8, 0] = rank[..., 3, 1] = rank[..., 9, 1] = 1
    steps["target_rank"] = SHAPE, rank
    steps["token_class"] = "step", np.full(3, CLASSES.index("content"), dtype="int8")
    found = exp13_support.late_wins(steps).sel(token_class="content", condition="C").squeeze()
    assert found.sel(part="first").late_win == 1 and found.sel(part="first").never == 0
    assert found.sel(part="later").late_win == 0 and found.sel(part="later").never == 0.5
    assert final_fifth(10).start == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_classed_where_they_would_stand(family):
    """Each token of a text, as a candidate for its own place, has the class it has at the end of the text so far."""
    tokenizer = pair(family).it.tokenizer
    ids = tokenizer(
        "The goat of Tovin is in the barn. However, it can't see: **figs**", add_special_tokens=False
    )
    ids = ids["input_ids"]
    steps = made_up((len(ids),), conditions=CONDITIONS)
    steps["token_id"] = "step", ids
    found = exp13_support.candidate_classes(tokenizer, steps, range(len(ids)), ids)
    expected = [token_classes(tokenizer, ids[: at + 1])[-1] for at in range(len(ids))]
    assert found.tolist() == expected
    # A word that the space before it sets off is one, in every family.
    the = tokenizer(" the", add_special_tokens=False)["input_ids"][-1]
    if tokenizer.decode([the]).strip() == "the":
        assert CLASSES[exp13_support.candidate_classes(tokenizer, steps, [4], [the])[0]] == "function"


def test_replies_in_order():
    steps = made_up((2, 3))
    steps["token_id"] = "step", [5, 6, 7, 8, 9]
    assert exp13_support.replies(steps) == {0: [5, 6], 1: [7, 8, 9]}


def test_token_support_of_real_steps():
    found, steps = whole()
    given = case("llama")
    made = exp13_measure.summarise(steps, given.pair.it.tokenizer, schemas.ExperimentParams(n_resamples=100))
    complete(made, "exp13")
    assert int(made.n_steps.sum()) == steps.sizes["step"] == sum(len(text.ids) for text in given.made)
    assert list(made.measured.values) == ["A'", "B_late", "C", "D_late", "pooled"]
    top = steps.top1.sel(basis="host", lens="raw").isel(layer=slice(9, None))
    changed = int((top.sel(condition="B_late") != top.sel(condition="A'")).sum())
    assert (
        int(made.replaced.sel(condition="B_late", lens="raw").sum()) == changed
        and int(made.cells_per_step) == 3
    )


def test_overlap_means_are_means_over_each_prompts_steps():
    _, steps = whole()
    made = exp13_measure.overlap_means(steps).candidate_overlap
    assert list(made.condition.values) == ["C", "A'", "B_late", "D_late"]
    assert (made.sel(condition=["C", "A'"]) == 1).all() and (made.sel(condition="B_late") < 1).any()
    for prompt in range(3):
        here = steps.candidate_overlap.isel(step=(steps.prompt_index == prompt).values)
        cells = here.sel(condition="D_late", lens="tuned", basis="host", layer=[9, 10, 11]).values.ravel()
        got = made.sel(condition="D_late", lens="tuned", prompt=prompt)
        assert float(got) == pytest.approx(sum(cells.tolist()) / cells.size, rel=1e-5)


def test_update_means_are_means_over_each_prompts_steps():
    _, steps = whole()
    made = exp13_measure.update_means(steps)
    for prompt in range(3):
        here = steps.cosine.isel(step=(steps.prompt_index == prompt).values).sel(
            condition="B_late", axis="anti_kl", layer=10
        )
        got = made.cosine.sel(condition="B_late", axis="anti_kl", layer=10, prompt=prompt)
        assert float(got) == pytest.approx(float(here.mean()), rel=1e-5)
    assert list(made.layer.values) == [9, 10, 11]


def test_classes_of_a_group_weigh_as_many_steps_as_they_have():
    """Punctuation with one step and a gain of 9, structure with two and a gain of 0; discourse has none."""
    steps = xr.DataArray(np.zeros((7, 1)), {"token_class": list(CLASSES)}, ("token_class", "prompt"))
    gain = steps.copy()
    steps.loc["punctuation"], steps.loc["structural"], gain.loc["punctuation"] = 1, 2, 9.0
    found = exp13_support.grouped_means(xr.Dataset({"rank_gain": gain.where(steps > 0), "n_steps": steps}))
    assert (
        found.rank_gain.sel(token_class="format").item() == 3 and found.n_steps.sel(token_class="format") == 3
    )
    assert found.rank_gain.sel(token_class="content").isnull().all()


def test_an_overlap_is_the_mean_over_the_final_fifth():
    steps = made_up((2, 1), conditions=CONDITIONS)
    late = xr.DataArray([0.25, 0.75], {"layer": [8, 9]}, ("layer",)).reindex(layer=steps.layer)
    known = steps.candidate_overlap.notnull()
    steps["candidate_overlap"] = (steps.candidate_overlap * 0 + late).where(known).transpose(*SHAPE)
    found = exp13_measure.overlap_means(steps.assign_attrs(n_layers=10)).candidate_overlap
    assert found.size and np.allclose(found, 0.5)
