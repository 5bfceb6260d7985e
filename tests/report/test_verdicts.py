"""Verdicts: signs by joint intervals, clauses and matrices on hand-worked cases; and the verdict of every experiment.

An experiment's verdict is tested on made-up results, on their opposite, on mixtures of both and on too few prompts.
"""

import inspect
import math
import re
from functools import cache, partial

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from nbhelpers import experiments
from nbhelpers.core import params, stats
from nbhelpers.report import verdicts
from nbhelpers.report.quantities import Quantity, levels, ratios, shifts
from nbhelpers.report.verdicts import DOWN, MISSING, OPEN, UP, Signs, Verdict
from tests import synthetic

NAMES = ("Ann", "Bob", "Cid", "Dot", "Eve", "Fay")


def pair(values, **attrs):
    """A dataset of one pair with a value per prompt."""
    return xr.Dataset({"v": ("prompt", np.asarray(values, dtype=float))}, attrs={"profile": "pocket"} | attrs)


def pairs(*values):
    """Datasets titled "Pocket Ann", "Pocket Bob", …."""
    return {f"Pocket {name}": pair(one) for name, one in zip(NAMES, values)}


def shift(dataset):
    """The value as a shift, "v"."""
    return shifts({"v": dataset.v}, "nats")


def around(centre, spread=0.1, n=20):
    """Values with a mean of exactly `centre` and some skew."""
    values = np.random.default_rng(3).gamma(2, spread, n)
    return values - values.mean() + centre


