"""exp09 across families: the tables and the verdict that set the pairs of a profile beside each other.

Everything is computed from stored results; no model is loaded. Means are over prompts, IT and PT paired
by prompt. DeepSeek is shown with the others and kept out of the pool of dense families, as in the study.
"""

import math
from collections import Counter

import pandas as pd
import xarray as xr

from nbhelpers import depths, params, stats, store
from nbhelpers.charts import rule_title

TITLES = {
    "gemma": "Gemma",
    "llama": "Llama",
    "qwen": "Qwen",
    "mistral": "Mistral",
    "deepseek": "DeepSeek",
    "olmo": "OLMo",
}
POOL = "dense pool"
RULES = {
    "top1_first": "first top-1",
    "top1_strict": "top-1 stays",
    "top1_stable3": "top-1 for 3 layers",
    "kl_first_0.1": "first KL < 0.1",
    "kl_stays_0.1": "KL < 0.1 stays",
    "majority_0.1": "90 % KL < 0.1",
}
ENDS = ["mean", "low", "high"]
SLICES = {"depth 0.5–0.7": (5, 7), "depth 0.7–0.9": (7, 9), "depth 0.9–1": (9, 10)}
ONE = "Every sign rests on a 95 % interval (BCa over prompts)."
SEVERAL = "Every count rests on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni)."
WORDS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def family_titles(profile: str) -> dict[str, str]:
    """Return model key → panel title in the book's order: its family's, or its own where two share one."""
    models = [params.model_params(key) for key in params.profile_params(profile).models]
    models.sort(key=lambda model: params.FAMILIES.index(model.family))
    shared = Counter(model.family for model in models)
    return {model.key: model.title if shared[model.family] > 1 else TITLES[model.family] for model in models}


def open_results(profile: str, experiment: str = "exp09") -> dict[str, xr.Dataset]:
    """Return panel title → dataset for every model of a profile; ResultError names one that is missing."""
    found = store.load_profile(profile, experiment)
    return {title: found[key] for key, title in family_titles(profile).items()}


def is_dense(dataset: xr.Dataset) -> bool:
    """Return whether a result's family is one of the dense ones, that is, not the mixture of experts."""
    return params.model_params(dataset.attrs["model"]).family != "deepseek"


def paired(values: xr.DataArray) -> xr.DataArray:
    """Return IT − PT of values with a `variant` dimension; prompts that lack either are dropped."""
    difference = values.sel(variant="it", drop=True) - values.sel(variant="pt", drop=True)
    return difference.dropna("prompt")


def free(result: xr.Dataset) -> xr.Dataset:
    """Return measures with a `history` free running: each model on the text that it wrote."""
    parts = [result.sel(variant=name, history=name, drop=True) for name in params.VARIANTS]
    return xr.concat(parts, "variant").assign_coords(variant=list(params.VARIANTS))


def gap_by_prompt(dataset: xr.Dataset, direction="final_layer", lens="raw") -> xr.DataArray:
    """Return the convergence gap of each prompt, nats [prompt]: mean over the late half of IT − PT."""
    layers = list(depths.late_half(dataset.sizes["layer"]))
    return paired(dataset[f"kl_{direction}"].sel(lens=lens, drop=True).isel(layer=layers).mean("layer"))


def pooled(results, measure) -> xr.DataArray:
    """Return the mean over dense families of `measure(dataset)`, [prompt], on the prompts that all share."""
    return mean_of([measure(dataset) for dataset in results.values() if is_dense(dataset)])


def mean_of(values: list[xr.DataArray]) -> xr.DataArray:
    """Return the mean over families of values [prompt], on the prompts that all share."""
    return xr.concat(xr.align(*values, join="inner"), dim="model").mean("model")


def interval_table(results, measure, *, pool=True, **options) -> pd.DataFrame:
    """Return mean and BCa interval of `measure(dataset)`, [prompt], by family and for the dense pool."""
    rows = {title: measure(dataset) for title, dataset in results.items()}
    dense = [rows[title] for title, dataset in results.items() if pool and is_dense(dataset)]
    if len(dense) > 1:
        rows[POOL] = mean_of(dense)
    table = [[title, *map(float, stats.bca_mean(values.values, **options))] for title, values in rows.items()]
    return pd.DataFrame(table, columns=["family", *ENDS])


def gap_table(results, direction="final_layer", lens="raw") -> pd.DataFrame:
    """Return the convergence gap, nats, by family and for the dense pool: mean, low, high."""
    return interval_table(results, lambda dataset: gap_by_prompt(dataset, direction, lens))


