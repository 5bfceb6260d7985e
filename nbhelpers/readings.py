"""What a run says to the question of each observational experiment: a sentence or two, and the tables beside the
figures.

Every sentence is made from results, of one model or of many, and would say the opposite if they did. Counts of
families rest on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni).
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers import narrowing, params, revision, stats
from nbhelpers.synthesis import compared, counted, interval_table, number, signs, written

JOINT = (
    "Counts rest on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni); *undecided* is an "
    "interval that holds zero."
)
NEITHER = "undecided (too few prompts have such tokens)"


def shift(values: xr.DataArray, dim: str = "prompt") -> xr.DataArray:
    """Return IT − PT of values with a `variant` dimension, [prompt], prompts that lack either left out."""
    both = values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)
    return both.rename({dim: "prompt"}).dropna("prompt") if dim in both.dims else both


def usable(results, measure) -> dict:
    """Return the results for which `measure` has at least five prompts."""
    return {title: d for title, d in results.items() if measure(d).sizes["prompt"] >= 5}


def sentence(results, measure: Callable, above: str, below: str) -> str:
    """Return one clause on the sign of `measure(dataset)`, [prompt], over the families that have enough prompts."""
    kept = usable(results, measure)
    if not kept:
        return NEITHER
    text = compared(signs(kept, measure), len(kept), above, below)
    return text if len(kept) == len(results) else f"{text} (of {len(kept)} with enough prompts)"


def cells(results, measures: dict[str, Callable]) -> pd.DataFrame:
    """Return a table of means with intervals as text: a row a family, a column for each named measure [prompt]."""
    columns = {}
    for heading, measure in measures.items():
        kept = usable(results, measure)
        table = interval_table(kept, measure, pool=False)
        columns[heading] = pd.Series(written(table), index=table["family"])
    return pd.DataFrame(columns).reindex(list(results)).fillna("–").rename_axis(None)


# exp00


def volume(results) -> pd.DataFrame:
    """Return how much each model wrote, and how sharp its end point is, by family."""
    rows = {}
    for title, d in results.items():
        steps = {
            v: d.sel(variant=v).isel(step=np.flatnonzero((d.history == v).values)) for v in params.VARIANTS
        }
        final = {v: s.sel(lens="raw").isel(layer=-1) for v, s in steps.items()}
        arrow = lambda f: " → ".join(f(v) for v in params.VARIANTS)  # noqa: E731
        rows[title] = {
            "tokens PT → IT": arrow(lambda v, d=d: f"{float(d.n_tokens.sel(variant=v).mean()):.1f}"),
            "ended PT → IT": arrow(lambda v, d=d: f"{float(d.stopped.sel(variant=v).mean()):.0%}"),
            "final entropy, nats": arrow(lambda v, f=final: f"{float(f[v].entropy.mean()):.2f}"),
            "top probability": arrow(lambda v, f=final: f"{float(f[v].top1_probability.mean()):.2f}"),
            "same first token on PT's text": f"{same_token(d, 'pt'):.0%}",
            "on IT's text": f"{same_token(d, 'it'):.0%}",
        }
    return pd.DataFrame(rows).T.rename_axis(None)


def same_token(observed: xr.Dataset, history: str) -> float:
    """Return the share of steps on one history at which both models' final first token is the same."""
    top = observed.top1.sel(lens="raw").isel(
        layer=-1, step=np.flatnonzero((observed.history == history).values)
    )
    return float((top.sel(variant="pt") == top.sel(variant="it")).mean())


def exp00(results) -> str:
    """Return how long the texts are and how sharp the end points, in a sentence or two."""
    longer = [
        t
        for t, d in results.items()
        if float(d.n_tokens.sel(variant="pt").mean() - d.n_tokens.sel(variant="it").mean()) > 0
    ]
    sharper = []
    for title, d in results.items():
        own = [
            float(
                d.entropy.sel(variant=v, lens="raw")
                .isel(layer=-1, step=np.flatnonzero((d.history == v).values))
                .mean()
            )
            for v in params.VARIANTS
        ]
        sharper += [title] if own[1] < own[0] else []
    total = len(results)
    return (
        f"PT writes the longer texts in {counted(longer, total)}. IT's own predictions end with the lower mean entropy in "
        f"{counted(sharper, total)}."
    )


# exp07_0g


