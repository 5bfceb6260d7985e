"""The verdicts of exp00 to exp04: on results built so that the answer is known, in sentences that one can read."""

import json
import re
from functools import cache

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binom

from nbhelpers import experiments
from nbhelpers.experiments.exp01_narrowing.quantities import BAR
from nbhelpers.report import verdicts
from nbhelpers.report.quantities import kept
from tests import synthetic

N = 24  # prompts of a made-up pair
KEYS = ("exp00", "exp01", "exp02", "exp03", "exp04")
LACKS = {
    "exp00": ("neurons", "attention", "weights"), "exp01": ("neurons",), "exp02": ("weights",), "exp03": ("neurons",),
    "exp04": ("attention",),
}  # fmt: skip


@cache
def _made(key):
    return {f"Pocket {t}": d for t, d in synthetic.results(key, n_prompts=N).items()}


def made(key):
    """Six made-up pairs, by the titles that pages show."""
    return dict(_made(key))


def exchanged(d):
    """PT and IT in each other's place."""
    return d.assign_coords(variant=["it", "pt"])


def reversed_layers(d):
    """The stack upside down, and attribution falling with breadth."""
    turned = d.isel(layer=slice(None, None, -1)).assign_coords(layer=d.layer.values)
    return turned.assign(fit=-d.fit, fit_low=-d.fit_high, fit_high=-d.fit_low)


def negated(d):
    """Every cosine the other way round, and kinds of prompts alike."""
    return d.assign(
        delta_cosine=-d.delta_cosine, template_shift=-d.template_shift, p_layers=d.p_layers * 0 + 0.5
    )


OPPOSITE = {
    "exp00": exchanged,
    "exp01": reversed_layers,
    "exp02": negated,
    "exp03": exchanged,
    "exp04": exchanged,
}


def alike(d, dim, *likes):
    """The same values for every entry of `likes`, each moved along by a row of `dim`: differences of mean zero."""
    for like in likes:
        for name, values in d.data_vars.items():
            if {like, dim} <= set(values.dims):
                first = values.isel({like: 0}, drop=True)
                moved = [first.roll({dim: i}) for i in range(values.sizes[like])]
                d = d.assign({name: xr.concat(moved, like).assign_coords({like: d[like]})})
    return d


def undecided(key, d):
    """The dataset with every difference that a verdict is about of mean zero."""
    if key == "exp00":
        sign = xr.DataArray(np.where(np.arange(N) % 2, 1, -1), dims="prompt")
        return d.assign(
            n_tokens=d.n_tokens.isel(variant=0)
            + 0 * d.n_tokens
            + sign * d.variant.to_numpy().searchsorted("it")
        )
    if key == "exp01":
        either = d.assign(fit_low=d.fit * 0 - 1, fit_high=d.fit * 0 + 1)
        sign = xr.DataArray(np.where(np.arange(N) % 2, 1.0, -1.0), dims="prompt")
        breadth = d.update_n90.isel(layer=0) + d.layer * sign
        return alike(either, "prompt", "layer").assign(update_n90=breadth)
    return alike(d, "prompt", *{"exp02": ("condition",), "exp03": ("variant", "history")}[key])


def said(key, results):
    """Return the verdict's text, after seeing to what any verdict must be."""
    verdict = experiments.part(key, "report").verdict(results)
    text = str(verdict)
    assert isinstance(verdict, verdicts.Verdict) and verdict.answer and verdict.size
    assert verdict.words <= verdicts.LONGEST
    assert text.startswith("**") and text.endswith(".") and text.count("(") == text.count(")")
    assert not re.search(
        r"  | \.| ,|nan|-\d|\d%|[,;:.]{2}|\{|\}|famil|–\s|in none of the one", text.replace("…", "")
    )
    assert all(
        part[0].isupper()
        for part in (verdict.answer, verdict.size, verdict.exception, verdict.caveat)
        if part
    )
    if len(results) == 1:
        assert not re.search(r"\bpairs?\b|\ball\b|\bof one\b|\bin one\b", text)
    return text