def scipy_ends(values, confidence):
    """SciPy's BCa interval of the mean."""
    found = scipy.stats.bootstrap(
        (np.asarray(values),), np.mean, n_resamples=10_000, confidence_level=confidence, method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def test_words_are_counted_and_marks_are_not():
    said = Verdict("No", "It grows by 0.10–0.18 nats in Gemma (not in Llama).", "", "≤ 3 % – or more.")
    assert str(said) == "**No.** It grows by 0.10–0.18 nats in Gemma (not in Llama). ≤ 3 % – or more."
    assert said.words == 14
    shown, metadata = said._repr_markdown_()
    assert shown == repr(said) == str(said)
    assert verdicts.Verdict(*metadata["verdict"]) == said


@pytest.mark.parametrize(("n", "confidence"), [(1, 0.95), (2, 0.975), (6, 1 - 0.05 / 6), (0, 0.95)])
def test_intervals_hold_jointly_by_bonferroni(n, confidence):
    assert verdicts.joint(dict.fromkeys(range(n))) == pytest.approx(confidence)


def test_a_value_that_clears_zero_alone_may_be_undecided_among_six():
    values = around(0)
    values = values - (scipy_ends(values, 0.95)[0] + scipy_ends(values, 1 - 0.05 / 6)[0]) / 2
    alone, six = scipy_ends(values, 0.95), scipy_ends(values, 1 - 0.05 / 6)
    assert alone[0] > 0 > six[0]
    for confidence, ends in ((0.95, alone), (1 - 0.05 / 6, six)):
        assert verdicts.bounds(shift(pair(values))["v"], confidence) == pytest.approx((values.mean(), *ends))
    assert verdicts.signs(pairs(values), shift, "v") == Signs(["Pocket Ann"], [], [])
    assert verdicts.signs(pairs(*[values] * 6), shift, "v").open == [f"Pocket {name}" for name in NAMES]


def test_signs_are_those_of_the_intervals():
    found = verdicts.signs(pairs(around(1), around(-1), around(0.001), around(2)), shift, "v")
    assert found == Signs(["Pocket Ann", "Pocket Dot"], ["Pocket Bob"], ["Pocket Cid"])


def test_prompts_without_a_value_are_left_out():
    values = np.concatenate([around(1), [np.nan] * 30])
    assert verdicts.bounds(shift(pair(values))["v"], 0.9) == pytest.approx((1, *scipy_ends(around(1), 0.9)))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_prompts_have_no_interval_and_no_sign(n):
    few = shift(pair([3.0] * n + [np.nan] * 9))["v"]
    point, low, high = verdicts.bounds(few, 0.95)
    assert math.isnan(low) and math.isnan(high) and (point == 3 if n else math.isnan(point))
    assert verdicts.mark(few, 0.95) == (OPEN if n else MISSING)
    assert verdicts.signs({"Ann": pair([3.0] * n)}, shift, "v").open == ["Ann"]


def test_five_prompts_are_enough():
    assert verdicts.mark(shift(pair([3.0, 3.1, 2.9, 3.0, 3.2]))["v"], 0.95) == UP


@pytest.mark.parametrize(
    ("low", "high", "mark"), [(0.1, 0.3, UP), (-0.3, -0.1, DOWN), (-0.1, 0.3, OPEN), (0.0, 0.3, OPEN)]
)
def test_an_interval_of_the_dataset_keeps_its_confidence(low, high, mark):
    quantity = levels({"r": stats.Interval(0.1, low, high)}, "1", centre=0.0)["r"]
    assert verdicts.bounds(quantity, 0.95) == verdicts.bounds(quantity, 0.999) == (0.1, low, high)
    assert verdicts.mark(quantity, 0.999) == mark


@pytest.mark.parametrize(("value", "mark"), [(0.9, DOWN), (1.0, OPEN), (1.2, UP), (math.nan, MISSING)])
def test_a_ratio_is_held_against_one(value, mark):
    assert verdicts.mark(ratios({"r": value})["r"], 0.95) == mark


def test_a_ratio_by_prompt_is_held_against_one():
    quantity = ratios({"r": pair(around(0.8, 0.05)).v})["r"]
    assert verdicts.mark(quantity, 0.95) == DOWN


def test_what_was_not_measured_is_open_in_signs_and_a_dash_in_a_matrix():
    results = pairs(around(1), around(1))
    source = {id(d): shift(d) if i else {} for i, d in enumerate(results.values())}
    look = lambda dataset: source[id(dataset)]  # noqa: E731
    assert verdicts.mark(None, 0.95) == MISSING
    assert verdicts.signs(results, look, "v") == Signs(["Pocket Bob"], [], ["Pocket Ann"])
    cells = verdicts.matrix(results, look, {"grows": "v"})
    assert cells.cells["grows"].tolist() == ["–", "▲ 1.00"] and cells.hints["grows"].iloc[0] == "not measured"


def test_pairs_are_named_by_their_profile():
    assert verdicts.noun(pairs([1], [1])) == params.profile_params("pocket").noun
    assert verdicts.noun({"A": pair([1], profile="made-up")}) == "pairs"
    assert verdicts.noun({"A": pair([1]), "B": pair([1], profile="laptop")}) == "pairs"


@pytest.mark.parametrize(
    ("titles", "called"),
    [
        (["Pocket Gemma", "Pocket Llama"], ["Gemma", "Llama"]),
        (["Pocket Gemma", "My pair"], ["Pocket Gemma", "My pair"]),
        (["Pocket Gemma"], ["Pocket Gemma"]),
        (["Gemma", "Llama"], ["Gemma", "Llama"]),
        (["Pocket Big Gemma", "Pocket"], ["Big Gemma", "Pocket"]),
    ],
)
def test_a_word_that_begins_all_titles_is_left_out(titles, called):
    assert list(verdicts.short(dict.fromkeys(titles)).values()) == called


WHERE = [
    ("", "in none of the six {}", "in none"),
    ("ABCDEF", "in all six {}", "in all six"),
    ("ABCDE", "in five of six {} (not in Fay)", "in five of six (not in Fay)"),
    ("ABC", "in three of six {} (not in Dot, Eve or Fay)", "in three of six (not in Dot, Eve or Fay)"),
    ("CF", "in two of six {} (Cid and Fay)", "in two of six (Cid and Fay)"),
    ("B", "in one of six {} (Bob)", "in one of six (Bob)"),
]


@pytest.mark.parametrize(("letters", "first", "again"), WHERE)
def test_where_something_holds(letters, first, again):
    results = pairs(*[[1]] * 6)
    names = [title for title in results if title.split()[1][0] in letters]
    assert verdicts.where(names, results) == first.format("pocket pairs")
    assert verdicts.where(names, results, again=True) == again
    told = verdicts.told(names, results, "it grows", "it shrinks")
    where = first.format("pocket pairs") if names else "in any of the six pocket pairs"
    assert told == f"{'it grows' if names else 'it shrinks'} {where}"


def test_both_of_two_and_a_single_pair():
    two, one = pairs([1], [1]), pairs([1])
    assert verdicts.where(list(two), two) == "in both pocket pairs"
    assert verdicts.where(list(one), one) == "in this pair" and verdicts.where([], one) == "not in this pair"
    assert verdicts.told(list(one), one, "it grows", "it does not") == "it grows"
    assert verdicts.told([], one, "it grows", "it does not") == "it does not"


@pytest.mark.parametrize(
    ("n", "word"),
    [(0, "no"), (1, "hardly"), (2, "hardly"), (3, "in part"), (4, "mostly"), (5, "mostly"), (6, "yes")],
)
def test_the_answer_follows_the_share_of_pairs(n, word):
    assert verdicts.degree(NAMES[:n], NAMES) == word


@pytest.mark.parametrize(
    ("values", "signed", "text"),
    [
        ((0.101, 0.181, 0.15), False, "0.10–0.18"), ((-0.2, 0.1), False, "−0.20 to 0.10"),
        ((-0.04, 0.09), True, "−0.04 to +0.09"), ((0.0, 0.09), True, "0.00 to +0.09"), ((0.101, 0.104), False, "0.10"),
        ((0.3,), True, "+0.30"), ((math.nan,), False, "–"), ((math.nan, 0.2), False, "0.20"),
    ],
)  # fmt: skip
def test_the_span_over_pairs(values, signed, text):
    results = pairs(*[[value] for value in values])
    assert verdicts.span(results, shift, "v", signed=signed) == text
    assert verdicts.span(results, lambda d: {}, "v") == MISSING


def test_a_part_of_the_results_keeps_their_order():
    results = pairs([1], [2], [3])
    assert list(verdicts.of(results, ["Pocket Cid", "Pocket Ann"])) == ["Pocket Ann", "Pocket Cid"]
    assert (
        verdicts.listing(["Ann"]) == "Ann"
        and verdicts.listing(["Ann", "Bob", "Cid"], "or") == "Ann, Bob or Cid"
    )


def test_a_matrix_holds_marks_values_and_intervals():
    values = around(0.3)
    found = verdicts.matrix(pairs(values, -values), shift, {"<b> grows": "v"})
    low, high = scipy_ends(values, 0.975)
    assert found.cells["<b> grows"].tolist() == ["▲ 0.30", "▼ −0.30"]
    assert found.hints["<b> grows"].iloc[0] == f"0.300 [{low:.3f}, {high:.3f}] nats"
    page = found._repr_html_()
    assert "<b>" not in page and "&lt;b&gt; grows</th>" in page and page.count("<tr>") == 3
    assert f'<td title="0.300 [{low:.3f}, {high:.3f}] nats">▲ 0.30</td>' in page
    assert '<th scope="row">Pocket Ann</th>' in page and found.note == verdicts.JOINT
    assert repr(found) == found.cells.to_string()
    assert verdicts.matrix(pairs(values), shift, {"grows": "v"}).note == verdicts.ALONE


def test_a_matrix_says_what_has_no_interval_and_what_is_not_held_against_zero():
    def source(dataset):
        layers = Quantity(float(dataset.v.sum()), "layers", "level", 2.0)
        return shift(dataset) | {"apart": layers, "rules": Quantity(4.0, "rules", "level", 0.0)}

    found = verdicts.matrix(pairs([1.0, 2.0], [1.0, 1.0]), source, {"layers apart": "apart", "none": "rules"})
    assert (
        found.cells["layers apart"].tolist() == ["▲ 3", "· 2"] and found.cells["none"].tolist() == ["▲ 4"] * 2
    )
    assert "these numbers have no interval" in found.note and "interval that holds" not in found.note
    assert "“layers apart” is held against 2 instead of zero." in found.note and "“none”" not in found.note
    both = verdicts.matrix(pairs(around(1)), source, {"grows": "v", "none": "rules"})
    assert both.note.startswith(verdicts.ALONE) and both.note.endswith("marked by the value alone: none.")
    assert both.hints["none"].tolist() == ["4.000 rules, no interval"]
    many = verdicts.matrix(
        pairs([0.55], [0.68], [0.6]),
        lambda d: levels({"halves": 0.9}, "cosine", centre=float(d.v[0])),
        {"halves": "halves"},
    )
    assert "“halves” is held against 0.55–0.68, by pair, instead of zero." in many.note


# Every experiment


def exchanged(d):
    """PT and IT in each other's place."""
    return d.assign_coords(variant=["it", "pt"])


def negated(*names):
    """A function that turns the signs of variables."""
    return lambda d: d.assign({name: -d[name] for name in names})


def upside_down(d):
    """The stack the other way round, and correlations of the other sign."""
    turned = d.isel(layer=slice(None, None, -1)).assign_coords(layer=d.layer.values)
    return turned.assign(fit=-d.fit, fit_low=-d.fit_high, fit_high=-d.fit_low)


def alike(d):
    """Cosines of the other sign, kinds of prompts alike."""
    return negated("delta_cosine", "template_shift")(d).assign(p_layers=d.p_layers * 0 + 0.5)


def no_onset(d):
    """No rule that finds an onset."""
    return d.assign(onset=d.onset * 0 - 1, found_exchanged=d.found_exchanged * 0)


def worse_lenses(d):
    """Raw and tuned lens in each other's place, the gate missed."""
    return d.assign_coords(lens=["tuned", "raw"]).assign(gate=~d.gate)


def a_third_stands_out(d):
    """PT and IT in each other's place, and at a third of the depth the largest contrast of all windows."""
    return exchanged(d).assign(p_window=d.p_window * 0 + 0.1)


def replaced_back(d):
    """The tokens brought are those that were taken away, and the reply's own token loses."""
    back = d.replaced.rename(displaced="supported", supported="displaced").transpose(*d.replaced.dims)
    return d.assign(replaced=back, log_rank_gain=-d.log_rank_gain)


OPPOSITE = {
    "exp01": upside_down, "exp02": alike, "exp04": a_third_stands_out, "exp07_0g": worse_lenses, "exp07_0j": no_onset,
    "exp11": negated("kl_layer_final", "kl_layer_teacher"), "exp13": replaced_back,
    "exp14": lambda d: negated("shift")(d).assign(strongest=0 * d.strongest),
}  # fmt: skip
KEYS = [
    key for key in params.ordered()
    if inspect.signature(experiments.part(key, "report").verdict).return_annotation is Verdict
]  # fmt: skip
TRAPS = (
    "  ", " .", " ,", " ;", "..", ",.", ";.", ",;", ".;", "nan", "None", "none of the one", "all one ", "of one", "{", "}",
    "famil", "holds zero", " is is ", "in in ", "()", "( ", " )",
)  # fmt: skip
ALONE_TRAPS = (
    "in all",
    "in any",
    "in none.",
    "in none,",
    "in none;",
    "in both",
    "in this pair",
    " pairs",
    "jointly",
    "every pair",
    "in each",
)


@cache
def made(key, n_prompts=12):
    """Made-up results titled "Pocket Gemma", …, with content words brought more often than taken away."""
    results = {f"Pocket {t}": d for t, d in synthetic.results(key, n_prompts=n_prompts).items()}
    if key == "exp13":
        results = {title: content_brought(d) for title, d in results.items()}
    return results


def content_brought(d):
    """More content words among the tokens brought."""
    counts = d.replaced.copy(deep=True)
    counts.loc[{"supported": "content"}] = counts.sel(supported="content") + 20
    return d.assign(replaced=counts)


def opposite(key, results, titles=None):
    """Results of which some, or all, say the opposite."""
    turn = OPPOSITE.get(key) or synthetic.own(key, "opposite") or exchanged
    return {t: turn(d) if titles is None or t in titles else d for t, d in results.items()}


def cases(key):
    """{name: results}: as made, reversed, mixed one to five and three to three, two pairs, one, and too few prompts."""
    whole = made(key)
    titles = list(whole)
    one = titles[1]
    return {
        "as made": whole,
        "reversed": opposite(key, whole),
        "one differs": opposite(key, whole, titles[2:3]),
        "three differ": opposite(key, whole, titles[::2]),
        "two pairs": {t: whole[t] for t in titles[:2]},
        "two that differ": opposite(key, {t: whole[t] for t in titles[:2]}, titles[:1]),
        "one pair": {one: whole[one]},
        "one pair reversed": opposite(key, {one: whole[one]}),
        "few prompts": made(key, 4),
        "one pair of few prompts": {one: made(key, 4)[one]},
    }


def wording(verdict):
    """A verdict's words without its numbers."""
    return re.sub(r"[−+]?\d[\d.,–]*", "#", str(verdict))


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_verdict_reads_well_on_any_results(key, monkeypatch):
    monkeypatch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
    report = experiments.part(key, "report")
    for name, results in cases(key).items():
        verdict, where = report.verdict(results), f"{key}, {name}"
        text = str(verdict)
        assert verdict.words <= verdicts.LONGEST, f"{where}: {verdict.words} words: {text}"
        assert verdict.answer and not verdict.answer.endswith("."), where
        for part in filter(None, (verdict.size, verdict.exception, verdict.caveat)):
            assert (
                part == part.strip() and part.endswith(".") and (part[0].isupper() or not part[0].isalpha())
            ), (where, part)
        assert verdict.size and (verdict.exception or verdict.caveat), where
        traps = [trap for trap in TRAPS + (ALONE_TRAPS if len(results) == 1 else ()) if trap in text]
        assert not traps, f"{where}: {traps} in {text}"
        assert text.count("(") == text.count(")") and not re.search(r"-\d|\d%|\. [a-z]", text), (
            f"{where}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_verdict_says_something_else_of_the_opposite(key, monkeypatch):
    monkeypatch.setattr(stats, "bca_mean", partial(stats.bca_mean, n_resamples=200))
    say = experiments.part(key, "report").verdict
    found = cases(key)
    for one, other in (
        ("as made", "reversed"),
        ("one pair", "one pair reversed"),
        ("as made", "one differs"),
    ):
        assert wording(say(found[one])) != wording(say(found[other])), f"{key}: {one}, {other}"
    assert say(found["as made"]).answer != say(found["reversed"]).answer, key


@pytest.mark.parametrize("key", KEYS)
def test_a_matrix_has_the_quantities_that_it_names(key):
    report, source = experiments.part(key, "report"), experiments.part(key, "quantities").quantities
    results = {title: d for title, d in list(made(key).items())[:1]}
    assert 2 <= len(report.MATRIX) <= 6 and all(len(heading) <= 45 for heading in report.MATRIX)
    assert not set(report.MATRIX.values()) - set(source(*results.values()))
    of = getattr(report, "matrix", lambda found: verdicts.matrix(found, source, report.MATRIX))
    found = of(results)
    assert list(found.cells) == list(report.MATRIX) and found.cells.index.tolist() == list(results)
    for text in found.cells.to_numpy().ravel():
        assert re.fullmatch(r"[▲▼·] −?\d+(\.\d\d)?|–", text), text