def at_depth(values: xr.DataArray, share: float = 0.6) -> xr.DataArray:
    """Return values at the layer ⌊share · L⌋."""
    return values.isel(layer=int(share * values.sizes["layer"]), drop=True)


def lens_gain(dataset: xr.Dataset, variant: str) -> xr.DataArray:
    """Return raw − tuned KL(final ‖ layer) at 0.6 of the depth, nats by held-out text; above zero the tuned lens is closer."""
    curve = dataset.kl_final_layer.sel(variant=variant, drop=True).rename(text="prompt")
    return at_depth(curve.sel(lens="raw", drop=True) - curve.sel(lens="tuned", drop=True)).dropna("prompt")


def lens_table(results) -> pd.DataFrame:
    """Return the quality of the tuned lenses by family: KL at 0.6 of the depth, layers improved, last layer, gate."""
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
                "last translator, KL": f"{float(d.last_layer_kl.sel(variant=v)):.1e}",
                "gate": "pass" if bool(d.gate.sel(variant=v)) else "**fail**",
            }
    return pd.DataFrame(rows).T.rename_axis(None)


def exp07_0g(results) -> str:
    """Return whether the tuned lenses do what they are for."""
    passed = [title for title, d in results.items() if bool(d.gate.all())]
    parts = [
        sentence(
            results, lambda d, v=v: lens_gain(d, v), f"closer than the raw lens for {v.upper()}", "farther"
        )
        for v in params.VARIANTS
    ]
    return (
        f"On held-out text, at 0.6 of the depth, the tuned lens is {parts[0]}; it is {parts[1]}. Both lenses of a pair pass the gate in "
        f"{counted(passed, len(results))}: closer than the raw lens at nine tenths of the layers and at 0.6 of the depth, and a "
        f"last translator that changes next to nothing. {JOINT}"
    )


# exp07_0j


def onset_table(results, component: str = "block") -> pd.DataFrame:
    """Return each rule's onset with its interval and its false-alarm rate, a column a family."""
    columns = {}
    for title, d in results.items():
        one = d.sel(component=component)
        columns[title] = [
            f"{_layer(o)} [{_layer(a)}, {_layer(b)}] · {p:.0%}"
            for o, a, b, p in zip(
                one.onset.values, one.onset_low.values, one.onset_high.values, one.found_exchanged.values
            )
        ]
    rules = next(iter(results.values()))["rule"].values
    return pd.DataFrame(columns, index=[str(rule) for rule in rules]).rename_axis("onset · by chance")


def _layer(value: float) -> str:
    """Return a layer as text, a dash for none."""
    return "–" if np.isnan(value) or value < 0 else f"{value:.0f}"


def onset_span(dataset: xr.Dataset) -> tuple[int, int]:
    """Return how many rules find an onset and the span of their layers."""
    found = dataset.onset.sel(component="block").values
    found = found[found >= 0]
    return len(found), int(np.ptp(found)) if len(found) else 0


def exp07_0j(results) -> str:
    """Return whether the nine rules agree on an onset, and whether chance would give one."""
    total, spans = len(results), {title: onset_span(d) for title, d in results.items()}
    allowed = {t: max(1, round(0.15 * d.sizes["layer"])) for t, d in results.items()}
    agree = [t for t, (n, span) in spans.items() if n == results[t].sizes["rule"] and span <= allowed[t]]
    some = [t for t, (n, _) in spans.items() if n]
    onsets = [
        f"{t} {_range(d.onset.sel(component='block').values)}" for t, d in results.items() if spans[t][0]
    ]
    alarm = max(float(d.found_exchanged.sel(component="block").max()) for d in results.values())
    return (
        f"All nine rules find an onset within 15 % of the depth of each other in {counted(agree, total)}; at least one rule finds one in "
        f"{counted(some, total)}{' (layers: ' + '; '.join(onsets) + ')' if onsets else ''}. If PT and IT are exchanged at random, "
        f"the most trigger-happy rule still finds an onset in {alarm:.0%} of the draws."
    )


def _range(layers: np.ndarray) -> str:
    """Return the range of the layers found, as text."""
    found = layers[layers >= 0]
    return f"{found.min():.0f}–{found.max():.0f}" if found.min() < found.max() else f"{found.min():.0f}"


# exp03


