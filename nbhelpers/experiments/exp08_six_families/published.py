"""What the study stored of one direction in its six pairs: commitment and dimension by dose, rank and stability by layer."""

from collections.abc import Iterator

from nbhelpers.experiments.exp08_six_families import figures
from nbhelpers.experiments.exp08_six_families.experiment import VARIABLES
from nbhelpers.report.published import Drawn, completed, curve, point

DOSES = "A1_alpha_"
STEERED = (0.0, -1.0)


def commitments(content) -> Iterator[dict]:
    """Yield the mean commitment layer by dose from `phase0_commitment.json`: {model: {condition: {…}}}."""
    for model, conditions in content.items():
        for name, of in conditions.items():
            if name.startswith(DOSES):
                at = {"rule": "top1_strict", "endpoint": "own", "forced_dose": float(of["alpha"])}
                counted = {"n": of["n_tokens"], "over": "steps"}
                yield point(model, "commitment", of["mean_commitment"], **counted, **at)


def dimensions(content) -> Iterator[dict]:
    """Yield the change of dimension from dose 1 by layer from `phase0_id_steering.json`."""
    for model, of in content.items():
        known = {float(dose): found["id_twonn"] for dose, found in of["profiles"].items()}
        for dose in STEERED:
            if dose in known and 1.0 in known:
                values = [a - b for a, b in zip(known[dose], known[1.0], strict=True)]
                at = {"estimator": "two_nn", "cloud_dose": dose}
                yield from curve(model, "dimension_change", values, n=of["n_prompts"], over="prompts", **at)


def ranks(content) -> Iterator[dict]:
    """Yield the share of the first principal component by late layer from `phase0_pca_scree.json`."""
    for model, of in content.items():
        for layer, found in of["per_layer_pca"].items():
            at = {"rank_measure": "centred_pc1", "layer": int(layer)}
            yield point(
                model, "rank_one", found["pc1_variance_ratio"], n=of["n_records"], over="prompts", **at
            )


def halves(content) -> Iterator[dict]:
    """Yield the cosine of the directions of two halves of the prompts by layer from `phase0_direction_stability.json`."""
    for model, of in content.items():
        for layer, found in of["split_half_per_layer"].items():
            at = {"stability_measure": "split_half", "layer": int(layer)}
            yield point(model, "stability", found["mean_cosine"], **at)


FILES = {
    "phase0_commitment.json": commitments,
    "phase0_id_steering.json": dimensions,
    "phase0_pca_scree.json": ranks,
    "phase0_direction_stability.json": halves,
}
UNUSED = {
    "phase0_bootstrap_stability.json": "resamples against a direction of other prompts: not the halves drawn here",
    "phase0_effect_sizes.json": "effect sizes of one dose whose scores are not stored; they stand in the ledger",
    "phase0_monotonicity.json": "rank correlations with the dose, single numbers; they stand in the ledger",
}
COORDS = {
    "rank_measure": list(figures.RANKS),
    "stability_measure": list(figures.STABLE),
    "forced_prompt": ["stored mean"],
}
DRAWN = (
    "commitment",
    "commitment_pt",
    "dimension_change",
    "rank_one",
    "permuted",
    "permuted_high",
    "stability",
)
NOTE = (
    "One direction a layer, from 200 prompts, rescaled in the late layers of IT. Commitment is of the text that each "
    "dose writes, without its first five steps, here of IT's own reply under every dose; the rule is the raw lens's "
    "top-1 token that stays, and PT was not read. Dimension is of 5,000 tokens of such texts. Scores of replies by "
    "dose stand on the page of the two directions."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    names = {
        name: VARIABLES[name]
        for name in VARIABLES
        if name.removesuffix("_low").removesuffix("_high") in DRAWN
    }
    whole = {title: completed(data, names, COORDS) for title, data in results.items()}
    return {
        "Commitment by dose": lambda: figures.commitment(whole),
        "Dimension by dose": lambda: figures.dimension(whole),
        "How much is one direction": lambda: figures.rank(whole),
        "Stability": lambda: figures.stability(whole),
    }
