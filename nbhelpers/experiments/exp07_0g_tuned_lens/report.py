"""The figures, table and verdict of exp07_0g."""

from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import params
from nbhelpers.experiments.exp07_0g_tuned_lens.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import VARIANTS
from nbhelpers.report.charts import INK, banded, bands, by_variant, layers_axis, panels, tidy
from nbhelpers.report.directions import NAMES, among, answer, claim, everywhere, fitting, sentence, sides
from nbhelpers.report.text import number, percent
from nbhelpers.report.verdicts import DOWN, OPEN, UP, Verdict

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
            rows[f"{title}, {v.upper()}" if len(results) > 1 else v.upper()] = {
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


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ; a caveat with the most alone."""
    found = {v: sides(results, quantities, name) for v, name in CLOSER.items()}
    both = {side: [title for title in found["pt"][side] if title in found["it"][side]] for side in (UP, DOWN)}
    rest = [title for title in results if title not in both[UP] + both[DOWN]]
    pt, it = (closer(results, v, detail) for v in CLOSER)
    answered = answer({**both, OPEN: rest})
    if answered == "undecided" and (found["pt"][UP] or found["it"][UP]):
        answered = "in part"
    return Verdict(
        answered.capitalize(),
        sentence(f"on held-out text, at 0.6 of the depth, {pt}; {it}"),
        gate_sentence(results, detail),
        TURN if detail == NAMES else "",
    )


def closer(results, variant: str, detail: int) -> str:
    """Return the clause on how much closer to the final prediction a model's tuned lens is; PT's comes first."""
    if variant == "pt":
        subject, than, words = (
            "PT's tuned lens",
            " the final prediction than its raw lens",
            ("closer to", "farther from"),
        )
    else:
        subject, than, words = "IT's", "", ("closer", "farther")
    return claim(
        results, quantities, CLOSER[variant], f"{subject} is {{size}} {{word}}{than}",
        f"whether {subject} is {words[0]}{than} is undecided", words, shown=percent, again=variant == "it", detail=detail,
    )  # fmt: skip


def gate_sentence(results, detail: int) -> str:
    """Return the sentence on the gate."""
    passed = [title for title, dataset in results.items() if bool(dataset.gate.all())]
    whole = "(closer at nine tenths of the layers)"
    if not passed:
        return f"One lens or both fail the gate {whole} {everywhere(results, again=True)}".rstrip() + "."
    return f"Both lenses pass the gate {whole} {among(passed, results, detail)}".rstrip() + "."