def phase(dataset: xr.Dataset, name: str, lens: str = "raw") -> xr.DataArray:
    """Return IT − PT of the adjacent KL averaged over a phase, free running, nats [prompt]."""
    return shift(
        revision.free(dataset[["phase_kl_adjacent"]]).phase_kl_adjacent.sel(phase=name, lens=lens, drop=True)
    )


def late_minds(dataset: xr.Dataset, kind: str, history: str = "free", lens: str = "raw") -> xr.DataArray:
    """Return IT − PT of the share of a class's tokens that are first ranked first late, [prompt]."""
    one = dataset[["late_mind_change"]]
    one = revision.free(one) if history == "free" else one.sel(history=history, drop=True)
    return shift(one.late_mind_change.sel(token_class=kind, lens=lens, drop=True))


def delay(
    dataset: xr.Dataset, stratum: str, history: str = "free", rule: str = "kl_continuous"
) -> xr.DataArray:
    """Return IT − PT of the commitment layer within a stratum of confidence, layers [prompt]."""
    one = dataset[["commitment_by_confidence"]]
    one = revision.free(one) if history == "free" else one.sel(history=history, drop=True)
    return shift(one.commitment_by_confidence.sel(stratum=stratum, rule=rule, lens="raw", drop=True))


def phase_table(results) -> pd.DataFrame:
    """Return IT − PT of the adjacent KL by phase, nats, by family."""
    return cells(
        results, {name: lambda d, n=name: phase(d, n) for name in ("content", "format", "corrective")}
    )