@cache
def cases(key):
    """Results of every direction: as made, the other way round, one pair otherwise, half of them, two pairs, one."""
    results = made(key)
    other = {t: OPPOSITE[key](d) for t, d in results.items()}
    titles = list(results)
    found = [
        results,
        other,
        results | {titles[2]: other[titles[2]]},
        results | {t: other[t] for t in titles[:3]},
    ]
    for of in (results, other):
        found += [{t: of[t] for t in titles[:2]}, {titles[1]: of[titles[1]]}]
    return found


@pytest.mark.parametrize("key", KEYS)
def test_a_verdict_reads_well_whatever_the_results(key):
    texts = [said(key, results) for results in cases(key)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("key", LACKS)
def test_a_verdict_says_what_was_not_measured_and_stays_short(key):
    for results in cases(key):
        title, note = list(results)[-1], json.dumps(dict.fromkeys(LACKS[key], "none known"))
        text = said(key, results | {title: results[title].assign_attrs(not_measured=note)})
        assert all(f"Not measured: {part} (" in text for part in LACKS[key])


@pytest.mark.parametrize(
    ("key", "phrases"),
    [
        ("exp00", ("**PT writes more; IT is surer of its words.**", "shorter than PT's (8) in all six pocket pairs.")),
        ("exp01", ("**Predictions narrow, updates broaden, broad neurons gain.**", "fewer tokens than its middle",
                   "reach more with depth in all six.", "above the study's bar (0.1) in all six.")),
        ("exp02", ("**Yes, with the chat template or without it.**", "in all six pocket pairs under IT's template, in six",
                   "below PT's in all six, template or not.")),
        ("exp03", ("**Yes; ", "more than PT's in all six pocket pairs; when both read IT's text, more in six (tuned",
                   "layers later in IT; when both read IT's text,", "later in all six.")),
        ("exp04", ("**No.**", "in none of 48 profiles over layers (by chance, about five)",
                   "IT's late dimension is higher in all six, with each model's own prompts and with plain text.")),
    ],
)  # fmt: skip
def test_six_pairs_as_made(key, phrases):
    text = said(key, made(key))
    assert [phrase for phrase in phrases if phrase not in text] == []


@pytest.mark.parametrize(
    ("key", "phrases"),
    [
        ("exp00", ("**IT writes more; PT is surer of its words.**", "longer than PT's (3) in all six pocket pairs.",
                   "less sure than PT's")),
        ("exp01", ("**Predictions widen, updates narrow, broad neurons gain nothing.**", "more tokens than its middle",
                   "reach fewer with depth in all six.", "below the study's bar (0.1) in all six.")),
        ("exp02", ("**No, with the chat template or without it.**", "do not surely differ in δ-cosine in any of the six",
                   "above PT's in all six, template or not.")),
        ("exp03", ("**No; ", "less than PT's in all six pocket pairs; when both read IT's text, less in six",
                   "layers earlier in IT; when both read IT's text,", "earlier in all six.")),
        ("exp04", ("higher in none of six, with each model's own prompts and with plain text.",)),
    ],
)  # fmt: skip
def test_six_pairs_the_other_way_round(key, phrases):
    text = said(key, {title: OPPOSITE[key](d) for title, d in made(key).items()})
    assert [phrase for phrase in phrases if phrase not in text] == []


@pytest.mark.parametrize(
    ("key", "phrase"),
    [
        ("exp00", "**Either may write more; IT is surer of its words.** Whether IT's texts ("),
        ("exp01", "**Predictions may narrow, updates may not, broad neurons may gain.**"),
        ("exp02", "Whether IT's late δ-cosines differ from PT's is undecided"),
        ("exp03", "**Undecided; "),
    ],
)
def test_differences_around_zero_are_undecided(key, phrase):
    results = {title: undecided(key, d) for title, d in made(key).items()}
    text = said(key, results)
    assert phrase in text and "undecided in all six" in text
    alone = said(key, {"Pocket Llama": results["Pocket Llama"]})
    assert phrase in alone and "undecided" in alone


@pytest.mark.parametrize("key", KEYS)
def test_a_matrix_shows_signs_of_what_the_slice_has(key):
    results, report = made(key), experiments.part(key, "report")
    source = experiments.part(key, "quantities").quantities
    table = verdicts.matrix(results, source, report.MATRIX)
    assert 3 <= len(report.MATRIX) <= 6 and set(report.MATRIX.values()) <= set(
        kept(source, results["Pocket Llama"])
    )
    assert not table.cells.isin([verdicts.MISSING]).any(axis=None)
    assert ("marked by the value alone: TwoNN, own prompts" in table.note) == (key == "exp04")
    for title in results:  # a pair's row and its verdict rest on the same signs
        assert list(table.cells.loc[title].str[0]) == [
            verdicts.mark(kept(source, results[title])[name], verdicts.joint(results))
            for name in report.MATRIX.values()
        ]


def test_agreement_is_told_by_whose_text_it_is():
    """Both models expect the same token on PT's text, and another on IT's."""
    d = made("exp00")["Pocket Llama"]
    last = d.top1.isel(layer=-1).sel(lens="raw", variant="pt", drop=True)
    top = d.top1.copy(deep=True)
    top.loc[{"variant": "it", "lens": "raw", "layer": d.layer[-1]}] = xr.where(
        d.history == "pt", last, last + 1
    )
    results = {"Pocket Llama": d.assign(top1=top)}
    assert "both expect the same token at 100 % of positions in PT's, 0 % in IT's." in said("exp00", results)
    source = experiments.part("exp00", "quantities").quantities
    moved = source(results["Pocket Llama"])["same_top1_on_it_less_pt"].values
    np.testing.assert_array_equal(moved.dropna("prompt"), -1)


@pytest.mark.parametrize(
    ("r", "reach", "answer", "clause"),
    [
        (0.05, 0.01, "gain little", "correlate at 0.05 (most attributed neurons), below the study's bar (0.1)."),
        (0.2, 0.01, "gain", "correlate at 0.20 (most attributed neurons), above the study's bar (0.1)."),
        (0.11, 0.02, "may gain", "correlate at 0.11 (most attributed neurons); passing the study's bar (0.1) is undecided."),
        (-0.2, 0.01, "gain nothing", "correlate at −0.20 (most attributed neurons), below the study's bar (0.1)."),
        (0.0, 0.02, "gain nothing", "correlate at 0.00 (most attributed neurons), below the study's bar (0.1)."),
    ],
)  # fmt: skip
def test_breadth_is_held_against_the_study_s_own_bar(r, reach, answer, clause):
    d = made("exp01")["Pocket Qwen"]
    fits = {"fit": d.fit * 0 + r, "fit_low": d.fit * 0 + r - reach, "fit_high": d.fit * 0 + r + reach}
    text = said("exp01", {"Pocket Qwen": d.assign(fits)})
    assert f"broad neurons {answer}.**" in text and text.endswith(clause)


def test_the_bar_is_taken_off_r_and_its_interval():
    d = made("exp01")["Pocket Qwen"]
    found = experiments.part("exp01", "quantities").quantities(d)
    r, over = (found[f"attribution_{name}.random.pt"].values for name in ("pearson", "over_bar"))
    assert pytest.approx(over) == [end - BAR for end in r] and BAR == 0.1


def conditions(results, **p):
    """Results with given p-values of the δ-cosine by condition, one for each pair."""
    names = {"pt": "PT", "it": "IT", "it_plain": "IT without template"}
    changed = {}
    for i, (title, d) in enumerate(results.items()):
        d = d.copy(deep=True)
        for v, values in p.items():
            d["p_layers"].loc[{"condition": names[v], "measure": "delta_cosine"}] = values[i]
        changed[title] = d
    return changed


def test_kinds_of_prompts_are_counted_for_each_condition():
    few, none = [0.001] * 5 + [0.4], [0.4] * 6
    text = said("exp02", conditions(made("exp02"), it=few, it_plain=[0.001, *none[1:]], pt=none))
    assert text.startswith(
        "**With the chat template, mostly; without it, hardly.** Prompt kinds differ in δ-cosine in five of six"
    )
    assert "under IT's template, in one without it, none in PT." in text


def test_counts_of_kinds_are_corrected_over_the_pairs_of_a_condition():
    """Of p = 0.03, 0.04 and 0.5, none stays below 0.05 in six pairs by Holm; 0.008 does, and 0.03 does alone."""
    report, p = experiments.part("exp02", "report"), [0.03, 0.04, 0.5, 0.5, 0.5, 0.5]
    results = conditions(made("exp02"), it=p, it_plain=[0.008, *p[1:]], pt=p)
    differ = {v: report.kinds_differ(results, "delta_cosine", v) for v in ("it", "it_plain", "pt")}
    assert differ == {"it": [], "it_plain": ["Pocket Gemma"], "pt": []}
    alone = {"Pocket Gemma": results["Pocket Gemma"]}
    assert report.kinds_differ(alone, "delta_cosine", "it") == ["Pocket Gemma"]
    text = said("exp02", alone)
    assert "Prompt kinds differ in δ-cosine under IT's template, without it and in PT." in text


def cosines(results, **levels):
    """Results with given mean δ-cosines by condition, one for each pair, and a little noise."""
    names, changed = {"pt": "PT", "it": "IT", "it_plain": "IT without template"}, {}
    for i, (title, d) in enumerate(results.items()):
        d = d.copy(deep=True)
        noise = np.random.default_rng(i).normal(0, 0.01, d.delta_cosine.sel(condition="PT").shape)
        for v, values in levels.items():
            d["delta_cosine"].loc[{"condition": names[v]}] = values[i] + noise
        changed[title] = d
    return changed


def test_a_lower_cosine_opposes_the_stream_only_below_zero():
    pt, above = [0.3] * 6, [0.1] * 6
    text = said("exp02", cosines(made("exp02"), pt=pt, it=above, it_plain=above))
    assert "lie 0.20 below PT's in all six, template or not." in text
    assert "IT's updates surely oppose the stream (cosine below zero) in none, either way." in text
    text = said("exp02", cosines(made("exp02"), pt=pt, it=[-0.1, -0.2, *above[2:]], it_plain=above))
    assert "oppose the stream (cosine below zero) in two with template, in none without." in text
    alone = {"Pocket Llama": cosines(made("exp02"), pt=pt, it=[-0.1] * 6, it_plain=above)["Pocket Llama"]}
    assert said("exp02", alone).endswith(
        "oppose the stream (cosine below zero) with the template, not without."
    )


def test_late_cosines_that_need_the_template_are_told_apart():
    results = cosines(made("exp02"), pt=[0.3] * 6, it=[0.1] * 6, it_plain=[0.4] * 6)
    clause = experiments.part("exp02", "report").lower(results, 2)
    assert (
        clause
        == "IT's late δ-cosines lie 0.20 below PT's with the template in all six; without it, 0.10 above in all six"
    )


def test_revision_on_one_text_is_told_through_both_lenses():
    """IT revises more on its own text; on IT's text too through the raw lens, less through the tuned one."""
    d = made("exp03")["Pocket Gemma"]
    kl = d.phase_kl_adjacent.copy(deep=True)
    at = {"variant": "it", "history": "it"}
    base = kl.sel(variant="pt", history="it", drop=True)
    kl.loc[at | {"lens": "raw"}] = base.sel(lens="raw") + 3
    kl.loc[at | {"lens": "tuned"}] = base.sel(lens="tuned") - 3
    results = {"Pocket Gemma": d.assign(phase_kl_adjacent=kl)}
    assert "more than PT's; when both read IT's text, more (tuned lens: less)." in said("exp03", results)
    found = experiments.part("exp03", "quantities").quantities(results["Pocket Gemma"])
    np.testing.assert_allclose(found["matched_revision_shift.raw.it"].values, 3)
    np.testing.assert_allclose(found["matched_revision_shift.tuned.it"].values, -3)
    of_pt = kl.sel(phase="corrective", lens="raw", history="pt")
    wanted = of_pt.sel(variant="it").values - of_pt.sel(variant="pt").values
    np.testing.assert_allclose(found["matched_revision_shift.raw.pt"].values, wanted)


def test_an_unknown_share_of_structural_tokens_is_left_out():
    d = made("exp03")["Pocket Gemma"]
    assert said("exp03", {"Pocket Gemma": d.assign(late_mind_change=d.late_mind_change * 0)}).startswith(
        "**Yes.**"
    )
    only = d.late_mind_change * 0 + (d.token_class == "structural")
    assert said("exp03", {"Pocket Gemma": d.assign(late_mind_change=only)}).startswith(
        "**Yes; 100 % of IT's late changes end on structural tokens.**"
    )


def test_a_delay_that_turns_on_one_text_is_said_to():
    d = made("exp03")["Pocket Gemma"]
    layer = d.commitment_by_confidence.copy(deep=True)
    layer.loc[{"variant": "it", "history": "it"}] = layer.sel(variant="pt", history="it", drop=True) - 2
    layer.loc[{"variant": "pt", "history": "pt"}] = layer.sel(variant="it", history="it", drop=True) - 1
    text = said("exp03", {"Pocket Gemma": d.assign(commitment_by_confidence=layer)})
    assert (
        "Confident predictions settle 1.0 layers later in IT; when both read IT's text, 2.0 earlier." in text
    )


def peaked(results, *n):
    """Results of which the first n profiles of each pair are largest at a third of the depth."""
    changed = {}
    for (title, d), first in zip(results.items(), n):
        changed[title] = d.copy(deep=True)
        changed[title]["p_window"][:] = 0.5
        changed[title]["p_window"][:first] = [1 / 10, 1 / 9][:first] + [1 / 10] * max(0, first - 2)
    return changed


@pytest.mark.parametrize(
    ("counts", "answer", "said_of"),
    [
        ((0, 0, 0, 0, 0, 0), "No", "none of 48 profiles"),
        ((2, 2, 0, 0, 0, 0), "No", "four of 48 profiles"),
        ((2, 2, 2, 0, 0, 0), "Undecided", "six of 48 profiles"),
        ((2, 2, 2, 2, 2, 0), "Yes", "ten of 48 profiles"),
    ],
)
def test_a_third_of_the_depth_is_held_against_chance(counts, answer, said_of):
    """Ten windows, nine where layer 0 has no value: of 48 profiles, chance makes about five the largest."""
    text = said("exp04", peaked(made("exp04"), *counts))
    assert text.startswith(
        f"**{answer}.** A third of the depth stands out most in {said_of} over layers (by chance, about five)."
    )
    surely = binom.sf(sum(counts) - 1, 48, 0.1) < 0.05
    assert surely == (answer == "Yes")


def test_a_rank_of_two_is_not_the_largest():
    results = peaked(made("exp04"), 0, 0, 0, 0, 0, 0)
    results["Pocket Gemma"]["p_window"][:2] = [2 / 10, 2 / 9]
    assert "in none of 48 profiles" in said("exp04", results)


def test_the_late_dimension_is_told_by_prompts_and_by_estimator():
    """With plain text higher in five by one estimator and four by the other, with own prompts in one."""
    results = {}
    for i, (title, d) in enumerate(made("exp04").items()):
        dimension = d.dimension.copy(deep=True) * 0 + 5
        dimension.loc[{"template": "raw", "variant": "it", "estimator": "two_nn"}] = 6 if i < 5 else 4
        dimension.loc[{"template": "raw", "variant": "it", "estimator": "mle"}] = 6 if i < 4 else 4
        dimension.loc[{"template": "chat", "variant": "it"}] = 6 if i == 0 else 4
        results[title] = d.assign(dimension=dimension)
    text = said("exp04", results)
    assert text.endswith(
        "IT's late dimension is higher in one of six with each model's own prompts, but in four or five with plain text."
    )
    alone = [
        said("exp04", {title: results[title]}).rsplit(". ", 1)[1]
        for title in ("Pocket Gemma", "Pocket DeepSeek")
    ]
    assert alone == [
        "IT's late dimension is higher, with each model's own prompts and with plain text.",
        "IT's late dimension is not higher with each model's own prompts, but higher by TwoNN alone with plain text.",
    ]
    last = said("exp04", {"Pocket OLMo": results["Pocket OLMo"]})
    assert last.endswith("is not higher, with each model's own prompts or with plain text.")


def test_a_dip_is_sharper_where_it_s_ratio_is_above_one():
    results = {}
    for i, (title, d) in enumerate(made("exp04").items()):
        sharp = d.sharpness.copy(deep=True) * 0 + 0.2
        sharp.loc[{"variant": "it"}] = 0.3 if i == 1 else 0.1
        results[title] = d.assign(sharpness=sharp)
    assert "The dip of dimension there is sharper in IT in one of six pocket pairs (Llama)." in said(
        "exp04", results
    )
    assert "is not sharper in IT." in said("exp04", {"Pocket Gemma": results["Pocket Gemma"]})
