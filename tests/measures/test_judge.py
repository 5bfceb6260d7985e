"""What is judged where, what counts as missing, and how both orders of a comparison come back to the target."""

import numpy as np
import pytest
import xarray as xr

from nbhelpers.core.variables import lacking
from nbhelpers.measures import judge
from nbhelpers.measures.judge import (
    Item,
    JudgeError,
    Verdict,
    applies,
    classes,
    preferred,
    question_of,
    rated,
)
from nbhelpers.models.prompts import Prompt

KINDS = ("conversation", "harmful", "harmless", "easy")


class Said:
    """A judge that answers by a function of the item and remembers what it was asked."""

    def __init__(self, name, say):
        self.name, self.say, self.asked = name, say, []

    def __call__(self, items):
        self.asked += items
        return [Verdict(self.say(item)) for item in items]


def pairs(kinds=KINDS):
    return [
        (Prompt(f"p{i}", kind, f"Question: q{i}\nAnswer:", f"q{i}"), {"category": kind})
        for i, kind in enumerate(kinds)
    ]


def texts(rows, n=4):
    values = [[f"{row} {i}" for i in range(n)] for row in rows]
    coords = {"condition": list(rows), "prompt": [f"p{i}" for i in range(n)]}
    return xr.DataArray(np.array(values, dtype=object), dims=("condition", "prompt"), coords=coords)


def test_tasks_apply_where_they_make_sense():
    assert [kind for kind in KINDS if applies("g1", kind)] == list(KINDS)
    assert [kind for kind in KINDS if applies("g2", kind)] == ["conversation"]
    assert applies("pairwise_g2", "register") and not applies("pairwise_g2", "format")
    assert [kind for kind in KINDS if applies("s1", kind)] == ["harmful"]
    assert [kind for kind in KINDS if applies("s2", kind) and applies("pairwise_s2", kind)] == ["harmless"]
    with pytest.raises(JudgeError, match="no task 'g3'"):
        applies("g3", "easy")


def test_classes_of_the_two_safety_tasks():
    assert classes("s1") == ("refuses", "complies", "incoherent", "undecided")
    assert classes("s2") == ("answers", "refuses", "over_hedges", "does_not_engage", "undecided")
    with pytest.raises(JudgeError, match="'g1' has no classes"):
        classes("g1")


@pytest.mark.parametrize(
    "message, shown",
    [
        ("Who?\nAnswer:", "Who?"),
        ("Explain: tea\nResponse:", "Explain: tea"),
        ("Answer:", "Answer:"),
        ("An Answer: yes", "An Answer: yes"),
    ],
)
def test_a_judge_sees_no_open_label(message, shown):
    assert question_of(Prompt("a", "b", "text", message)) == shown


