"""The figures, table and verdict of exp07_0g."""

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.experiments.exp07_0g_tuned_lens.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import VARIANTS
from nbhelpers.report.charts import INK, banded, bands, by_variant, layers_axis, panels, tidy
from nbhelpers.report.quantities import named
from nbhelpers.report.sentences import grounds, sentence
from nbhelpers.report.text import number, whether

LOOKS = "raw lens thin with triangles, tuned lens thick with circles"
TEXTS = "bands are 95 % intervals of the mean over texts"


def tuned_against_raw(results) -> alt.Chart:
    """Return a chart of held-out KL(final ‖ layer) by layer, raw and tuned lens, for PT and IT."""
    rows = tidy(results, lambda dataset: banded(dataset.kl_final_layer.rename(text="prompt")))
    curve = lens_curves("KL(final ‖ layer), nats", **charts.root_scale())
    return panels(
        rows, "Raw and tuned lens on held-out text (√ scale)", *curve, marks=[LOOKS, TEXTS],
        description=f"KL(final ‖ layer), nats, on a square-root scale, against the layer, for {VARIANTS}",
    )  # fmt: skip


def lens_curves(y, **y_options) -> list[alt.Chart]:
    """Return the marks of curves with bands: PT and IT by colour and dash, raw and tuned lens by thickness and shape."""
    scale = alt.Scale(domain=["raw", "tuned"], range=["triangle-up", "circle"])
    legend = alt.Legend(title="lens", symbolFillColor=INK, symbolStrokeColor=INK, symbolSize=80)
    colours = by_variant() | {"shape": alt.Shape("lens:N", scale=scale, legend=legend), "detail": "lens:N"}
    fields = ("lens", "variant", "layer")
    band, line, points = bands(layers_axis(), y, fields=fields, colours=colours, **y_options)
    thin, thick = (line.transform_filter(f"datum.lens === '{lens}'") for lens in ("raw", "tuned"))
    return [band, thin.mark_line(strokeWidth=1), thick.mark_line(strokeWidth=2.5), points]


def agreement_of_lenses(results) -> alt.Chart:
    """Return a chart of the share of held-out tokens at which a layer's top-1 token is the final one, raw and tuned lens."""
    rows = tidy(results, lambda dataset: banded(dataset.top1_agreement.rename(text="prompt")))
    curve = lens_curves("share", axis=alt.Axis(format="%"))
    return panels(
        rows, "Top-1 token agrees with the final layer's", *curve, marks=[LOOKS, TEXTS],
        description=f"Share of tokens at which a layer's top-1 token is the final one, against the layer, for {VARIANTS}",
    )  # fmt: skip


def learning(results) -> alt.Chart:
    """Return a chart of the lenses' validation loss by training step, mean over layers, PT and IT."""
    rows = tidy(results, lambda d: d.validation_loss.mean("layer").rename("mean").to_dataset())
    x = alt.X("check:Q", title="gradient steps")
    y = alt.Y("mean:Q", title="validation KL, nats", scale=alt.Scale(zero=False))
    tips = ["panel:N", "variant:N", "check:Q", alt.Tooltip("mean:Q", format=".3f")]
    line = alt.Chart().mark_line(point=True).encode(x=x, y=y, tooltip=tips, **by_variant())
    return panels(
        rows, "Training of the tuned lenses, mean over layers", line, y="independent",
        description=f"Validation KL of the tuned lenses, nats, mean over layers, against gradient steps, for {VARIANTS}",
    )  # fmt: skip


def transfer(results) -> alt.Chart:
    """Return a chart of KL(final ‖ layer) of IT's states through PT's translators, divided by that through IT's own."""

    def ratio(dataset):
        own = dataset.kl_final_layer.sel(variant="it", lens="tuned", drop=True).mean("text")
        return (dataset.kl_transfer.mean("text") / own).where(own > 0).rename("ratio").to_dataset()

    rows = tidy(results, ratio).dropna(subset=["ratio"])
    tips = [alt.Tooltip("panel:N", title="model"), "layer:Q", alt.Tooltip("ratio:Q", format=".2f")]
    line = (
        alt.Chart()
        .mark_line(point=alt.OverlayMarkDef(color=INK), color=INK)
        .encode(x=layers_axis(), y=alt.Y("ratio:Q", title="ratio of KL"), tooltip=tips)
    )
    one = alt.Chart().mark_rule(strokeDash=[4, 2]).encode(y=alt.datum(1))
    return panels(
        rows, "IT read with PT's translators, KL over that with its own", one, line,
        description="KL(final ‖ layer) of IT's states read with PT's translators, over that with IT's own, against the layer",
        marks=["the dashed line marks a ratio of one"],
    )  # fmt: skip


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
                "KL at 0.6 L, raw → tuned": f"{a:.2f} → {b:.2f} ({number(100 * (b - a) / a, 0)} %)",
                "layers closer": f"{int((tuned < raw)[:-1].sum())} of {len(raw) - 1}",
                "worst layer": number(float((tuned - raw)[:-1].max())),
                "last translator, KL": f"{float(d.last_layer_kl.sel(variant=v)):.1e}".replace("-", "−"),
                "gate": "pass" if bool(d.gate.sel(variant=v)) else "FAIL",
            }
    return pd.DataFrame(rows).T.rename_axis(None)


def verdict(results) -> str:
    """Return the verdict: whether the tuned lenses are closer than the raw ones and pass the gate."""
    passed = [title for title, d in results.items() if bool(d.gate.all())]
    closer = "closer to the final prediction than the raw lens"
    pt = sentence(results, named(quantities, "lens_gain.pt"), closer, "farther from it")
    it = sentence(results, named(quantities, "lens_gain.it"), closer, "farther from it")
    gate = whether(passed, len(results), "Both lenses pass the gate", "Not both lenses pass the gate")
    return (
        f"On held-out text, at 0.6 of the depth, PT's tuned lens is {pt}. IT's tuned lens is {it}. {gate}: closer than the "
        "raw lens at nine tenths of the layers and at 0.6 of the depth, and a last translator that changes next to nothing. "
        f"{grounds(results)}"
    )
