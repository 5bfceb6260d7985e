"""The figures, tables and verdict of exp13."""

import math
from functools import partial

import altair as alt
import pandas as pd
import xarray as xr

from nbhelpers.core import stats
from nbhelpers.experiments.exp13_token_support import support
from nbhelpers.experiments.exp13_token_support.correlates import OF_UPDATES
from nbhelpers.experiments.exp13_token_support.quantities import quantities
from nbhelpers.report import charts
from nbhelpers.report.captions import BARS, ZERO, caption
from nbhelpers.report.charts import IT, PT, by_category
from nbhelpers.report.directions import LEAST, by_side, everywhere, fitting, larger_side, most, ranged, sides
from nbhelpers.report.families import POOL, is_dense, turned
from nbhelpers.report.forest import forest
from nbhelpers.report.graft_charts import (
    BY_WINDOW,
    LENS,
    SIDES,
    WINDOW_SHAPES,
    WINDOWS,
    by_window,
    window_rows,
)
from nbhelpers.report.quantities import kept, value
from nbhelpers.report.text import in_words, interval, number
from nbhelpers.report.verdicts import UP, Verdict, bounds, noun

CLASSES = {
    "structural": "structural",
    "punctuation": "punctuation",
    "discourse": "discourse",
    "function": "function",
    "content": "content",
    "other": "other scripts",
}
ROLES = ("displaced", "supported")
CHANGED = {
    f"{letter}_{window}": f"{donor}'s {window} MLPs in {host}"
    for letter, donor, host in (("B", "IT", "PT"), ("D", "PT", "IT"))
    for window in WINDOWS
}
GAINS = {
    "log_rank_gain": "ln rank gained",
    "log_probability_gain": "nats gained",
    "rank_gain": "ranks gained",
}
SCALES = {"cosine": "cosine", "projection": "length of the projection"}
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
# Condition → its name, its host's colour, its shape: that of the grafted window, or of none.
READERS = {
    "A'": ("PT", PT, WINDOW_SHAPES["none"]),
    "B_late": ("PT with IT's late MLPs", PT, WINDOW_SHAPES["late"]),
    "D_late": ("IT with PT's late MLPs", IT, WINDOW_SHAPES["late"]),
    "C": ("IT", IT, WINDOW_SHAPES["none"]),
}
LOOKS = "for PT and IT (diamonds, blue and orange) and for each with the other's late MLPs (circles in the host's colour)"


def displaced(results, condition="B_late") -> alt.Chart:
    """Return a chart of the classes of the top-1 tokens that a graft displaces and supports; the reader chooses the lens."""
    found = []
    for panel, dataset in results.items():
        one = dataset[["share", "share_low", "share_high"]].sel(condition=condition, role=list(ROLES))
        one = one.rename(share="mean", share_low="low", share_high="high").reset_coords(drop=True)
        frame = one.sel(token_class=list(CLASSES)).to_dataframe().reset_index()
        found.append(frame.assign(panel=panel, prompts=dataset.sizes["prompt"]))
    rows = pd.concat(found, ignore_index=True).dropna(subset=["mean"]).round(charts.DIGITS)
    rows["token_class"] = pd.Categorical(rows["token_class"].map(CLASSES), CLASSES.values())
    graft = CHANGED[condition]
    what = f"Share of each class among the top-1 tokens that the graft ({graft}) displaces ▼ and those that it supports ▲"
    return forest(
        rows, column="token_class", by="role", x="share of replaced top-1 tokens", toggles={"lens": "lens"}, defaults=LENS,
        encodings=by_category("role", ROLES, shapes=("triangle-down", "triangle-up")),
        title=f"Top-1 tokens displaced and supported, {graft}",
        description=caption(what, rows, ["bars are intervals over prompts"], ["lens"], each="row"),
    )  # fmt: skip


def gains(results, gain="log_rank_gain", letter="B") -> alt.Chart:
    """Return a chart of the gain of the teacher's token by its class and window, later steps; the reader chooses the lens."""

    def values(dataset):
        names = [f"{letter}_{window}" for window in WINDOWS]
        one = (
            dataset[gain]
            .sel(part="later", condition=names, token_class=list(CLASSES))
            .reset_coords(drop=True)
        )
        return one.assign_coords(condition=list(WINDOWS)).rename(condition="window")

    rows = window_rows(results, values)
    rows = rows[~(rows["prompts"] < 5)]  # a stored mean has no number of prompts
    rows["token_class"] = pd.Categorical(rows["token_class"].map(CLASSES), CLASSES.values())
    grafted, name = SIDES["sufficiency" if letter == "B" else "necessity"], GAINS[gain]
    what = f"Gain of the teacher's token at later steps ({name}), {grafted}, by its class and {BY_WINDOW}"
    return forest(
        rows, column="token_class", by="window", encodings=by_window(), x=name, toggles={"lens": "lens"}, defaults=LENS,
        title=f"Gain of the teacher's token, {grafted}",
        description=caption(what, rows, [BARS, ZERO], ["lens"], each="row"),
    )  # fmt: skip