def delay_by_prompt(dataset: xr.Dataset, rule, lens="raw") -> xr.DataArray:
    """Return the commitment delay of each prompt, layers [prompt]: IT − PT under one rule."""
    return paired(dataset["commitment"].sel(lens=lens, rule=rule, drop=True))


def cosine_by_prompt(dataset: xr.Dataset, component="block", layers=None) -> xr.DataArray:
    """Return IT − PT of the mean δ-cosine over `layers`, [prompt]; the final fifth unless given."""
    layers = list(depths.final_fifth(dataset.sizes["layer"]) if layers is None else layers)
    return paired(
        dataset["delta_cosine"].sel(component=component, drop=True).isel(layer=layers).mean("layer")
    )


def written(table: pd.DataFrame, digits=2) -> list[str]:
    """Return each row's mean and interval as text, "0.42 [0.31, 0.55]", with a true minus sign."""
    rows = table[ENDS].itertuples(index=False, name=None)
    return ["{} [{}, {}]".format(*(number(value, digits) for value in row)) for row in rows]


def number(value, digits=2) -> str:
    """Return a number as text with a true minus sign, none before a zero; a dash for NaN."""
    return "–" if math.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def percent(share) -> str:
    """Return a share as text, in whole per cent."""
    return f"{100 * float(share):.0f} %"


def late_layers_above(dataset: xr.Dataset, direction="final_layer", lens="raw") -> str:
    """Return in how many late-half layers, the last one excepted, IT's mean lies above PT's: "5 of 5"."""
    layers = list(depths.late_half(dataset.sizes["layer"]))[:-1]
    curve = dataset[f"kl_{direction}"].sel(lens=lens).isel(layer=layers).mean("prompt")
    return f"{int((curve.sel(variant='it') > curve.sel(variant='pt')).sum())} of {len(layers)}"


def final_entropy(dataset: xr.Dataset, lens="raw") -> dict[str, float]:
    """Return the mean entropy of the final distribution, nats, by variant."""
    mean = dataset["entropy"].sel(lens=lens).isel(layer=-1).mean("prompt")
    return {name: float(mean.sel(variant=name)) for name in params.VARIANTS}


def gap_summary(results, lens="raw") -> pd.DataFrame:
    """Return the convergence gaps by family as text, in both directions, with what they are read beside."""
    gaps = {name: gap_table(results, name, lens) for name in ("final_layer", "layer_final")}
    table = pd.DataFrame({"family": gaps["final_layer"]["family"]}).set_index("family")
    table["KL(final ‖ layer), nats"] = written(gaps["final_layer"])
    table["KL(layer ‖ final), nats"] = written(gaps["layer_final"])
    for title, dataset in results.items():
        tokens = float(dataset["convergence_gap_tokens"].sel(lens=lens, direction="final_layer"))
        table.loc[title, "first, by token"] = number(tokens)
        table.loc[title, "layers above"] = late_layers_above(dataset, lens=lens)
        table.loc[title, "final entropy PT → IT"] = "{pt:.2f} → {it:.2f}".format(
            **final_entropy(dataset, lens)
        )
    return table.fillna("").rename_axis(None)


def third_summary(results, direction="final_layer") -> pd.DataFrame:
    """Return the gap by thirds of the layers and over the final fifth as text, nats: a row a lens and family."""
    found = {}
    for lens in ("raw", "tuned"):
        parts = dict.fromkeys(("early", "middle", "late", "final fifth"))
        for name in parts:

            def measure(dataset, name=name, lens=lens):
                layers = depths.thirds(dataset.sizes["layer"]) | {
                    "final fifth": depths.final_fifth(dataset.sizes["layer"])
                }
                curve = dataset[f"kl_{direction}"].sel(lens=lens, drop=True).isel(layer=list(layers[name]))
                return paired(curve.mean("layer"))

            table = interval_table(results, measure)
            parts[name] = pd.Series(written(table), index=table["family"])
        found[lens] = pd.DataFrame(parts)
    return pd.concat(found).rename_axis([None, None])


def delay_summary(results, lens="raw", rules=RULES) -> pd.DataFrame:
    """Return the commitment delays IT − PT, layers, as text: a column for each rule (key → heading)."""
    columns = {}
    for rule, heading in rules.items():
        table = interval_table(results, lambda dataset, rule=rule: delay_by_prompt(dataset, rule, lens))
        columns[heading] = pd.Series(written(table), index=table["family"])
    return pd.DataFrame(columns).rename_axis(None)


