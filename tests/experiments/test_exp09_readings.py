"""The verdict and the sentences of exp09 say what the results say, on results built so that the answer is known."""

from functools import cache

import numpy as np
import pytest

from nbhelpers.experiments.exp09_convergence_gap import quantities as exp09_quantities
from nbhelpers.experiments.exp09_convergence_gap import readings, report
from nbhelpers.report.quantities import kept, named, value
from nbhelpers.report.text import number
from nbhelpers.report.verdicts import Signs, signs
from tests import synthetic
from tests.synthetic import swapped

ALONE = "Yes, while each model writes its own text"
FARTHER = "IT's later layers are {} nats farther from its final prediction than PT's"


@cache
def made():
    """Return three small made-up results, in each of which IT is farther on every text, by every lens and direction."""
    return {family.title(): synthetic.dataset(family, n_prompts=32) for family in ("gemma", "llama", "qwen")}


def on_one_text(results, history, change, lens=None, direction=None):
    """Return results in which IT's distances on one text are multiplied by `change`: of a lens and direction, or of all."""
    found = {}
    for title, d in results.items():
        d = d.copy(deep=True)
        for name in [direction] if direction else ["final_layer", "layer_final"]:
            at = dict(history=history, variant="it") | ({"lens": lens} if lens else {})
            d[f"kl_{name}_matched"].loc[at] *= change
        found[title] = d
    return found


def with_cosine(results, variant, level):
    """Return results in which the δ-cosine of one model's blocks lies near a level in every prompt and layer."""
    rng, found = np.random.default_rng(0), {}
    for title, d in results.items():
        d = d.copy(deep=True)
        cell = d["delta_cosine"].loc[dict(variant=variant, component="block")]
        cell[:] = level + rng.normal(0, 0.01, cell.shape)
        found[title] = d
    return found


def test_a_gap_everywhere_is_a_yes_with_its_size():
    found = report.verdict(made())
    gaps = [value(exp09_quantities.quantities, d, "kl_excess_late_half.raw") for d in made().values()]
    far = f"{number(min(gaps))}–{number(max(gaps))}"
    assert found.answer == "Yes"
    assert found.size.startswith(f"In all three pocket pairs, {FARTHER.format(far)} (raw lens; tuned: ")
    assert found.exception == "If both read one text, PT's or IT's, IT is farther in all three."
    assert found.caveat == "IT's predictions end sharper, which can widen the gap."


def test_the_opposite_results_have_the_opposite_verdict():
    found = report.verdict(swapped(made()))
    assert found.answer == "No, the reverse"
    assert "nats nearer to its final prediction than PT's (raw lens; tuned: " in found.size
    assert found.exception == "If both read one text, PT's or IT's, IT is nearer in all three."
    assert found.caveat == "IT's predictions end less sharp."


def test_a_pair_that_differs_is_named():
    found = report.verdict(swapped(made(), "Qwen"))
    assert found.answer == "Mostly"
    assert found.size.startswith("In two of three pocket pairs (not in Qwen), ")
    assert found.size.endswith("; in one they are nearer.")
    assert found.exception == "If both read one text, PT's or IT's, that differs between pairs."
    assert found.caveat == "IT's predictions end sharper in two."


def test_a_gap_that_a_shared_text_takes_away_is_one_while_each_model_writes_its_own():
    found = report.verdict(on_one_text(made(), "it", 0.0))
    assert found.answer == ALONE
    assert (
        found.exception
        == "If both read PT's text, IT is farther in all three; if IT's, IT is nearer in all three."
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lens": "raw"}, "lens"),
        ({"direction": "final_layer"}, "KL's direction"),
        ({"lens": "raw", "direction": "final_layer"}, "lens and KL's direction"),
    ],
)
def test_what_the_gap_on_a_shared_text_depends_on_is_said(options, words):
    found = report.verdict(on_one_text(made(), "it", 0.0, **options))
    assert found.answer == ALONE
    assert (
        found.exception
        == f"If both read PT's text, IT is farther in all three; if IT's, that depends on {words}."
    )