def by_reader(field="reader") -> dict:
    """Return the encodings of the four conditions in `READERS`: the host's colour, a shape for what is grafted into it."""
    names, colours, shapes = zip(*READERS.values())
    return by_category(field, names, colours=colours, shapes=shapes)


def pushes(results, scale="cosine") -> alt.Chart:
    """Return a chart of late MLP updates along the three axes, mean over the final fifth, for hosts and late grafts."""

    def values(dataset):
        return dataset[scale].sel(measured=list(READERS)).mean("layer").reset_coords(drop=True)

    return push_forest(window_rows(results, values), scale)


def push_forest(rows: pd.DataFrame, scale: str) -> alt.Chart:
    """Return the chart of late updates from a table of their means along the axes, by panel, `axis` and `measured`."""
    names = {key: name for key, (name, *_) in READERS.items()}
    rows = rows.assign(axis=rows["axis"].map(FEATURES), measured=rows["measured"].map(names))
    what = f"Late MLP updates along three axes ({SCALES[scale]}), mean over the final fifth, {LOOKS}"
    return forest(
        rows, column="axis", by="measured", encodings=by_reader("measured"), x=SCALES[scale],
        title="Late MLP updates along three axes", description=caption(what, rows, [BARS, ZERO], each="row"),
    )  # fmt: skip


def related(results) -> alt.Chart:
    """Return a chart of Pearson's r of late updates with late KL; the reader chooses kind, lens and what is held fixed."""
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
    rows["measured"] = rows["measured"].map({key: name for key, (name, *_) in READERS.items()})
    what = f"Pearson's r of late updates with late KL(layer ‖ own final), by what is measured of the updates, {LOOKS}"
    toggles = {"kind": "r of the", "given": "held fixed", "lens": "lens"}
    return forest(
        rows, column="feature", by="measured", encodings=by_reader("measured"), x="Pearson's r", toggles=toggles,
        title="Late updates and late KL(layer ‖ own final)", defaults=LENS,
        description=caption(what, rows, ["bars are intervals over prompts", ZERO], toggles, each="row"),
    )  # fmt: skip


def late_wins(results) -> alt.Chart:
    """Return a chart of the share of steps at which a late layer is the first to rank the teacher's token first, by class."""

    def values(dataset):
        names = [name for name in READERS]
        one = dataset.late_win.sel(part="later", reader=names, token_class=list(CLASSES)).reset_coords(
            drop=True
        )
        return one.assign_coords(reader=[name for name, *_ in READERS.values()])

    rows = window_rows(results, values)
    rows = rows[rows["prompts"] >= 5]
    rows["token_class"] = pd.Categorical(rows["token_class"].map(CLASSES), CLASSES.values())
    what = f"Share of steps at which a layer of the final fifth first ranks the teacher's token first, by its class, {LOOKS}"
    return forest(
        rows, column="token_class", by="reader", encodings=by_reader(), x="share of steps", toggles={"lens": "lens"},
        title="Teacher's token first ranked first in the final fifth", defaults=LENS,
        description=caption(what, rows, [BARS], ["lens"], each="row"),
    )  # fmt: skip


def correlation_table(results, kind="shift", given="nothing", lens="tuned") -> pd.DataFrame:
    """Return a table of Pearson's r of `correlates.FEATURES` with late KL as text: one row per pair and condition."""
    names = {condition: name for condition, (name, *_) in READERS.items()} | {"pooled": "all conditions"}
    rows = {}
    for title, dataset in results.items():
        one = dataset.sel(scale="cosine", kind=kind, given=given, lens=lens)
        for condition in one.measured.values:
            cell = one.sel(measured=condition)
            if bool(cell.r.isnull().all()):
                continue
            name = names[str(condition)]
            rows[(title, name) if len(results) > 1 else name] = {
                FEATURES[str(f)]: interval(
                    [float(cell[end].sel(feature=f)) for end in ("r", "r_low", "r_high")]
                )
                for f in one.feature.values
            }
    return pd.DataFrame(rows).T.rename_axis([None, None] if len(results) > 1 else None)


def change(dataset: xr.Dataset, kind: str) -> stats.Interval:
    """Return a class's share of the tokens that the late graft supports minus its share of those displaced, tuned lens."""
    return kept(quantities, dataset)[f"change_class.{kind}"].values


def class_table(results) -> pd.DataFrame:
    """Return a table of each class's change of share from displaced to supported top-1 tokens as text: one row per pair."""
    rows = {
        title: {name: interval(change(dataset, kind)) for kind, name in CLASSES.items()}
        for title, dataset in results.items()
    }
    return turned(pd.DataFrame(rows).T.rename_axis(None), results)


