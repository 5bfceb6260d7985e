"""What a run says to the question of each observational experiment, in a sentence or two.

Every sentence is made from results, of one model or of many, and would say the opposite if they did. Counts of
families rest on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni). The tables that
stand beside the sentences are in `tables`.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from nbhelpers import depths, params, stats
from nbhelpers.synthesis import WORDS, compared, counted, free, percent, signs
from nbhelpers.tables import at_depth, final_entropy, late_cosine, phase, shift, template_effect, usable

JOINT = (
    "Counts rest on intervals that hold jointly over the families at 95 % (BCa over prompts, Bonferroni); *undecided* is "
    "an interval that holds zero."
)
ALONE = "*Undecided* is a 95 % interval (BCa over prompts) that holds zero."
TOO_FEW = "undecided (too few prompts)"


def grounds(results) -> str:
    """Return what counts and verdicts rest on, of one model or of many."""
    return ALONE if len(results) == 1 else JOINT


def sentence(results, measure: Callable, above: str, below: str) -> str:
    """Return a clause, to follow "is", on the sign of `measure(dataset)`, [prompt], where there are enough prompts."""
    kept = usable(results, measure)
    if not kept:
        return TOO_FEW
    found = signs(kept, lambda values: values)
    if len(kept) == len(results):
        return compared(found, len(kept), above, below)
    if len(kept) == 1:
        return (
            f"{compared(found, 1, above, below)} in {next(iter(kept))}, the only family with enough prompts"
        )
    return compared(found, len(kept), above, below, noun="families with enough prompts")


def exp00(results) -> str:
    """Return how long the texts are and how sharp the end points."""
    total = len(results)
    length = {t: d.n_tokens.mean("prompt") for t, d in results.items()}
    longer = [t for t, n in length.items() if float(n.sel(variant="pt") - n.sel(variant="it")) > 0]
    sharper = [t for t, d in results.items() if final_entropy(d, "it") < final_entropy(d, "pt")]
    return (
        f"On average PT writes the longer texts in {counted(longer, total)}. IT's own predictions end with the lower mean "
        f"entropy in {counted(sharper, total)}."
    )


def lens_gain(dataset: xr.Dataset, variant: str) -> xr.DataArray:
    """Return raw − tuned KL(final ‖ layer) at 0.6 of the depth, nats by held-out text; above zero tuned is closer."""
    curve = dataset.kl_final_layer.sel(variant=variant, drop=True).rename(text="prompt")
    return at_depth(curve.sel(lens="raw", drop=True) - curve.sel(lens="tuned", drop=True)).dropna("prompt")


def exp07_0g(results) -> str:
    """Return whether the tuned lenses do what they are for."""
    passed = [title for title, d in results.items() if bool(d.gate.all())]
    closer = "closer to the final prediction than the raw lens"
    pt = sentence(results, lambda d: lens_gain(d, "pt"), closer, "farther from it")
    it = sentence(results, lambda d: lens_gain(d, "it"), closer, "farther from it")
    return (
        f"On held-out text, at 0.6 of the depth, PT's tuned lens is {pt}. IT's tuned lens is {it}. Both lenses pass the gate "
        f"in {counted(passed, len(results))}: closer than the raw lens at nine tenths of the layers and at 0.6 of the depth, "
        f"and a last translator that changes next to nothing. {grounds(results)}"
    )


def found_onsets(dataset: xr.Dataset) -> np.ndarray:
    """Return the onsets of the block's δ-cosine, layers, of the rules that find one."""
    found = dataset.onset.sel(component="block").values
    return found[found >= 0]


def agree(dataset: xr.Dataset) -> bool:
    """Return whether all rules find an onset, within 15 % of the depth of each other."""
    found, allowed = found_onsets(dataset), max(1, round(0.15 * dataset.sizes["layer"]))
    return len(found) == dataset.sizes["rule"] and int(np.ptp(found)) <= allowed


def exp07_0j(results) -> str:
    """Return whether the threshold rules agree on an onset, and whether chance would give one."""
    total, onsets = len(results), {title: found_onsets(d) for title, d in results.items()}
    agreeing = [title for title, d in results.items() if agree(d)]
    some = {t: f"{t} {_span(found)}" for t, found in onsets.items() if len(found)}
    layers = f" (layers: {'; '.join(some.values())})" if some else ""
    alarm = max(float(d.found_exchanged.sel(component="block").max()) for d in results.values())
    rules = next(iter(results.values())).sizes["rule"]
    return (
        f"All {WORDS[rules]} rules find an onset within 15 % of the depth of each other in {counted(agreeing, total)}; at "
        f"least one rule finds one in {counted(list(some), total)}{layers}. If PT and IT are exchanged at random, the most "
        f"trigger-happy rule still finds an onset in {'up to ' if total > 1 else ''}{percent(alarm)} of the draws."
    )


