"""All claims of the study: the reference's claims are here, and a run's figures are set beside them as they should be."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest

from nbhelpers.core import params
from nbhelpers.report import claims, claims_page, ledger, theme
from tests.stubs import REPOSITORY

REFERENCE = REPOSITORY.parent / "shared/reference/claims.csv"
FAMILY = {
    "gemma3_4b": "gemma", "llama31_8b": "llama", "qwen3_4b": "qwen", "mistral_7b": "mistral",
    "deepseek_v2_lite": "deepseek", "olmo2_7b": "olmo",
}  # fmt: skip
# Values of the reference that stand in no row, by the start of their id, with the reason.
LEFT_OUT = {
    "C002": "counts of layers, which are shares here: the last layer, whose distance is zero, does not count",
    "C005": "the ends of C003 and C004, which claims.csv names in same_as",
    "C032.03": "Qwen's difference at the last layer, which stands in the table of C030",
    "C035.01": "no number: hardly any difference, which is the claim's test",
    "C058.01": "a sentence, marked 1",
    "C059.01": "a sentence, marked 1",
    "C102.01": "0, the lower end of a share",
}
TURNED = ("C045.08", "C048.04", "C048.05", "C074")  # a fall or a size there, a difference here


def kept(
    figure_id, title="Pocket", layers=12.0, run=None, low=None, high=None, agrees="", sign="", missing=""
):
    """Return one row of `ledger.KEPT`."""
    return [figure_id, title, layers, run, low, high, agrees, sign, missing]


@pytest.fixture(scope="module")
def listed():
    """Return the study's claims."""
    return claims.listed()


# The claims


def test_there_are_98_claims_with_an_audit_in_words(listed):
    assert (
        len(listed) == 98
        and listed.index.str.fullmatch(r"C\d{3}").all()
        and listed.index.is_monotonic_increasing
    )
    for column in ("claim", "section", "artifacts", "reason"):
        assert (listed[column].str.len() > 1).all(), column
    assert not listed["claim"].str.endswith(".").any() and not listed["reason"].str.endswith(".").any()


def test_every_claim_has_figures_or_sums_up_others(listed):
    with_figures = set(claims.of_claims()["claim_id"])
    for claim_id, claim in listed.iterrows():
        assert bool(claim["same_as"]) != (claim_id in with_figures), claim_id
        assert set(claim["same_as"].split()) <= with_figures


def test_facts_about_the_study_say_why_no_run_measures_them(listed):
    figures = claims.of_claims()
    facts = figures[claims_page.study(figures)]
    assert len(facts) > 100 and (listed.loc[facts["claim_id"], "no_run"].str.len() > 10).all()
    assert set(facts["claim_id"]) == set(listed.index[listed["no_run"] != ""])


def test_a_claim_is_contradicted_where_a_printed_figure_is(listed):
    """A claim that stands may have a figure that does not; the ones below do, and say so."""
    figures = claims.of_claims()
    wrong = figures[(figures["verdict"] == "contradicted") & (figures["printed"] != "")]
    stands = set(wrong["claim_id"]) - set(listed.index[listed["verdict"] == "contradicted"])
    assert stands == {"C021", "C030", "C069"}


def test_printed_and_stored_values_are_numbers_that_agree_with_the_figure():
    for row in claims.of_claims().itertuples():
        for text in (row.printed, row.stored):
            assert not text or re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text), row.id
        if pd.notna(row.value):
            assert row.printed or row.stored, row.id
            near = [abs(float(text) - row.value) for text in (row.printed, row.stored) if text]
            assert min(near) <= 0.06 * max(1, abs(row.value)), row.id


def test_every_value_of_the_reference_stands_in_a_row_of_its_claim():
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is not here; the claims are checked where the study's table is")
    found: dict[tuple, set[float]] = {}
    for row in claims.of_claims().itertuples():
        family = row.family if row.family in params.FAMILIES else "several"
        for column in ("printed", "stored"):
            if text := getattr(row, column):
                found.setdefault((row.claim_id, column, family), set()).add(float(text))
    with REFERENCE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"][:4] for row in rows} == set(claims.listed().index)
    missing, left_out = [], set()
    for row in rows:
        column = "stored" if row["source_section"].startswith("repo") else "printed"
        here = found.get((row["id"][:4], column, FAMILY.get(row["family"], "several")), set())
        ends = [row["value"]] if row["value"] else [row["ci_low"], row["ci_high"]]
        for value in map(float, filter(None, ends)):
            signs = (1, -1) if row["id"].startswith(TURNED) else (1,)
            if any(abs(sign * value - other) < 1e-9 for sign in signs for other in here):
                continue
            known = [start for start in LEFT_OUT if row["id"].startswith(start)]
            left_out |= set(known)
            missing += [] if known else [(row["id"], column, value)]
    assert missing == [] and left_out == set(LEFT_OUT)