def pooled_classes(results, condition="B_late", lens="tuned") -> pd.DataFrame:
    """Return `class_table` for all pairs together and for the dense ones; every replaced cell has the same weight."""
    dense = {title: dataset for title, dataset in results.items() if is_dense(dataset)}
    pools, rows = {"all pairs": results} | ({POOL: dense} if len(dense) > 1 else {}), {}
    for name, chosen in pools.items():
        one = {"condition": [condition], "lens": [lens]}
        counts = [dataset.replaced.sel(one).drop_vars("prompt") for dataset in chosen.values()]
        pooled = support.shares(xr.concat(counts, "prompt")).squeeze().sel(role="change")
        each = {title: pooled.sel(token_class=kind) for kind, title in CLASSES.items()}
        rows[name] = {
            t: interval([float(c[end]) for end in ("value", "low", "high")]) for t, c in each.items()
        }
    return pd.DataFrame(rows).T.rename_axis(None)


SHARE = "class_shift.content"
CONTENT, FUNCTION = "log_rank_gain_later.content", "log_rank_gain_later.function"
MATRIX = {
    "content words among the tokens brought": SHARE,
    "function words among them": "class_shift.function",
    "reply's token up, content (ln rank)": CONTENT,
    "reply's token up, function (ln rank)": FUNCTION,
    "function more than content": "function_before_content",
}


def verdict(results) -> Verdict:
    """Return the verdict: whether the tokens that the late graft brings are more often content words, what it does for the
    reply's own next token, and how closely the late updates go with the late distance.
    """
    return fitting(partial(said, results))


def said(results, detail: int) -> Verdict:
    """Return the verdict, with more or less detail on the pairs that differ."""
    answered = most(
        results, quantities, SHARE, "Towards content words", "Away from content words",
        "No clear shift towards content words",
    )  # fmt: skip
    often = by_side(results, sides(results, quantities, SHARE), "more often", "less often", "", detail)
    often = f"{often}{',' * (', ' in often)} than" if often else "about as often as"
    points = signed_range([100 * value(quantities, d, SHARE) for d in results.values()])
    pairs = "" if len(results) == 1 else f" in {in_words(len(results))} {noun(results)}"
    return Verdict(
        answered,
        f"What IT's late MLPs put first in PT is a content word {often} what they displace ({points}{pairs}).",
        ranks_sentence(results, detail),
        "" if detail == LEAST else related_sentence(results),
    )


def signed_range(points) -> str:
    """Return the least and the largest of percentage points with their signs: "−8 to +4 points"."""
    known = [round(value) for value in points if not math.isnan(value)]
    ends = dict.fromkeys(f"{end:+d}".replace("-", "−") if end else "0" for end in (min(known), max(known)))
    return f"{' to '.join(ends)} point{'s' * (list(ends) not in (['+1'], ['−1']))}"


def ranks_sentence(results, detail: int) -> str:
    """Return the sentence on the rank of the reply's own next token under the late graft, content and function words."""
    (does, size), (does_too, size_too) = (moved(results, name, detail) for name in (CONTENT, FUNCTION))
    if does == does_too and size and size_too:
        second = size_too.removesuffix(f" {size.split()[-1]}")
        return f"The reply's next token {does} (ranks {size} for content, {second} for function words)."
    if does == does_too and not size and not size_too:
        return f"The reply's next token {does}."
    first, second = (f"{what} ({by})" if by else what for what, by in ((does, size), (does_too, size_too)))
    return f"A content word that comes next {first}; a function word {second}."


def moved(results, name: str, detail: int) -> tuple[str, str]:
    """Return where the reply's next token moves up or down, and by how much its rank changes in the commoner direction.

    The second is "" where no sign is sure.
    """
    found = sides(results, quantities, name)
    if all(math.isnan(bounds(kept(quantities, d)[name], 0.95)[1]) for d in results.values()):
        return "stands in too few prompts", ""
    titles, than = found[larger_side(found)], "lower" if larger_side(found) == UP else "higher"
    if not titles:
        return f"moves neither surely up nor down {everywhere(results, again=True)}".rstrip(), ""
    changes = [100 * abs(math.expm1(-value(quantities, results[title], name))) for title in titles]
    size = ranged(changes, lambda change: f"{change:.0f} %")
    return f"moves {by_side(results, found, 'up', 'down', '', detail)}", f"{size} {than}"


def related_sentence(results) -> str:
    """Return the sentence on the correlation of late updates with the late distance; "" where it was not measured."""
    sizes = [value(quantities, dataset, "shift_r.largest") for dataset in results.values()]
    sizes = [size for size in sizes if not math.isnan(size)]
    return f"Late updates and late distance correlate by |r| ≤ {number(max(sizes))}." if sizes else ""