def _span(layers: np.ndarray) -> str:
    """Return the range of layers as text."""
    first, last = layers.min(), layers.max()
    return f"{first:.0f}–{last:.0f}" if first < last else f"{first:.0f}"


def late_minds(dataset: xr.Dataset, kind: str, lens: str = "raw") -> xr.DataArray:
    """Return IT − PT of the share of a class's tokens that are first ranked first late, free running, [prompt]."""
    values = free(dataset[["late_mind_change"]]).late_mind_change
    return shift(values.sel(token_class=kind, lens=lens, drop=True))


def delay(dataset: xr.Dataset, stratum: str, history="free", rule="kl_continuous") -> xr.DataArray:
    """Return IT − PT of the commitment layer within a stratum of confidence, layers [prompt]."""
    one = dataset[["commitment_by_confidence"]]
    one = free(one) if history == "free" else one.sel(history=history, drop=True)
    return shift(one.commitment_by_confidence.sel(stratum=stratum, rule=rule, lens="raw", drop=True))


def exp03(results) -> str:
    """Return what this run says of a corrective stage."""
    larger, later = ("larger in IT than in PT", "smaller in IT"), ("later in IT than in PT", "earlier in IT")
    corrective = sentence(results, lambda d: phase(d, "corrective"), *larger)
    content = sentence(results, lambda d: phase(d, "content"), *larger)
    structural = sentence(results, lambda d: late_minds(d, "structural"), *larger)
    contents = sentence(results, lambda d: late_minds(d, "content"), *larger)
    high, low = (sentence(results, lambda d, s=s: delay(d, s), *later) for s in ("high", "low"))
    matched = sentence(results, lambda d: delay(d, "high", "it"), *later)
    return (
        f"Free running, the divergence from layer to layer in the corrective phase is {corrective}; in the content phase it "
        f"is {content}. The share of structural tokens that come first only from the onset on is {structural}; that of "
        f"content tokens is {contents}. At high confidence commitment is {high}; at low confidence it is {low}. With both "
        f"models on IT's text, commitment at high confidence is {matched}. {grounds(results)}"
    )


READ_AS = {"native": "native prompts", "raw": "plain text for both", "chat": "chat turns for both"}


def late_dimension(dataset: xr.Dataset, template: str, estimator: str = "two_nn") -> float:
    """Return IT − PT of the mean intrinsic dimension over the final fifth, under one template or the native ones."""
    layers = list(depths.final_fifth(dataset.sizes["layer"]))
    curve = dataset.dimension.sel(estimator=estimator).isel(layer=layers).mean("layer")
    chosen = params.NATIVE if template == "native" else dict.fromkeys(params.VARIANTS, template)
    pt, it = (float(curve.sel(variant=v, template=chosen[v])) for v in params.VARIANTS)
    return it - pt


def higher(results, template: str) -> str:
    """Return, by estimator, where IT's cloud has the higher dimension late: a count of families, or yes or no."""
    said = []
    for estimator, name in (("two_nn", "TwoNN"), ("mle", "maximum likelihood")):
        above = [late_dimension(d, template, estimator) > 0 for d in results.values()]
        said.append(f"{sum(above) if len(above) > 1 else 'yes' if above[0] else 'no'} by {name}")
    return f"with {READ_AS[template]}: {', '.join(said)}"


def attention_mean(dataset: xr.Dataset, template: str) -> xr.DataArray:
    """Return IT − PT of the attention entropy over its ceiling, mean over layers, [prompt]."""
    values = dataset.attention_normalised.mean("layer")
    if template == "native":
        it, pt = (values.sel(variant=v, template=params.NATIVE[v], drop=True) for v in ("it", "pt"))
        return (it - pt).rename(cloud_prompt="prompt").dropna("prompt")
    return shift(values.sel(template=template, drop=True), "cloud_prompt")


def extreme(dataset: xr.Dataset) -> tuple[int, int, float]:
    """Return in how many profiles a third of the depth has the largest contrast of all windows, of how many, by chance."""
    from nbhelpers import transition  # loaded only here: with it comes PyTorch

    n_layers = dataset.sizes["layer"]
    windows = n_layers - len(transition.third(n_layers)) + 1
    # A change between layers has no value at layer 0, hence a window less: 1.5 tells the first rank from the second.
    largest = int((dataset.p_window < 1.5 / windows).sum())
    return largest, dataset.sizes["profile"], dataset.sizes["profile"] / windows


