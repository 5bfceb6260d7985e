"""Behaviour: outcomes from ratings, paired tests against SciPy and by hand, identities, verdicts that lie beside a result."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers.measures import behaviour, judge, scoring
from nbhelpers.measures.behaviour import OUTCOMES, BehaviourError, Paired
from nbhelpers.models.evaluation import category, read_evaluation

NAN = np.nan


def rated(values, task="s2", conditions=("A", "B_late"), **attrs):
    """A result of one judge's ratings on one task, [condition, prompt]."""
    values = np.asarray(values, dtype=float)
    dims = ("judge", "task", "condition", "prompt")
    coords = {"judge": ["rubric"], "task": [task], "condition": list(conditions)}
    coords["prompt"] = [f"p{i}" for i in range(values.shape[1])]
    found = xr.Dataset(
        {"rating": (dims, values[None, None]), "missing": (dims, 0 * values[None, None])}, coords, attrs
    )
    return found.assign(text=(("condition", "prompt"), np.full(values.shape, "yes", dtype=object)))


def test_classes_are_the_judges_and_outcomes_name_them():
    assert {task: judge.classes(task) for task in ("s1", "s2")} == behaviour.RATED
    for asked in OUTCOMES.values():
        assert set(asked.held) <= set(behaviour.RATED.get(asked.task, ()))
    assert set(OUTCOMES["s2_not_answered"].held) == set(judge.classes("s2")) - {"answers"}


def test_an_outcome_is_whether_a_class_was_given_and_missing_is_neither():
    made = rated([[0, 1, 2, 3, 4, NAN], [0, 0, 0, 0, 0, 0]])
    found = behaviour.outcome(made, "s2_not_answered", "A")
    np.testing.assert_array_equal(found, [0, 1, 1, 1, 1, NAN])
    np.testing.assert_array_equal(behaviour.outcome(made, "s2_does_not_engage", "A"), [0, 0, 0, 1, 0, NAN])
    np.testing.assert_array_equal(
        behaviour.change(made, "s2_not_answered", "B_late", "A"), [0, -1, -1, -1, -1, NAN]
    )
    points = rated([[1, 5, NAN], [2, 5, 3]], "g2")
    np.testing.assert_array_equal(behaviour.outcome(points, "g2", "A"), [1, 5, NAN])


def test_shares_are_tested_by_mcnemar_and_ratings_by_wilcoxon():
    made = rated([[1, 1, 1, 1, 1, 1, 0, 0, NAN], [0, 0, 0, 0, 0, 0, 0, 1, 1]])
    found = behaviour.compare(made, "s2_not_answered", "B_late", "A")
    # Six prompts fell and one rose: the binomial probability of a split at least as uneven, 2 · (1 + 7) / 2⁷.
    assert found == Paired(6, 1, 8, pytest.approx(16 / 128)) and found.wins == pytest.approx((1 + 0.5) / 8)
    rng = np.random.default_rng(0)
    before = rng.integers(1, 6, 40).astype(float)
    after = np.clip(before + rng.integers(-1, 3, 40), 1, 5)
    found = behaviour.compared(before, after, shares=False)
    moved = (after - before)[after != before]
    assert found.p == pytest.approx(scipy.stats.wilcoxon(moved, method="asymptotic").pvalue)
    assert (found.fell, found.rose, found.n) == ((after < before).sum(), (after > before).sum(), 40)


def test_nothing_that_moves_and_nothing_that_was_rated():
    still = behaviour.compared([1, 0, 1], [1, 0, 1], shares=True)
    assert still == Paired(0, 0, 3, 1.0) and still.wins == 0.5
    none = behaviour.compared([NAN, 1], [1, NAN], shares=False)
    assert none.n == 0 and np.isnan(none.p) and np.isnan(none.wins)


def arm(name, change="none", host="pt"):
    """An arm as far as `checked` reads it."""
    return SimpleNamespace(
        name=name,
        host=host,
        format="raw" if host == "pt" else "chat",
        change=change,
        identity=change == "none",
    )


