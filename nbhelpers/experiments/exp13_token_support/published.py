"""What the study stored of the tokens that a late graft displaces and supports, and of what late updates push at."""

from collections.abc import Iterator, Mapping

from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp13_token_support import report
from nbhelpers.experiments.exp13_token_support.correlates import OF_UPDATES
from nbhelpers.experiments.exp13_token_support.experiment import VARIABLES
from nbhelpers.report.graft_charts import window_rows
from nbhelpers.report.published import Drawn, completed, point

STORED_VARIABLES = declared(
    {
        ("axis", "measured", "prompt"): {
            "late_cosine": ("1", "cosine of late MLP updates with an axis, mean over the final fifth"),
        },
    }
)
ROLES = {"displaced": "suppressed", "supported": "supported"}
CLASSES = ("CONTENT", "FUNCTION", "DISCOURSE", "STRUCTURAL", "PUNCTUATION", "OTHER")
MEASURED = {"A'": "A_prime_raw", "B_late": "B_late_raw", "D_late": "D_late_ptswap", "C": "C_it_chat"}
AXES = {"support_teacher": "support_teacher", "anti_top1": "anti_top1", "anti_kl": "anti_kl_final"}
ENDS = ("share_low", "share_high", "r_low", "r_high")


def tokens(content) -> Iterator[dict]:
    """Yield classes of displaced and supported tokens, and rank gains by window, from `exp13a_lite_summary.json`."""
    for model, of in content["models"].items():
        found = of["teacherforced_400"]["displacement"]
        for role, theirs in ROLES.items():
            total = sum(found[theirs][kind]["count"] for kind in CLASSES)
            for kind in CLASSES:
                at = {"condition": "B_late", "lens": "tuned", "role": role, "token_class": kind.lower()}
                yield point(
                    model, "share", found[theirs][kind]["fraction"], n=total, over="replaced tokens", **at
                )
        for window in ("early", "mid", "late"):
            gained = of["depth_ablation_600"]["teacher_rank_gain_by_window"][f"B_{window}_raw"]
            yield from gains(model, f"B_{window}", gained)


def gains(model: str, condition: str, gained: Mapping) -> Iterator[dict]:
    """Yield the mean rank gain of the teacher's token by its class under one window; none of a window without traces."""
    for kind in CLASSES:
        if kind in gained:
            at = {"part": "later", "token_class": kind.lower(), "condition": condition, "lens": "tuned"}
            value, n = gained[kind]["mean_rank_gain"], gained[kind]["count"]
            yield point(model, "rank_gain", value, n=n, over="steps", **at)


def updates(content) -> Iterator[dict]:
    """Yield cosines of late updates with three axes, and their correlation with late KL, from `exp13_full_summary.json`."""
    for model, of in content["models"].items():
        found = of["mechanism"]
        for measured, name in MEASURED.items():
            at = {"measured": measured}
            for axis, theirs in AXES.items():
                value = found["late_mean_by_pipeline"][name][f"{theirs}_cosine"]
                yield point(model, "late_cosine", value, axis=axis, **at)
            at |= {"scale": "cosine", "kind": "level", "given": "nothing", "lens": "tuned"}
            related = found["predictive_correlation_by_pipeline"][name]
            names = {axis: f"{theirs}_cosine" for axis, theirs in AXES.items()} | {
                "delta_cosine": "delta_cosine"
            }
            for feature, theirs in names.items():
                yield point(model, "r", related[theirs], feature=feature, **at)


FILES = {"exp13a_lite_summary.json": tokens, "exp13_full_summary.json": updates}
UNUSED: dict[str, str] = {}
NOTE = (
    "Every step and layer has the same weight, so that long replies count more; here every prompt has. Candidate "
    "tokens were classed by themselves, here in their text. Gains are differences of ranks, whose means hang on a few "
    "large ones; this book's own figure takes their logarithms. The first step of a reply is among the steps. Traces "
    "of Mistral and OLMo are lost in the depth run, so that their gains are missing. In Mistral many function words "
    "were read as content. Of tokens that a late layer is the first to rank first, only the classes' shares among "
    "them were stored, not shares of steps."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    ends = {name: VARIABLES[name] for name in ENDS}
    whole = {title: completed(data, ends, {"feature": OF_UPDATES}) for title, data in results.items()}
    gained = {title: data for title, data in results.items() if "rank_gain" in data}
    return {
        "Tokens displaced and supported": lambda: report.displaced(whole),
        "Gain of the teacher's token": lambda: report.gains(gained, "rank_gain"),
        "Late updates along three axes": lambda: report.push_forest(pushed(results), "cosine"),
        "Late updates and late distance": lambda: report.related(whole),
    }


def pushed(results):
    """Return the table that `report.push_forest` draws, of stored cosines."""
    return window_rows(results, lambda dataset: dataset["late_cosine"].sel(measured=list(report.READERS)))