def exp04(results) -> str:
    """Return what this run says of a transition near a third of the depth."""
    total = len(results)
    where = "" if total == 1 else f", families of {total}"
    largest, profiles, chance = map(sum, zip(*map(extreme, results.values())))
    native = sentence(
        results, lambda d: attention_mean(d, "native"), "wider in IT than in PT", "narrower in IT"
    )
    chat = sentence(results, lambda d: attention_mean(d, "chat"), "wider in IT than in PT", "narrower in IT")
    return (
        f"IT's cloud has the higher dimension in the final fifth of the layers (point values{where}) "
        f"{'; '.join(higher(results, template) for template in READ_AS)}. Of all windows of its width, the one at a third of "
        f"the depth has the largest contrast in {largest} of {profiles} profiles over layers, where chance alone would give "
        f"about {chance:.0f}. Under native templates, attention from the prompt's end is, as a share of its ceiling, "
        f"{native}; with chat turns for both it is {chat}. {grounds(results)}"
    )


def fit_signs(results, selection: str, variant: str) -> dict[str, list[str]]:
    """Return the families whose correlation of log attribution with log N90 is above, below or open at zero, at 95 %."""
    groups = {"above": [], "below": [], "open": []}
    for title, d in results.items():
        one = d.sel(selection=selection, variant=variant, statistic="pearson", quantity="attribution")
        low, high = float(one.fit_low), float(one.fit_high)
        groups["above" if low > 0 else "below" if high < 0 else "open"].append(title)
    return groups


def support_fall(dataset: xr.Dataset, variant: str) -> xr.DataArray:
    """Return ln of the effective support of the middle layer over that of the last, [prompt]; above zero it narrows."""
    support = np.log(dataset.support.sel(variant=variant, drop=True))
    middle = support.isel(layer=support.sizes["layer"] // 2, drop=True)
    return (middle - support.isel(layer=-1, drop=True)).dropna("prompt")


def exp01(results) -> str:
    """Return what this run says of narrowing with depth and of attribution and breadth."""
    from nbhelpers import narrowing  # loaded only here: with it comes PyTorch

    falls = {
        v: sentence(results, lambda d, v=v: support_fall(d, v), "narrower", "wider") for v in params.VARIANTS
    }
    trend = sentence(results, lambda d: narrowing.depth_trend(d).dropna("prompt"), "broader", "narrower")
    fits = {
        s: compared(fit_signs(results, s, "it"), len(results), "above zero", "below it")
        for s in ("attribution", "random")
    }
    return (
        f"At the end of the stack the lens distribution at the answer is, compared with the middle, for PT {falls['pt']}; "
        f"for IT it is {falls['it']}. With depth, IT's MLP updates are {trend}. In IT the correlation of log attribution "
        f"with log breadth among neurons chosen by attribution is {fits['attribution']}; among random ones it is "
        f"{fits['random']} (95 % intervals over prompts). {grounds(results)}"
    )


def kinds_differ(results, measure: str) -> list[str]:
    """Return the families in which kinds of prompts differ in a measure under all conditions (Holm over families)."""
    p = np.array([d.p_layers.sel(measure=measure).values.max() for d in results.values()])
    return [title for title, adjusted in zip(results, stats.holm(p)) if adjusted < 0.05]


def exp02(results) -> str:
    """Return whether kinds of prompts differ, and whether the late shift needs the template."""
    total = len(results)
    cosine, entropy = kinds_differ(results, "delta_cosine"), kinds_differ(results, "entropy")
    opposed = ("stronger in IT than in PT", "weaker in IT")  # a lower cosine opposes the stream more
    with_ = sentence(results, lambda d: -late_cosine(d, "IT"), *opposed)
    without = sentence(results, lambda d: -late_cosine(d, "IT without template"), *opposed)
    last = sentence(results, lambda d: -template_effect(d, "last"), "stronger", "weaker")
    several = ", Holm over families" if total > 1 else ""
    return (
        f"In-context, out-of-context and reasoning prompts differ in the δ-cosine of some layer under all three conditions "
        f"in {counted(cosine, total)}, in lens entropy in {counted(entropy, total)} (permutation within prompt forms, "
        f"largest F over layers{several}). In the final fifth of the layers the update's opposition to the residual stream "
        f"is, with the chat template, {with_}; without it, it is {without}. At the last layer IT's opposition is, with the "
        f"template rather than without, {last}. {grounds(results)}"
    )


READINGS: dict[str, Callable] = {
    function.__name__: function for function in (exp00, exp01, exp02, exp03, exp04, exp07_0g, exp07_0j)
}  # fmt: skip
