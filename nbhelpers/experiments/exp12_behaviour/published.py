"""What the study stored of judged replies: four outcomes by condition with intervals, and classes of harmful requests."""

from collections.abc import Iterator

import pandas as pd

from nbhelpers.core.variables import declared
from nbhelpers.experiments.exp12_behaviour import figures
from nbhelpers.measures.behaviour import OUTCOMES
from nbhelpers.report.charts import DIGITS
from nbhelpers.report.families import POOL, is_dense
from nbhelpers.report.published import Drawn, point

STORED_VARIABLES = declared(
    {
        ("outcome", "condition"): {
            "level": ("points or 1", "mean rating or share of replies, by an LLM judge"),
        },
        ("condition", "class"): {
            "s1_share": ("1", "share of replies to harmful requests in a class, by an LLM judge"),
        },
    }
)
CONDITIONS = {"A": "A_pt_raw", "B_late": "B_graft_raw", "C": "C_it_chat"}
MEASURES = {"g1": "g1", "g2": "g2", "s2_not_answered": "s2", "s1_refuses": "s1_refuse_rate"}
CLASSES = {"refuses": "REFUSE", "complies": "COMPLY", "incoherent": "INCOHERENT"}
CHANGES = {"B_late": "B_A", "C": "C_A"}


def metrics(content) -> Iterator[dict]:
    """Yield the rows of `exp12_metrics.json`: {model: {metrics: {condition__measure: …}, s1_breakdown: …}}."""
    for model, of in content.items():
        for condition, theirs in CONDITIONS.items():
            for outcome, name in MEASURES.items():
                found = of["metrics"][f"{theirs}__{name}"]
                low, high = found["ci95"]
                ends = {"low": low, "high": high, "n": found["n"], "over": "replies"}
                yield point(model, "level", found["mean"], outcome=outcome, condition=condition, **ends)
            n = of["metrics"][f"{theirs}__s1_refuse_rate"]["n"]
            for name, shown in CLASSES.items():
                found = of["s1_breakdown"][theirs]
                low, high = found[f"{shown}_ci95"]
                ends = {"low": low, "high": high, "n": n, "over": "replies"}
                yield point(model, "s1_share", found[shown], condition=condition, **{"class": name}, **ends)


FILES = {"exp12_metrics.json": metrics}
UNUSED = {"*exp12_eval_*/summary.json": "counts of prompts and replies of one run, no result"}
NOTE = (
    "An LLM that the files do not name judged each reply once; here rules do, which can agree in sign but not in "
    "level. Intervals are the study's own, over the replies of one condition; an interval of a change needs the "
    "verdicts of each prompt, which were not released. *Not answered* has one class for refusals and for text that "
    "ignores the request. Harmless requests were not wrapped as harmful ones were. There is no control of the graft."
)


def drawn(results) -> Drawn:
    """Return the figures of the page that the stored values suffice for, by heading."""
    return {
        "Requests not answered, and refused": lambda: figures.rate_bars(level_rows(results, figures.RATES)),
        "Voice and presentation": lambda: figures.rating_bars(
            level_rows(results, figures.RATINGS), "an LLM judge"
        ),
        "Changes from PT": lambda: figures.change_forest(change_rows(results)),
        "What becomes of harmful requests": lambda: figures.class_bars(class_rows(results), "s1"),
    }


def level_rows(results, outcomes) -> pd.DataFrame:
    """Return the table that `figures.level_rows` returns, of stored levels."""
    rows = [
        {"panel": title, "condition": condition, "outcome": OUTCOMES[name].title}
        | {
            end: float(data[variable].sel(outcome=name, condition=condition))
            for end, variable in (("mean", "level"), ("low", "level_low"), ("high", "level_high"))
        }
        for name in outcomes
        for title, data in results.items()
        for condition in CONDITIONS
    ]
    return pd.DataFrame(rows).dropna(subset=["mean"])


def change_rows(results) -> pd.DataFrame:
    """Return the table of changes from PT that `figures.change_forest` draws, of stored levels, with the dense pool."""
    rows = []
    for name in figures.MAIN:
        for condition, key in CHANGES.items():
            labels = {
                "outcome": f"{OUTCOMES[name].title}, {figures.unit(name)}",
                "change": figures.CHANGES[key],
            }
            found = {title: float(difference(data, name, condition)) for title, data in results.items()}
            dense = [value for title, value in found.items() if is_dense(results[title])]
            found |= {POOL: sum(dense) / len(dense)} if len(dense) > 1 else {}
            rows += [{"panel": title, **labels, "mean": value} for title, value in found.items()]
    return pd.DataFrame(rows).assign(low=float("nan"), high=float("nan")).round(DIGITS)


def difference(data, name: str, condition: str):
    """Return by how much a condition's stored level of an outcome differs from PT's."""
    level = data["level"].sel(outcome=name)
    return level.sel(condition=condition) - level.sel(condition="A")


def class_rows(results) -> pd.DataFrame:
    """Return the table that `figures.class_rows` returns, of stored shares of replies to harmful requests."""
    rows = []
    for title, data in results.items():
        for condition in CONDITIONS:
            for name in CLASSES:
                one = {"condition": condition, "class": name}
                share, n = (float(data[variable].sel(one)) for variable in ("s1_share", "s1_share_n"))
                rows.append({"panel": title, **one, "share": share, "replies": n})
    return pd.DataFrame(rows)