def agreement_gap(dataset: xr.Dataset, which: str, history: str = "it") -> xr.DataArray:
    """Return the late-half KL gap IT − PT on one history over steps where both end on the same token, or not, [prompt]."""
    curve = dataset.kl_by_agreement.sel(history=history, agreement_of=which, lens="raw", drop=True)
    return shift(curve.isel(layer=slice(dataset.sizes["layer"] // 2, None)).mean("layer"))


def agreement_table(results) -> pd.DataFrame:
    """Return the gap on IT's text where both models end on the same token and where they do not, by family."""
    table = cells(results, {which: lambda d, w=which: agreement_gap(d, w) for which in revision.AGREEMENT})
    share = {t: f"{float(d.agreement.sel(variant='pt', history='it')):.0%}" for t, d in results.items()}
    return table.assign(**{"share of steps with the same token": pd.Series(share)})


def gini_table(results) -> pd.DataFrame:
    """Return the mean Gini coefficient of neuron use in late layers and the overlap of the most used neurons, by family."""
    rows = {}
    for title, d in results.items():
        late = d.gini.isel(layer=slice(params.onset(d.sizes["layer"]), None)).mean("layer")
        overlap = d.neuron_overlap.mean("layer")
        rows[title] = {f"Gini, {v.upper()}": f"{float(late.sel(variant=v)):.3f}" for v in params.VARIANTS}
        rows[title] |= {f"top {int(k)} shared": f"{float(overlap.sel(k=k)):.2f}" for k in overlap.k.values}
    return pd.DataFrame(rows).T.rename_axis(None)


def exp03(results) -> str:
    """Return what this run says of a corrective stage."""
    late = sentence(results, lambda d: phase(d, "corrective"), "revises more in IT than in PT", "less")
    early = sentence(results, lambda d: phase(d, "content"), "revises more in IT", "less")
    minds = sentence(results, lambda d: late_minds(d, "structural"), "more often late in IT", "less often")
    content = sentence(results, lambda d: late_minds(d, "content"), "more often late in IT", "less often")
    strata = {
        s: sentence(results, lambda d, s=s: delay(d, s), "later in IT", "earlier") for s in ("high", "low")
    }
    matched = sentence(results, lambda d: delay(d, "high", "it"), "later in IT", "earlier")
    return (
        f"Free running, the corrective phase {late}; the content phase {early}. Structural tokens come first {minds}, content tokens "
        f"{content}. Commitment is {strata['high']} at high confidence, and at low confidence {strata['low']}. On IT's own text, given "
        f"to both models, commitment at high confidence is {matched}. {JOINT}"
    )


# exp04


def late_dimension(dataset: xr.Dataset, template: str, estimator: str = "two_nn") -> float:
    """Return IT − PT of the mean intrinsic dimension over the final fifth of the layers, under one template or the native."""
    curve = (
        dataset.dimension.sel(estimator=estimator)
        .isel(layer=list(params.final_fifth(dataset.sizes["layer"])))
        .mean("layer")
    )
    chosen = {"pt": "raw", "it": "chat"} if template == "native" else dict.fromkeys(params.VARIANTS, template)
    pt, it = (float(curve.sel(variant=v, template=chosen[v])) for v in params.VARIANTS)
    return it - pt


def attention_mean(dataset: xr.Dataset, template: str) -> xr.DataArray:
    """Return IT − PT of the attention entropy over its ceiling, mean over layers, by prompt."""
    values = dataset.attention_normalised.mean("layer")
    if template == "native":
        it, pt = values.sel(variant="it", template="chat"), values.sel(variant="pt", template="raw")
        return (it - pt).rename(cloud_prompt="prompt").reset_coords(drop=True)
    return shift(values.sel(template=template, drop=True), "cloud_prompt")


def transition_table(results) -> pd.DataFrame:
    """Return the contrast of a third of the depth with the other layers and its two p-values, by profile and family."""
    columns = {}
    for title, d in results.items():
        rows = zip(d.statistic.values, d.p_permuted.values, d.p_window.values)
        columns[title] = [f"{number(s, 3)} · {p:.2f} · {w:.2f}" for s, p, w in rows]
    index = [str(name) for name in next(iter(results.values()))["profile"].values]
    return pd.DataFrame(columns, index=index).rename_axis("contrast · p, order · p, window")


def exp04(results) -> str:
    """Return what this run says of a transition near a third of the depth."""
    total = len(results)
    higher = {
        (t, e): [n for n, d in results.items() if late_dimension(d, t, e) > 0]
        for t in ("native", "raw", "chat")
        for e in ("two_nn", "mle")
    }
    names = {"native": "native prompts", "raw": "plain text for both", "chat": "chat turns for both"}
    counts = "; ".join(
        f"{names[t]}: {len(higher[t, 'two_nn'])} by TwoNN, {len(higher[t, 'mle'])} by maximum likelihood"
        for t in names
    )
    stands = []
    for title, d in results.items():
        p = stats.holm(d.p_window.values)
        stands += [title] if (p < 0.05).any() else []
    native = sentence(results, lambda d: attention_mean(d, "native"), "wider in IT", "narrower")
    chat = sentence(results, lambda d: attention_mean(d, "chat"), "wider in IT", "narrower")
    return (
        f"IT's cloud has the higher dimension in the final fifth of the layers in so many of {total} families: {counts}. Among windows of its "
        f"width, a third of the depth stands out in some profile in {counted(stands, total)} (Holm over profiles, 5 %). Attention "
        f"from the prompt's end, as a share of its ceiling, is {native} under native templates; with chat turns for both it is {chat}. {JOINT}"
    )


# exp01


def fit_table(results) -> pd.DataFrame:
    """Return the slope and correlation of log attribution on log N90, by family, selection and variant."""
    rows = {}
    for title, d in results.items():
        for selection in d.selection.values:
            one = d.sel(selection=selection, quantity="attribution")
            rows[title, str(selection)] = {
                f"{statistic}, {v.upper()}": _interval(one, statistic, v)
                for statistic in ("slope", "pearson")
                for v in params.VARIANTS
            }
    return pd.DataFrame(rows).T.rename_axis([None, "chosen by"])


def _interval(fit: xr.Dataset, statistic: str, variant: str) -> str:
    """Return a fitted value with its interval as text."""
    one = fit.sel(statistic=statistic, variant=variant)
    low, high = number(float(one.fit_low)), number(float(one.fit_high))
    return f"{number(float(one.fit))} [{low}, {high}]"


def fit_signs(results, selection: str, variant: str) -> dict[str, list[str]]:
    """Return the families whose correlation of log attribution with log N90 is above, below or undecided at zero, at 95 %."""
    groups = {"above": [], "below": [], "open": []}
    for title, d in results.items():
        one = d.sel(selection=selection, variant=variant, statistic="pearson", quantity="attribution")
        low, high = float(one.fit_low), float(one.fit_high)
        groups["above" if low > 0 else "below" if high < 0 else "open"].append(title)
    return groups


def support_fall(dataset: xr.Dataset, variant: str) -> xr.DataArray:
    """Return ln of the effective support of the middle layer over that of the last, [prompt]; above zero it narrows late."""
    support = np.log(dataset.support.sel(variant=variant, drop=True))
    return (support.isel(layer=support.sizes["layer"] // 2) - support.isel(layer=-1)).reset_coords(drop=True)


def exp01(results) -> str:
    """Return what this run says of narrowing with depth and of attribution and breadth."""
    total = len(results)
    falls = {
        v: sentence(results, lambda d, v=v: support_fall(d, v), "narrower", "wider") for v in params.VARIANTS
    }
    trend = sentence(results, lambda d: narrowing.depth_trend(d), "broader with depth", "narrower")
    fits = {
        s: compared(fit_signs(results, s, "it"), total, "above zero", "below")
        for s in ("attribution", "random")
    }
    return (
        f"From the middle of the stack to the end the lens distribution at the answer becomes, for PT, {falls['pt']}; for IT, "
        f"{falls['it']}. IT's MLP updates become {trend}. The correlation of log attribution with log breadth in IT is {fits['attribution']} "
        f"among neurons chosen by attribution, and {fits['random']} among random ones (95 % intervals over prompts). {JOINT}"
    )


# exp02


def kinds_table(results) -> pd.DataFrame:
    """Return the p-value that kinds of prompts differ at some layer, by measure and condition, a column a family."""
    rows = {}
    for title, d in results.items():
        for c in d.condition.values:
            for m in d.measure.values:
                rows.setdefault((str(m), str(c)), {})[title] = (
                    f"{float(d.p_layers.sel(condition=c, measure=m)):.3f}"
                )
    return pd.DataFrame(rows).T.rename_axis(["measure", "condition"])


def kinds_differ(results, measure: str) -> list[str]:
    """Return the families in which kinds differ in δ-cosine or another measure under all conditions (Holm over families)."""
    p = np.array([d.p_layers.sel(measure=measure).values.max() for d in results.values()])
    return [title for title, adjusted in zip(results, stats.holm(p)) if adjusted < 0.05]


def template_effect(dataset: xr.Dataset, which: str) -> xr.DataArray:
    """Return IT with less IT without its template of the δ-cosine, [prompt]: at the last layer, or the mean of the others."""
    values = dataset.template_shift
    return (
        values.isel(layer=-1, drop=True) if which == "last" else values.isel(layer=slice(1, -1)).mean("layer")
    )


def opposition(dataset: xr.Dataset, condition: str) -> xr.DataArray:
    """Return the δ-cosine of IT under a condition less PT's in the final fifth of the layers, [prompt]."""
    block = dataset.delta_cosine.sel(component="block", drop=True)
    block = block.isel(layer=list(params.final_fifth(dataset.sizes["layer"]))).mean("layer")
    return (block.sel(condition=condition, drop=True) - block.sel(condition="PT", drop=True)).dropna("prompt")


def template_table(results) -> pd.DataFrame:
    """Return what the template changes in the δ-cosine and how much of the late shift is left without it, by family."""
    measures = {
        "template's effect, last layer": lambda d: template_effect(d, "last"),
        "template's effect, other layers": lambda d: template_effect(d, "other"),
        "IT − PT, final fifth, with template": lambda d: opposition(d, "IT"),
        "IT − PT, final fifth, without": lambda d: opposition(d, "IT without template"),
    }
    return cells(results, measures)


def exp02(results) -> str:
    """Return whether kinds of prompts differ, and whether the late shift needs the template."""
    total = len(results)
    cosine, entropy = kinds_differ(results, "delta_cosine"), kinds_differ(results, "entropy")
    with_, without = (
        sentence(
            results, lambda d, c=c: opposition(d, c), "less against the stream than PT's", "more against it"
        )
        for c in ("IT", "IT without template")
    )
    last = sentence(results, lambda d: template_effect(d, "last"), "weakens", "strengthens")
    return (
        f"In-context, out-of-context and reasoning prompts differ in the δ-cosine of some layer under all three conditions in "
        f"{counted(cosine, total)}, in lens entropy in {counted(entropy, total)} (permutation within prompt forms, largest F over "
        f"layers, Holm over families). In the final fifth of the layers IT's update points {with_} with the chat template, and "
        f"{without} without it. At the last layer the template {last} the opposition. {JOINT}"
    )


READINGS: dict[str, Callable] = {
    function.__name__: function for function in (exp00, exp01, exp02, exp03, exp04, exp07_0g, exp07_0j)
}  # fmt: skip