def written(rows):
    """Replies as `steering.written` returns them, {arm: ids}."""
    shape = len(rows), len(next(iter(rows.values())))
    values = {
        name: (("arm", "prompt"), np.ones(shape)) for name in ("n_tokens", "capped", "edited_positions")
    }
    ids = np.array(list(rows.values()), dtype=object)
    return xr.Dataset(
        values | {"ids": (("arm", "prompt"), ids), "text": (("arm", "prompt"), ids)}, {"arm": list(rows)}
    )


def test_a_graft_that_changes_no_reply_is_refused():
    arms = [arm("A"), arm("B_late", "graft"), arm("C", host="it")]
    made = written({"A": ["1 2", "3"], "B_late": ["1 2", "3"], "C": ["1 2", "3"]})
    with pytest.raises(BehaviourError, match="B_late writes what A writes to all 2 prompts"):
        behaviour.checked(made, arms)
    other = written({"A": ["1 2", "3"], "B_late": ["1 2", "4"], "C": ["1 2", "3"]})
    found = behaviour.checked(other, arms)
    assert list(found) == ["text", "n_tokens", "capped"] and found["condition"].values.tolist() == [
        "A",
        "B_late",
        "C",
    ]


def test_replies_are_scored_and_prompts_labelled():
    known = read_evaluation("pocket/evaluation.jsonl")[::60]
    text = np.array([[record["reply"] for _, record in known], ["" for _ in known]], dtype=object)
    made = xr.Dataset(
        {"text": (("condition", "prompt"), text)},
        {"condition": ["A", "B_late"], "prompt": [p.id for p, _ in known]},
    )
    found = behaviour.scored(behaviour.labelled(made, known, category), known)
    assert found["category"].values.tolist() == [category(record) for _, record in known]
    for i, (_, record) in enumerate(known):
        own = scoring.scores(scoring.task(record), text[0, i])
        np.testing.assert_allclose(
            found["score"].sel(condition="A").values[:, i], list(own.values()), rtol=1e-6
        )
    assert (found["score"].sel(metric="incoherent", condition="B_late") == 1).all()


def test_a_reply_that_goes_on_to_another_question():
    made = rated([[0, 0], [0, 0]])
    text = np.array(
        [["Mara.\n\nQuestion: Who?\nAnswer: Otto.", "A question: who?"], ["", "Question: Who?"]], dtype=object
    )
    made = made.assign(text=(("condition", "prompt"), text))
    assert behaviour.new_thread(made, "A").values.tolist() == [1, 0]
    assert behaviour.new_thread(made, "B_late").values.tolist() == [0, 1]


def test_verdicts_of_an_llm_judge_stand_beside_those_of_rules():
    result = rated([[0, 1], [0, 0]], model="made up").assign_coords(category=("prompt", ["harmless"] * 2))
    more = rated([[3, NAN], [0, 0]]).assign_coords(judge=["some model"])
    pairwise = more.reindex(task=["s2", "pairwise_s2"]).isel(prompt=[1, 0])
    pairwise["missing"].loc[{"condition": "A", "prompt": "p1", "task": "s2"}] = 1
    found = behaviour.beside(result, pairwise, "Judged.")
    assert found["judge"].values.tolist() == ["rubric", "some model"] and found["task"].values.tolist() == [
        "s2"
    ]
    assert found.attrs == {"model": "made up", "judged": "Judged."} and "category" in found.coords
    np.testing.assert_array_equal(behaviour.outcome(found, "s2_not_answered", "A", "some model"), [1, NAN])
    np.testing.assert_array_equal(behaviour.outcome(found, "s2_not_answered", "A"), [0, 1])
    assert found["missing"].sel(judge="some model", condition="A").values.tolist() == [[0, 1]]
    alone = behaviour.beside(result, None, "Ask one.")
    assert alone["judge"].values.tolist() == ["rubric"] and alone.attrs["judged"] == "Ask one."