def test_ratings_stand_where_they_apply_and_missing_ones_are_counted():
    one = Said("one", lambda item: {"g1": 3, "g2": 5, "s1": 1, "s2": 4}[item.task])
    two = Said("two", lambda item: np.nan if item.task == "s2" else 1)
    found = rated([one, two], pairs(), texts(["A", "B"]))
    assert lacking({name: v.dims for name, v in found.variables.items()}, judge.VARIABLES) == []
    assert all({"units", "long_name"} <= found[name].attrs.keys() for name in judge.VARIABLES)
    of = found.rating.sel(judge="one", condition="B")
    assert of.sel(task="g1").values.tolist() == [3, 3, 3, 3]
    np.testing.assert_array_equal(of.sel(task="g2"), [5, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(of.sel(task="s1"), [np.nan, 1, np.nan, np.nan])
    np.testing.assert_array_equal(of.sel(task="s2"), [np.nan, np.nan, 4, np.nan])
    assert found.missing.sel(judge="one").sum() == 0
    assert found.missing.sel(judge="two", task="s2").values.tolist() == [[0, 0, 1, 0]] * 2
    assert found.missing.sel(judge="two").sum() == 2
    assert found.rating.sel(judge="two", task="s2").isnull().all()


def test_a_judge_reads_requests_and_replies_and_no_condition():
    one = Said("one", lambda item: 1)
    rated([one], pairs(), texts(["secret"]), tasks=["g1"])
    assert one.asked[0] == Item("g1", "q0", "secret 0")


def test_equal_replies_are_judged_once():
    one, text = Said("one", lambda item: 2), texts(["A", "B"])
    text[1] = text[0]
    found = rated([one], pairs(), text, tasks=["g1"])
    assert len(one.asked) == 4 and (found.rating == 2).all()


def test_prompts_in_any_order_of_dims_and_texts_as_fixed_strings():
    text = texts(["A", "B"]).astype(str).transpose("prompt", "condition")
    found = rated([Said("one", lambda item: float(item.reply[-1]) + 1)], pairs(), text, tasks=["g1"])
    assert found.rating.sel(condition="A", judge="one", task="g1").values.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "judges, given, match",
    [
        ([Said("one", lambda i: 1)], pairs()[:3], "3 prompts for replies to 4"),
        ([Said("one", lambda i: 1)], pairs()[::-1], "not those of the replies"),
        ([Said("one", lambda i: 1), Said("one", lambda i: 1)], pairs(), "two judges have one name"),
        ([Said("one", lambda i: 6)], pairs(), "one gave 6 for g1"),
        ([Said("one", lambda i: 2.5)], pairs(), "gave 2.5"),
    ],
)
def test_what_breaks_the_contract_is_refused(judges, given, match):
    with pytest.raises(JudgeError, match=match):
        rated(judges, given, texts(["A"]), tasks=["g1"])


def test_a_judge_that_skips_an_item_is_refused():
    short = Said("one", lambda i: 1)
    with pytest.raises(JudgeError, match="gave 0 verdicts on 4 items"):
        rated(
            [type("Short", (), {"name": "one", "__call__": lambda self, items: []})()],
            pairs(),
            texts(["A"]),
            tasks=["g1"],
        )
    assert short.asked == []


def test_a_preference_is_for_the_target_in_both_orders():
    """One judge that always likes "B", one that always likes what stands first."""
    fair = Said("fair", lambda item: 1 if item.reply[0] == "B" else -1)
    first = Said("first", lambda item: 1)
    found = preferred([fair, first], pairs(), texts(["A", "B"]), {"late": ("B", "A")})
    assert lacking({name: v.dims for name, v in found.variables.items()}, judge.PAIRWISE_VARIABLES) == []
    value = found.preference.sel(comparison="late", task="pairwise_g2", prompt="p0")
    assert value.sel(judge="fair").values.tolist() == [1, 1]
    assert value.sel(judge="first").values.tolist() == [1, -1]
    assert found.preference.notnull().sum() == 8  # two judges, two orders, one prompt of each task
    swaps = judge.order_swaps(found.preference)
    assert swaps.sel(judge="fair", task="pairwise_s2", comparison="late") == 0
    assert swaps.sel(judge="first", task="pairwise_s2", comparison="late") == 1


def test_a_missing_order_is_no_swap_and_an_unknown_condition_is_refused():
    half = Said("half", lambda item: 0 if item.reply[0] == "B" else np.nan)
    found = preferred([half], pairs(), texts(["A", "B"]), {"late": ("B", "A")})
    assert judge.order_swaps(found.preference).isnull().all()
    assert found.preference_missing.sum() == 2
    with pytest.raises(JudgeError, match="no condition 'C'"):
        preferred([half], pairs(), texts(["A"]), {"late": ("A", "C")})


def test_more_than_two_percent_missing_is_said_by_arm_and_none_judged_is_an_error():
    kinds = ["easy"] * 50

    def some(n, arm):
        return lambda item: np.nan if item.reply.startswith(arm) and int(item.reply.split()[1]) < n else 3

    def ask(say):
        return rated([Said("one", say)], pairs(kinds), texts(["A", "B"], 50))

    assert judge.complaints(ask(some(1, "B"))) == []  # 2 %
    (sentence,) = judge.complaints(ask(some(2, "B")))
    assert sentence == "one · g1 · B: 4.0% of 50 verdicts are missing"
    with pytest.raises(JudgeError, match="one · g1 · B: none of 50"):
        judge.complaints(ask(some(50, "B")))


def test_missing_preferences_are_counted_over_both_orders():
    half = Said("half", lambda item: 1 if item.reply[0] == "B" else np.nan)
    lines = judge.complaints(preferred([half], pairs(), texts(["A", "B"]), {"late": ("B", "A")}))
    assert lines == [
        "half · pairwise_g2 · late: 50.0% of 2 verdicts are missing",
        "half · pairwise_s2 · late: 50.0% of 2 verdicts are missing",
    ]
