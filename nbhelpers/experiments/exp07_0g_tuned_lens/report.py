"""The figures, table and verdict of exp07_0g."""

from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.experiments.exp07_0g_tuned_lens.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.charts import IT, banded, bands, by_category, by_variant, layers_axis, panels, tidy
from nbhelpers.report.directions import among, answer, claim, everywhere, fitting, sentence, sides
from nbhelpers.report.text import number, percent
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Verdict


def tuned_against_raw(results) -> alt.Chart:
    """Return a chart of held-out KL(final ‖ layer) by layer, raw and tuned lens, for PT and IT."""
    rows = tidy(results, lambda dataset: banded(dataset.kl_final_layer.rename(text="prompt")))
    colours = by_category("lens", ["raw", "tuned"]) | {"strokeDash": by_variant()["strokeDash"]}
    curve = bands(layers_axis(), "KL(final ‖ layer), nats", fields=("lens", "variant", "layer"), colours=colours,
                  **charts.root_scale())  # fmt: skip
    return panels(rows, "Raw and tuned lens on held-out text (√ scale)", *curve)


def agreement_of_lenses(results) -> alt.Chart:
    """Return a chart of the share of held-out tokens at which a layer's top-1 token is the final one, raw and tuned lens."""
    rows = tidy(results, lambda dataset: banded(dataset.top1_agreement.rename(text="prompt")))
    colours = by_category("lens", ["raw", "tuned"]) | {"strokeDash": by_variant()["strokeDash"]}
    fields = ("lens", "variant", "layer")
    curve = bands(layers_axis(), "share", fields=fields, colours=colours, axis=alt.Axis(format="%"))
    return panels(rows, "Top-1 token agrees with the final layer's", *curve)


def learning(results) -> alt.Chart:
    """Return a chart of the lenses' validation loss by training step, mean over layers, PT and IT."""
    rows = tidy(results, lambda d: d.validation_loss.mean("layer").rename("mean").to_dataset())
    x = alt.X("check:Q", title="gradient steps")
    y = alt.Y("mean:Q", title="validation KL, nats", scale=alt.Scale(zero=False))
    tips = ["panel:N", "variant:N", "check:Q", alt.Tooltip("mean:Q", format=".3f")]
    line = alt.Chart().mark_line(point=True).encode(x=x, y=y, tooltip=tips, **by_variant())
    return panels(rows, "Training of the tuned lenses, mean over layers", line, y="independent")


def transfer(results) -> alt.Chart:
    """Return a chart of KL(final ‖ layer) of IT's states through PT's translators, divided by that through IT's own."""

    def ratio(dataset):
        own = dataset.kl_final_layer.sel(variant="it", lens="tuned", drop=True).mean("text")
        return (dataset.kl_transfer.mean("text") / own).where(own > 0).rename("ratio").to_dataset()

    rows = tidy(results, ratio).dropna(subset=["ratio"])
    tips = [alt.Tooltip("panel:N", title="model"), "layer:Q", alt.Tooltip("ratio:Q", format=".2f")]
    line = (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(color=IT), color=IT)
        .encode(x=layers_axis(), y=alt.Y("ratio:Q", title="ratio of KL"), tooltip=tips)
    )
    one = alt.Chart().mark_rule(strokeDash=[4, 2]).encode(y=alt.datum(1))
    return panels(rows, "IT read with PT's translators, KL over that with its own", one, line)


def at_depth(values: xr.DataArray, share: float = 0.6) -> xr.DataArray:
    """Return values at the layer ⌊share · L⌋."""
    return values.isel(layer=int(share * values.sizes["layer"]), drop=True)


def lens_table(results) -> pd.DataFrame:
    """Return a table of the lenses' quality: KL at 0.6 of the depth, layers improved, last layer, gate."""
    rows = {}
    for title, d in results.items():
        for v in params.VARIANTS:
            mean = d.kl_final_layer.sel(variant=v).mean("text")
            raw, tuned = (mean.sel(lens=lens, drop=True) for lens in ("raw", "tuned"))
            a, b = float(at_depth(raw)), float(at_depth(tuned))
            rows[f"{title}, {v.upper()}"] = {
                "KL at 0.6 L, nats, raw → tuned": f"{a:.2f} → {b:.2f} ({number(100 * (b - a) / a, 0)} %)",
                "layers closer": f"{int((tuned < raw)[:-1].sum())} of {len(raw) - 1}",
                "smallest gain of a layer, nats": number(float((raw - tuned)[:-1].min())),
                "change by the last translator, nats": small(float(d.last_layer_kl.sel(variant=v))),
                "gate": "pass" if bool(d.gate.sel(variant=v)) else "FAIL",
            }
    return pd.DataFrame(rows).T.rename_axis(None)


def small(kl: float) -> str:
    """Return a divergence that should be zero as text: with four digits, or that it is less than they can show."""
    return "0" if kl == 0 else "< 0.0001" if abs(kl) < 5e-5 else number(kl, 4)


CLOSER = {"pt": "lens_improvement.pt", "it": "lens_improvement.it"}
MATRIX = {
    "PT: share of the distance gone": CLOSER["pt"],
    "IT: share of the distance gone": CLOSER["it"],
    "PT: leading token agrees more": "top1_gain.pt",
    "IT: leading token agrees more": "top1_gain.it",
}
TURN = "IT's lens was trained on users' turns but reads replies."


def verdict(results) -> Verdict:
    """Return the verdict: whether the tuned lenses come closer to the final prediction than the raw ones, and the gate."""
    return fitting(partial(said, results))


def said(results, names: bool) -> Verdict:
    """Return the verdict, with the names of the pairs that differ and a caveat, or without both."""
    found = {v: sides(results, quantities, name) for v, name in CLOSER.items()}
    both = {side: [title for title in found["pt"][side] if title in found["it"][side]] for side in (UP, DOWN)}
    rest = [title for title in results if title not in both[UP] + both[DOWN]]
    pt, it = (closer(results, v, names) for v in CLOSER)
    return Verdict(
        answer({**both, OPEN: rest}).capitalize(),
        sentence(f"on held-out text, at 0.6 of the depth, {pt}; {it}"),
        gate_sentence(results, names),
        TURN if names else "",
    )


def closer(results, variant: str, names: bool) -> str:
    """Return the clause on how much closer to the final prediction a model's tuned lens is; PT's comes first."""
    whose, than = variant.upper(), " to the final prediction than its raw lens" if variant == "pt" else ""
    name = " tuned lens" if variant == "pt" else ""
    return claim(
        results, quantities, CLOSER[variant], f"{whose}'s{name} is {{size}} {{word}}{than}",
        f"whether {whose}'s{name} is closer{than} is undecided", ("closer", "farther"),
        shown=percent, again=variant == "it", names=names,
    )  # fmt: skip


def gate_sentence(results, names: bool) -> str:
    """Return the sentence on the gate."""
    passed = [title for title, dataset in results.items() if bool(dataset.gate.all())]
    whole = "(closer at nine tenths of the layers)"
    if not passed:
        return f"One lens or both fail the gate {whole} {everywhere(results, again=True)}".rstrip() + "."
    return f"Both lenses pass the gate {whole} {among(passed, results, names)}".rstrip() + "."
