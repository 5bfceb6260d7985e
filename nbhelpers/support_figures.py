"""The figures of token support and late updates (exp13), a panel a family.

Hosts and windows have the colours of `graft_figures`; intervals are 95 % BCa intervals over prompts.
"""

import altair as alt
import pandas as pd

from nbhelpers import charts
from nbhelpers.correlates import OF_UPDATES
from nbhelpers.graft_figures import IT_HOST, PT_HOST, SIDES, WINDOWS, grouped_dots, window_colour, window_rows

CLASSES = {
    "structural": "structural",
    "punctuation": "punctuation",
    "discourse": "discourse",
    "function": "function",
    "content": "content",
    "other": "other scripts",
}
ROLES = {"displaced": "#c44e52", "supported": "#4c8fd0"}
FEATURES = {
    "support_teacher": "towards the teacher's token",
    "anti_top1": "against the leading token",
    "anti_kl": "away from the own final",
    "delta_cosine": "δ-cosine of the MLP",
    "remainder": "beside the own final's axis",
    "rank_gain": "ranks that the teacher's token gains (raw lens)",
}
GIVEN = {"nothing": "nothing", "late_entropy": "entropy of these layers", "final_entropy": "final entropy"}
KINDS = {"level": "level", "within_prompt": "within prompts", "shift": "shift from the baseline"}
READERS = {"A'": ("PT", PT_HOST), "B_late": ("PT with IT's late MLPs", WINDOWS["late"]),
           "D_late": ("IT with PT's late MLPs", "#9467bd"), "C": ("IT", IT_HOST)}  # fmt: skip


def displaced(results, condition="B_late") -> alt.Chart:
    """Return the classes of the tokens that a graft takes from first place and of those it brings; the lens to choose."""
    found = []
    for panel, dataset in results.items():
        one = dataset[["share", "share_low", "share_high"]].sel(condition=condition, role=list(ROLES))
        one = one.rename(share="mean", share_low="low", share_high="high").reset_coords(drop=True)
        frame = one.sel(token_class=list(CLASSES)).to_dataframe().reset_index()
        found.append(frame.assign(panel=panel, prompts=dataset.sizes["prompt"]))
    rows = pd.concat(found, ignore_index=True).dropna(subset=["mean"]).round(charts.DIGITS)
    rows["token_class"] = rows["token_class"].map(CLASSES)
    legend = alt.Legend(title=None, symbolType="circle", symbolSize=60)
    colour = alt.Color(
        "role:N", scale=alt.Scale(domain=list(ROLES), range=list(ROLES.values())), legend=legend
    )
    return grouped_dots(
        rows, "token_class", x="share of replaced first tokens", colour=colour, by="role", sort=list(CLASSES.values()),
        title=f"First tokens displaced and supported, {condition}", toggles={"lens": "lens"},
    )  # fmt: skip


def gains(results, gain="log_rank_gain", letter="B") -> alt.Chart:
    """Return the gain of the teacher's token by its class and window, later steps; the reader chooses the lens."""

    def values(dataset):
        names = [f"{letter}_{window}" for window in WINDOWS]
        one = (
            dataset[gain]
            .sel(part="later", condition=names, token_class=list(CLASSES))
            .reset_coords(drop=True)
        )
        return one.assign_coords(condition=list(WINDOWS)).rename(condition="window")

    rows = window_rows(results, values)
    rows = rows[rows["prompts"] >= 5]
    rows["token_class"] = rows["token_class"].map(CLASSES)
    grafted = SIDES["sufficiency" if letter == "B" else "necessity"]
    names = {
        "log_rank_gain": "ln rank gained",
        "log_probability_gain": "nats gained",
        "rank_gain": "ranks gained",
    }
    return grouped_dots(
        rows, "token_class", x=names[gain], title=f"Gain of the teacher's token, {grafted}", colour=window_colour(),
        toggles={"lens": "lens"}, sort=list(CLASSES.values()),
    )  # fmt: skip


def reader_colour(field="reader") -> alt.Color:
    """Return the encoding that tells the four read conditions apart."""
    names, colours = zip(*READERS.values())
    legend = alt.Legend(title=None, symbolType="circle", symbolOpacity=1, symbolSize=60)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(names), range=list(colours)), legend=legend)


def pushes(results, scale="cosine") -> alt.Chart:
    """Return how late MLP updates lie to the three axes, mean over the final fifth, hosts and late grafts."""

    def values(dataset):
        one = dataset[scale].sel(measured=list(READERS)).mean("layer").reset_coords(drop=True)
        return one.assign_coords(measured=[name for name, _ in READERS.values()])

    rows = window_rows(results, values)
    rows["axis"] = rows["axis"].map(FEATURES)
    return grouped_dots(
        rows, "axis", x=scale, title="Late MLP updates along three axes", colour=reader_colour("measured"),
        by="measured", sort=list(FEATURES.values()),
    )  # fmt: skip


def related(results) -> alt.Chart:
    """Return Pearson's r of late updates with late KL over steps; the reader chooses kind, what is held fixed and lens."""
    found = []
    for panel, dataset in results.items():
        one = dataset[["r", "r_low", "r_high"]].rename(r="mean", r_low="low", r_high="high")
        one = one.sel(scale="cosine", measured=list(READERS), feature=list(OF_UPDATES)).reset_coords(
            drop=True
        )
        frame = one.to_dataframe().reset_index().assign(panel=panel, prompts=dataset.sizes["prompt"])
        found.append(frame)
    rows = pd.concat(found, ignore_index=True).dropna(subset=["mean"]).round(charts.DIGITS)
    rows["feature"], rows["given"] = rows["feature"].map(FEATURES), rows["given"].map(GIVEN)
    rows["kind"] = rows["kind"].map(KINDS)
    rows["measured"] = rows["measured"].map({key: name for key, (name, _) in READERS.items()})
    return grouped_dots(
        rows, "feature", x="Pearson r", title="Late updates and late KL(layer ‖ own final)", by="measured",
        colour=reader_colour("measured"), toggles={"kind": "r of the", "given": "held fixed", "lens": "lens"},
        sort=list(FEATURES.values()),
    )  # fmt: skip


def late_wins(results) -> alt.Chart:
    """Return the share of steps whose first layer to rank the teacher's token first is a late one, by its class."""

    def values(dataset):
        names = [name for name in READERS]
        one = dataset.late_win.sel(part="later", reader=names, token_class=list(CLASSES)).reset_coords(
            drop=True
        )
        return one.assign_coords(reader=[name for name, _ in READERS.values()])

    rows = window_rows(results, values)
    rows = rows[rows["prompts"] >= 5]
    rows["token_class"] = rows["token_class"].map(CLASSES)
    return grouped_dots(
        rows, "token_class", x="share of steps", title="Teacher's token first ranked first in the final fifth",
        colour=reader_colour(), by="reader", toggles={"lens": "lens"}, sort=list(CLASSES.values()),
    )  # fmt: skip