def test_a_gap_that_holds_in_each_cell_of_most_pairs_is_counted_by_the_fewest():
    one = on_one_text({"Qwen": made()["Qwen"]}, "pt", np.nan, lens="raw", direction="final_layer")
    found = report.verdict({**made(), **one})
    assert (
        found.exception
        == "If both read PT's text, IT is farther in at least two; if IT's, IT is farther in all three."
    )


def test_an_undecided_gap_is_said_to_be():
    rng, flat = np.random.default_rng(0), {}
    for title, d in made().items():
        noise = rng.normal(0, 1, d["kl_final_layer"].shape)
        flat[title] = d.assign(kl_final_layer=d["kl_final_layer"] * 0 + 5 + noise)
    found = report.verdict(flat)
    assert found.answer == "Undecided"
    assert found.size.startswith(
        "It is undecided in all three pocket pairs whether IT's later layers are farther"
    )


def test_a_gap_of_the_raw_lens_alone_is_not_said_of_the_tuned_one():
    exchanged = {}
    for title, d in made().items():
        tuned = d.kl_final_layer.sel(lens="tuned").roll(variant=1)
        exchanged[title] = d.assign(kl_final_layer=d.kl_final_layer.where(d.lens == "raw", tuned))
    assert report.verdict(exchanged).size.endswith("(raw lens; tuned: in none).")
    one = {"Pocket Llama": exchanged["Llama"]}
    assert report.verdict(one).size.endswith("(raw lens; tuned: the reverse).")


def test_one_pair_is_not_counted():
    one = {"Pocket Llama": made()["Llama"]}
    for results in (one, swapped(one), on_one_text(one, "it", 0.0, lens="raw")):
        text = str(report.verdict(results))
        assert not any(word in text for word in ("pairs", "all", " in one", "none", "at least"))
    assert report.verdict(one).size.startswith("IT's later layers are ")
    shared = report.verdict(on_one_text(one, "it", 0.0, lens="raw"))
    assert shared.exception == "If both read PT's text, IT is farther; if IT's, that depends on lens."


def test_no_verdict_is_longer_than_sixty_words(monkeypatch):
    rng, titles = np.random.default_rng(0), [f"Pocket {title}" for title in synthetic.TITLES]
    results = dict.fromkeys(titles, made()["Gemma"])
    monkeypatch.setattr(readings, "distance", lambda *_: "0.48–1.11")
    for _ in range(250):
        drawn, one_sign = {}, {}

        def some(found, source, name, drawn=drawn, one_sign=one_sign):
            part = next((p for p in (".pt.", ".it.", "entropy") if p in name), "own")
            if one_sign.setdefault(part, rng.random() < 0.5):
                name = part
            if name not in drawn:
                weights = [(1, 0, 0), (0, 1, 0), (0.7, 0.15, 0.15), (0.34, 0.33, 0.33)][rng.integers(4)]
                side = rng.choice(3, len(titles), p=weights)
                drawn[name] = Signs(*([t for t, s in zip(titles, side) if s == of] for of in range(3)))
            return drawn[name]

        monkeypatch.setattr(readings, "signs", some)
        found = readings.verdict(results)
        assert found.words <= 60, str(found)
        assert "  " not in str(found) and "()" not in str(found) and " ." not in str(found)


def test_the_table_of_texts_counts_the_signs_of_each_cell():
    results = on_one_text(made(), "it", 0.0, lens="raw", direction="final_layer")
    results = on_one_text(results, "pt", 1.0) | swapped({"Qwen": results["Qwen"]})
    table = report.text_table(results)
    assert table.index.tolist() == ["each on its own text", "both on PT's text", "both on IT's text"]
    assert table.shape == (3, 4)
    assert table.loc["each on its own text", ("KL(final ‖ layer)", "raw lens")] == "▲ 2  ▼ 1"
    assert table.loc["both on IT's text", ("KL(final ‖ layer)", "raw lens")] == "▲ 1  ▼ 2"
    assert table.loc["both on IT's text", ("KL(layer ‖ final)", "raw lens")] == "▲ 2  ▼ 1"
    one = report.text_table({"Llama": results["Llama"]})
    gap = value(exp09_quantities.quantities, results["Llama"], "matched_gap_late_half.it.raw")
    assert one.loc["both on IT's text", ("KL(final ‖ layer)", "raw lens")] == f"▼ {number(gap)}"