@pytest.mark.parametrize(
    "before, after, sentence",
    [
        ("claim_id,claim", "id,claim", "must have the columns claim_id, claim, section"),
        (",supported,", ",suported,", "C001: unknown verdict 'suported'; did you mean 'supported'"),
        (
            ",C003 C004,~0.675±0.375,",
            ",C003 C004,>early,",
            "C005: asserts '>early' must be a single bound.*or 'nothing'",
        ),
        (
            ",C003 C004,~0.675±0.375,",
            ",C003 C004,none,",
            "C005: asserts 'none' is no claim test.*or 'nothing'",
        ),
        ("\nC002,", "\nC001,", "the id C001 occurs twice"),
        ("\nC002,", "\nC999,", "params/published.csv, .*: params/claims.csv has no claim 'C002'"),
    ],
)
def test_a_wrong_list_of_claims_is_named(tmp_path, monkeypatch, before, after, sentence):
    (tmp_path / "params").mkdir()
    for name in ("claims.csv", "published.csv"):
        text = (REPOSITORY / "params" / name).read_text(encoding="utf-8")
        text = text.replace(before, after, 1) if name == "claims.csv" else text
        (tmp_path / "params" / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    with pytest.raises(claims.ClaimError, match=sentence):
        claims.of_claims()


# A run beside them

GAP = "exp09.01.kl_excess_late_half.raw"
RUNS = {"gemma": 0.5, "llama": 0.2, "qwen": 0.3, "mistral": 0.6, "deepseek": -0.1, "olmo": 0.05}


@pytest.fixture(scope="module")
def found():
    """Return the table of a run that measured one claim in six families, one of them as large as the study's."""
    rows = [
        kept(f"{GAP}.{family}", f"My {family}", 32.0 if family == "mistral" else 12.0, value, value - 0.1, value + 0.5,
             "no" if value < 0 else "yes", "same sign" if value > 0 else "other sign")
        for family, value in RUNS.items()
    ]  # fmt: skip
    return claims_page.table(
        [*rows, kept(f"{GAP}.mean", "mean", missing="needs a value of each of the six families")]
    )


def test_each_figure_has_its_values_side_by_side(found):
    row = found[(found["claim_id"] == "C003") & (found["family"] == "gemma")].iloc[0]
    assert (row["printed"], row["stored"], row["run"], row["title"]) == ("1.008", "1.007772", 0.5, "My gemma")
    assert found["claim_id"].nunique() == 97 and len(found) == len(claims.of_claims())
    assert found["claim_id"].is_monotonic_increasing


def test_figures_without_a_value_say_why(found):
    silent = found[found["run"].isna()]
    assert (silent["missing"] != "").all() and len(silent) == len(found) - 6
    facts = silent[claims_page.study(silent)]
    assert set(facts[facts["claim_id"] == "C113"]["missing"]) == {"a fact about the study's models"}
    assert (
        found[found["id"] == f"{GAP}.mean"]["missing"] == "needs a value of each of the six families"
    ).all()
    assert (silent[silent["id"].str.startswith("exp11.01")]["missing"] == claims_page.NOT_RUN).all()


def test_the_order_of_families_is_spearman_s(found):
    # Published: Mistral, Gemma, Qwen, Llama, DeepSeek, OLMo; here OLMo and DeepSeek change places: 1 − 6·2/(6·35).
    gaps = found[found["id"].str.startswith(GAP) & (found["family"] != "mean")]
    assert gaps["order"].tolist() == pytest.approx([1 - 12 / 210] * 6)
    assert found[~found["id"].str.startswith(GAP)]["order"].isna().all()


def test_intervals_are_compared_where_scales_are_the_same(found):
    compared = found[found["interval"] != ""]
    assert compared["title"].tolist() == ["My mistral"]  # 32 layers, as the study's
    assert compared["interval"].tolist() == [claims_page.INSIDE]  # 1.054 in [0.5, 1.1]
    apart = claims_page.table([kept(f"{GAP}.mistral", layers=32.0, run=0.1, low=0.0, high=0.2, agrees="yes")])
    assert apart.loc[apart["id"] == f"{GAP}.mistral", "interval"].tolist() == [claims_page.APART]


def test_what_a_run_says_of_a_claim(found):
    gaps = found[found["claim_id"] == "C003"]
    assert claims_page.says(gaps) == "partly, or undecided"  # DeepSeek's gap is negative
    assert claims_page.says(gaps[gaps["family"] == "gemma"]) == "agrees"
    assert claims_page.says(gaps[gaps["family"] == "deepseek"]) == "disagrees"
    assert claims_page.says(found[found["claim_id"] == "C110"]) == "not measured"
    assert claims_page.says(gaps.assign(agrees="", agreement="")) == "measured, nothing to compare"


def test_a_shared_sign_does_not_make_a_run_agree_with_a_claim(found):
    gaps = found[found["claim_id"] == "C003"].assign(agrees="")
    assert claims_page.says(gaps.assign(agreement="same sign")) == "same sign, claim not tested"
    for signs in ("other sign", "undecided"):
        mixed = gaps.assign(agreement=["same sign", *[signs] * (len(gaps) - 1)])
        assert claims_page.says(mixed) == "sign differs or undecided, claim not tested"
    assert claims_page.counted(gaps) == {"same sign": 5, "other sign": 1, "undecided": 0}
    # A figure that is tested decides, whatever the signs of the others.
    tested = gaps.assign(agrees=["yes", *[""] * (len(gaps) - 1)], agreement="other sign")
    assert claims_page.says(tested) == "agrees" and claims_page.counted(tested) == {
        "yes": 1,
        "no": 0,
        "undecided": 0,
    }


def test_a_claim_of_a_range_is_judged_by_the_range_and_not_by_the_signs_of_its_figures():
    name = "exp09.01.kl_excess_late_half.raw"
    runs = {
        "gemma": (0.5, 0.4, 0.6),
        "llama": (0.2, 0.15, 0.25),
        "qwen": (0.3, 0.2, 0.4),
        "olmo": (1.2, 1.1, 1.3),
    }
    rows = [kept(f"{name}.{family}", family, 12.0, *run, "yes", "same sign") for family, run in runs.items()]
    table = claims_page.table(rows)
    judged = claims_page.judged(table, "C005").dropna(subset="run").set_index("family")["agrees"]
    assert judged.to_dict() == {
        "gemma": "yes",
        "llama": "no",
        "qwen": "undecided",
        "olmo": "no",
    }  # of 0.30 to 1.05
    assert claims_page.summary(table).loc[["C003", "C005"], "this run"].tolist() == [
        "agrees",
        "partly, or undecided",
    ]


def test_a_claim_that_asserts_nothing_cannot_be_agreed_with():
    rows = [kept("exp08.04.centred_pc1.late.gemma", "A", 12.0, 0.2, 0.1, 0.3, "", "same sign")]
    assert (
        claims_page.summary(claims_page.table(rows)).loc["C105", "this run"] == "measured, nothing to compare"
    )


# Claims with sizes, an order or several signs, and values as signs alone have made them agree: what a test of the claim says.
TESTED = {
    "exp07_0g.01.lens_improvement.pt.gemma": (0.65, "no"),
    "exp07_0g.01.lens_improvement.pt.llama": (0.80, "no"),
    "exp07_0g.01.lens_improvement.pt.olmo": (0.62, "yes"),
    "exp07_0g.03.lens_improvement_range.most.all": (0.8, "no"),
    "exp07_0c.02.structure_ratio.dose_5.gemma": (1.13, "no"),
    "exp11.06.mlp_cosine_shift.final_fifth.late.llama": (-0.02, "no"),
    "exp11.06.mlp_cosine_shift.final_fifth.late.gemma": (-0.02, "yes"),
    "exp11.03.kl_shift_range.least.all": (0.05, "no"),
    "exp04.10.attention_entropy_shift.native.olmo": (-0.1, "no"),
    "exp09.61.n_positive.late_dimension_shift.two_nn.native.all": (6, "no"),
    "exp09.13.commitment_delay_median.raw.kl_first_0.1.gemma": (1, None),
    "exp09.24.delta_cosine_shift.last_layer.deepseek": (-0.1, None),
    "exp08.04.centred_pc1.late.gemma": (0.2, None),
}


@pytest.mark.parametrize("name", TESTED)
def test_a_figure_is_tested_for_what_its_claim_asserts(name):
    figures = claims.of_claims().set_index("id")
    value, expected = TESTED[name]
    test = claims.claim_test(figures.loc[name, "claim_test"])
    assert (test and test.judged(value, float("nan"), float("nan"))) == expected


def test_claims_of_an_order_are_tested_by_the_order():
    figures = claims.of_claims().set_index("id")["claim_test"]
    assert figures["exp14.01.kl_shift.sufficiency.late.gemma"] == ">0 & >early,mid"  # C085: raise most
    assert figures["exp14.02.kl_shift.necessity.late.gemma"] == "<0 & <early,mid"  # C086: lower most
    depth = [figures[f"exp09.23.delta_cosine_shift.{third}_third.mean"] for third in ("middle", "late")]
    assert depth == ["<early_third", "<middle_third"]  # C031: grows with depth


def test_a_claim_that_sums_up_others_has_their_figures(found):
    assert set(claims_page.of_claim(found, "C005")["claim_id"]) == {"C003", "C004"}
    summary = claims_page.summary(found)
    assert summary.loc["C005", "this run"] == "partly, or undecided"
    assert summary.loc["C003", ["figures", "measured", "yes", "no", "undecided"]].tolist() == [7, 6, 5, 1, 0]
    assert sum(claims_page.counts(found).values()) == 98


def test_the_picture_has_a_cell_where_the_study_has_a_figure(found):
    cells = claims_page.cells(found).set_index(["claim", "family"])
    assert cells.loc[("C003", "Gemma"), "mark"] == "✓" and cells.loc[("C003", "DeepSeek"), "mark"] == "✗"
    assert cells.loc[("C003", "all"), "says"] == "not measured" and ("C010", "Llama") not in cells.index
    spec = claims_page.picture(found).to_dict()
    assert "98 claims" in spec["description"] and all(mark in spec["description"] for mark in "✓~✗=≠·–")
    assert "ids are the study's and not consecutive" in spec["description"]
    scales = [spec["layer"][0]["encoding"][name]["scale"] for name in ("color", "opacity")]
    assert all(scale["domain"] == list(claims_page.MARKS) for scale in scales)
    assert len(set(claims_page.MARKS.values())) == len(claims_page.MARKS) == 7
    for name in ("color", "opacity"):  # one legend, which names each mark
        label = spec["layer"][0]["encoding"][name]["legend"]["labelExpr"]
        assert label.endswith("[datum.label] + ' ' + datum.label")
        assert json.loads(label.removesuffix("[datum.label] + ' ' + datum.label")) == claims_page.MARKS
    hints = [
        hint["field"]
        for hint in spec["layer"][0]["encoding"].get("tooltip", spec["layer"][1]["encoding"]["tooltip"])
    ]
    assert {"claim", "words", "says"} <= set(hints)
    assert cells.loc[("C003", "Gemma"), "words"].startswith("The convergence gap is above zero")


def lab(colour):
    """Return a colour of three numbers from 0 to 1 as CIELAB."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("mode, page", [("light", 1.0), ("dark", 0.07)])
def test_the_states_differ_on_light_and_dark_pages(mode, page):
    def tile(colour, strength):
        shown = theme.THEMES[mode].get(colour, colour)
        return np.array([int(shown[i : i + 2], 16) for i in (1, 3, 5)]) / 255 * strength + page * (
            1 - strength
        )

    states = [lab(tile(*of)) for of in zip(claims_page.COLOURS.values(), claims_page.STRENGTHS)]
    mark = lab(tile(claims_page.INK, 1))
    apart = [np.linalg.norm(one - other) for i, one in enumerate(states) for other in states[:i]]
    assert min(apart) > 10 and min(abs(mark[0] - state[0]) for state in states) > 28


def test_the_csv_holds_everything(found):
    rows = list(csv.DictReader(io.StringIO(claims_page.csv(found))))
    assert tuple(rows[0]) == claims_page.CSV and len(rows) == len(found)
    row = next(row for row in rows if row["id"] == f"{GAP}.deepseek")
    assert row["claim_id"] == "C003" and row["printed"] == "0.519" and float(row["run"]) == -0.1
    assert row["claim_this_run"] == "partly, or undecided"  # of the claim, whatever the figure says
    assert row["agrees_with_claim"] == "no" and row["sign"] == "other sign" and row["audit"] == "supported"


def test_a_ledger_keeps_what_the_page_needs():
    table = pd.DataFrame({
        "id": ["a", "b"], "claim_id": ["C001", ""], "title": "My pair", "layers": 12, "run": [1 / 3, 1.0],
        "run_low": [float("nan"), 1.0], "run_high": [float("nan"), 1.0], "agrees": "yes", "agreement": "", "missing": "",
    })  # fmt: skip
    assert ledger.of_claims(table) == (["a", "My pair", 12, 0.333333, None, None, "yes", "", ""],)