def cosine_summary(results, component="block") -> pd.DataFrame:
    """Return the δ-cosine shifts IT − PT as text, by family, by depth and for the final fifth."""
    columns = {}
    for heading, (start, stop) in (SLICES | {"final fifth": (8, 10)}).items():

        def measure(dataset, start=start, stop=stop):
            n_layers = dataset.sizes["layer"]
            return cosine_by_prompt(dataset, component, range(start * n_layers // 10, stop * n_layers // 10))

        table = interval_table(results, measure)
        columns[heading] = pd.Series(written(table), index=table["family"])
    return pd.DataFrame(columns).rename_axis(None)


def signs(results, measure) -> dict[str, list[str]]:
    """Return the families whose difference is above zero, below zero, or open.

    The intervals hold jointly over the families at 95 % (Bonferroni).
    """
    table = interval_table(results, measure, pool=False, confidence=1 - 0.05 / len(results))
    above, below = table["low"] > 0, table["high"] < 0
    groups = {"above": above, "below": below, "open": ~(above | below)}
    return {name: table.loc[chosen, "family"].tolist() for name, chosen in groups.items()}


def counted(names, total, noun="families") -> str:
    """Return how many of the families these are, in words, naming them unless they are all or none."""
    if total == 1:
        return "this pair" if names else "no pair here"
    number, whole = (WORDS[n] if n < len(WORDS) else str(n) for n in (len(names), total))
    if not names:
        return f"neither of the two {noun}" if total == 2 else f"none of the {whole} {noun}"
    if len(names) == total:
        return f"both {noun}" if total == 2 else f"all {whole} {noun}"
    return f"{number} of {whole} {noun} ({', '.join(names)})"


def compared(found, total, above, below, noun="families") -> str:
    """Return a clause on the signs of a difference, to follow "is": `above` and `below` say what either sign means."""
    if total == 1:
        return above if found["above"] else below if found["below"] else "undecided"
    parts = [f"{above} in {counted(found['above'], total, noun)}"]
    parts += [f"{below} in {counted(found['below'], total, noun)}"] if found["below"] else []
    parts += [f"undecided in {counted(found['open'], total, noun)}"] if found["open"] else []
    return ", ".join(parts)


def matched_gap(dataset: xr.Dataset, history="it", lens="raw", basis="own") -> xr.DataArray:
    """Return the convergence gap of each prompt on one history that both models read, nats [prompt]."""
    curve = dataset["kl_final_layer_matched"].sel(history=history, lens=lens, basis=basis, drop=True)
    return paired(curve.isel(layer=list(depths.late_half(dataset.sizes["layer"]))).mean("layer"))


def verdict(results, rule="kl_stays_0.1") -> str:
    """Return what this run says to the question of exp09, as Markdown, from the results alone."""
    total, larger = len(results), ("larger in IT", "smaller in IT")
    gap = signs(results, gap_by_prompt)

    def sign(measure, above, below):
        return compared(signs(results, measure), total, above, below)

    def delay(lens):
        return sign(lambda d: delay_by_prompt(d, rule, lens), "later in IT", "earlier in IT")

    answer = "Yes" if len(gap["above"]) == total else "In part" if gap["above"] else "Not in this run"
    sentences = [
        f"**{answer}.** Over the late half of the layers, free running and through the raw lens, KL(final ‖ layer) is "
        + compared(gap, total, "larger in IT than in PT", "smaller in IT"),
        f"Through the tuned lens it is {sign(lambda d: gap_by_prompt(d, lens='tuned'), *larger)}",
        f"In the other direction, KL(layer ‖ final), it is {sign(lambda d: gap_by_prompt(d, 'layer_final'), *larger)}",
        f"With both models on IT's text, KL(final ‖ layer) is {sign(matched_gap, *larger)}",
        f"Commitment by the rule “{rule_title(rule)}” is, raw lens, {delay('raw')}",
        f"Tuned lens, it is {delay('tuned')}",
        "In the final fifth of the layers the block update's opposition to the residual stream is "
        + sign(lambda d: -cosine_by_prompt(d), "stronger in IT", "weaker in IT"),
    ]
    return (
        ". ".join(sentences) + ".\n\n"
        f"The final distribution itself has a lower mean entropy in IT in {counted(sharper(results), total)}; a gap "
        f"to one’s own end point has to be read beside that. {ONE if total == 1 else SEVERAL}"
    )


def sharper(results) -> list[str]:
    """Return the families in which IT's mean final entropy is below PT's."""
    entropy = {title: final_entropy(dataset) for title, dataset in results.items()}
    return [title for title, mean in entropy.items() if mean["it"] < mean["pt"]]