def test_the_gap_on_one_text_is_of_its_direction_history_and_own_lens():
    d = made()["Llama"].copy(deep=True)
    for direction, rise in (("final_layer", 1.0), ("layer_final", 3.0)):
        d[f"kl_{direction}_matched"].loc[dict(history="pt", variant="it", lens="raw", basis="own")] += rise
        d[f"kl_{direction}_matched"].loc[dict(history="pt", variant="it", basis="other")] += 50
    for direction, rise in (("final_layer", 1.0), ("layer_final", 3.0)):
        for text, more in (("pt", rise), ("it", 0.0)):
            name = exp09_quantities.gap_name(text, direction)
            before = value(exp09_quantities.quantities, made()["Llama"], name)
            assert value(exp09_quantities.quantities, d, name) == pytest.approx(before + more, rel=1e-4)
    assert len({exp09_quantities.gap_name(t, d, lens) for t in exp09_quantities.TEXTS for d in exp09_quantities.GAPS
                for lens in exp09_quantities.LENSES}) == 12  # fmt: skip


def test_the_matrix_rests_on_quantities_of_the_pair():
    d = made()["Llama"]
    found = kept(exp09_quantities.quantities, d)
    assert set(report.MATRIX.values()) <= found.keys() and 3 <= len(report.MATRIX) <= 6
    entropy = d.entropy.sel(lens="raw").isel(layer=-1)
    by_prompt = named(exp09_quantities.quantities, "final_entropy_shift")(d)
    np.testing.assert_allclose(by_prompt, entropy.sel(variant="it") - entropy.sel(variant="pt"))
    late = d.commitment.sel(rule="kl_stays_0.1", lens="raw")
    by_prompt = named(exp09_quantities.quantities, "commitment_delay_kl_stays.raw")(d)
    np.testing.assert_allclose(by_prompt, late.sel(variant="it") - late.sel(variant="pt"))
    cosine = d.delta_cosine.sel(component="block", variant="it").isel(layer=[9, 10, 11]).mean("layer")
    np.testing.assert_allclose(named(exp09_quantities.quantities, "delta_cosine_final_fifth.it")(d), cosine)


def test_an_update_opposes_the_stream_only_where_its_cosine_lies_below_zero():
    both = with_cosine(with_cosine(made(), "pt", 0.15), "it", 0.05)
    text = readings.updates(both)
    assert "PT's updates reinforce the stream in all three (cosine +0.15)" in text
    assert "IT's updates reinforce the stream in all three (cosine +0.05)" in text
    assert "IT's cosine is lower in all three (IT − PT: −0.10)." in text and "oppose" not in text
    one = with_cosine({"Gemma": both["Gemma"]}, "it", -0.05)
    text = readings.updates({**both, **one, **with_cosine({"Llama": both["Llama"]}, "it", 0.0)})
    assert (
        "IT's updates reinforce the stream in Qwen, oppose it in Gemma and do neither for sure in Llama "
        "(cosine −0.05 to +0.05)"
    ) in text
    assert readings.updates(one) == (
        "In the last fifth of the layers, PT's updates reinforce the stream (cosine +0.15); "
        "IT's updates oppose it (cosine −0.05). IT's cosine is lower (IT − PT: −0.20)."
    )


def test_commitment_is_said_by_lens_and_pair():
    text = readings.commitment(made())
    start = (
        "By the rule “KL stays below 0.1 nats”, IT's commitment is later in all three through the raw lens (+"
    )
    assert text.startswith(start) and ", and later in all three through the tuned lens (+" in text
    text = readings.commitment(swapped(made(), "Qwen"))
    assert "is later in Gemma and Llama and earlier in Qwen through the raw lens (−" in text
    alike = made()["Qwen"].assign(commitment=made()["Qwen"].commitment * 0 + 5)
    assert "later in Gemma and Llama and undecided in Qwen through" in readings.commitment(
        {**made(), "Qwen": alike}
    )


def test_signs_are_those_of_joint_intervals():
    found = signs(made(), exp09_quantities.quantities, "kl_excess_late_half.raw")
    assert found.above == list(made()) and not found.below and not found.open
