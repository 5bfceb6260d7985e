"""What the study stored of its grafts under the same tokens: three windows in PT, and commitment under the late one."""

from collections.abc import Iterator

from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp11_matched_prefix import report
from nbhelpers.report.graft_charts import BASES, window_rows
from nbhelpers.report.published import Drawn, point

STORED_VARIABLES = declared(
    {
        ("readout", "region", "side", "window", "lens", "basis", "prompt"): {
            "shift": ("nats, layers or 1", "change from the host's baseline, by read-out"),
        },
    }
)
REGIONS = {"final_fifth": "final_20pct", "window": "graft_window"}
READOUTS = {
    "kl_layer_final": "kl_to_own_final",
    "kl_layer_teacher": "cross_kl",
    "delta_cosine_mlp": "delta_cosine",
}
CONDITIONS = {
    "A'": "pipeline_a_prime",
    "B_late": "pipeline_b",
    "C": "pipeline_c",
    "A'_tmpl": "pipeline_a_prime_tmpl",
    "B2": "pipeline_b2",
}
COMMITMENT = "mean_commitment_layer_kl_0.1"


def windows(content) -> Iterator[dict]:
    """Yield the changes by window from the depth ablation in `exp13a_lite_summary.json`."""
    for model, of in content["models"].items():
        for window in ("early", "mid", "late"):
            found = of["depth_ablation_600"]["summary_only"]["pipelines"][f"B_{window}_raw"]
            at = {"side": "sufficiency", "window": window, "basis": "host", "lens": "tuned"}
            for region, theirs in REGIONS.items():
                for readout, name in READOUTS.items():
                    value = found["regions"][theirs][name]["delta"]
                    yield point(model, "shift", value, readout=readout, region=region, **at)
            value = found["prompt_level"][f"delta_{COMMITMENT}"]
            yield point(model, "shift", value, readout="commitment", region="final_fifth", **at)


def commitments(content) -> Iterator[dict]:
    """Yield the commitment layers by condition of `overview_metrics.json`, a list of models."""
    for of in content:
        for condition, name in CONDITIONS.items():
            if f"{name}_{COMMITMENT}" in of:
                at = {"condition": condition, "rule": "kl_layer_final_0.1", "lens": "tuned", "basis": "host"}
                value, n = of[f"{name}_{COMMITMENT}"], of["n_prompts"]
                yield point(of["model"], "commitment", value, n=n, over="prompts", teacher="it", **at)


FILES = {
    "*13a_lite_summary.json": windows,
    "*_teacherforced/overview_metrics.json": commitments,
}
UNUSED = {
    "*_tunedlens_*/overview_metrics.json": "of an earlier run in which each condition wrote its own text: no shared tokens"
}
NOTE = (
    "PT's side alone: the study put PT's MLPs into IT in a later run, which has a page of its own. Changes are "
    "differences of means over the steps of IT's replies, through PT's translators; here they are of means by prompt. "
    "Up to 600 prompts, fewer where traces are damaged. Controls, curves by layer, a sliding window and PT's replies "
    "as forced tokens were not run or not stored."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    titles = {
        "kl_layer_final": "Change in the final fifth",
        "kl_layer_teacher": "Nearer to the teacher?",
        "commitment": "Commitment",
        "delta_cosine_mlp": "δ-cosine",
    }
    return {
        heading: lambda readout=readout: report.shift_forest(rows(results, readout), readout)
        for readout, heading in titles.items()
    }


def rows(results, readout: str):
    """Return the table that `report.shift_forest` draws, of stored changes in the final fifth."""

    def values(dataset):
        return dataset["shift"].sel(region="final_fifth", readout=readout, drop=True)

    found = window_rows(results, values, pool=True)
    return found.assign(basis=found["basis"].map(BASES))
