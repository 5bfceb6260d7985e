"""The tables of the internal-causality chapter (experiments 11, 13 and 14), and the quantities by prompt behind them.

As in `tables`, each returns text: a row or a column a family.
"""

import numpy as np
import pandas as pd
import xarray as xr

from nbhelpers import stats, support
from nbhelpers.effects import shifts
from nbhelpers.graft_figures import READINGS, SIDES, WINDOWS, of_it, windows_of
from nbhelpers.support_figures import CLASSES, FEATURES
from nbhelpers.synthesis import POOL, interval_table, is_dense, number, percent, written

LATE = {
    "kl_layer_final": "KL(layer ‖ own final)",
    "kl_layer_teacher": "KL to the teacher's layer",
    "js_teacher": "JS to the teacher's layer",
    "delta_cosine": "δ-cosine of the MLP",
    "commitment": "commitment, layers",
    "nll": "NLL of the teacher's tokens",
}

WHOLE = ("commitment", "nll")  # read-outs of no region


def late_shift(
    dataset: xr.Dataset, reading: str, side: str, lens="tuned", window="late", control="graft"
) -> xr.DataArray:
    """Return what one window's graft changes in the final fifth by prompt, [prompt], from exp11's dataset."""
    return of_window(windows_of(dataset[[reading]], control)[reading], side, lens, window)


def of_window(shifted: xr.DataArray, side: str, lens="tuned", window="late") -> xr.DataArray:
    """Return one window's shifts in the final fifth by prompt, [prompt], from those of `windows_of`."""
    wanted = {"region": "final_fifth", "lens": lens, "rule": "kl_layer_final_0.1", "component": "mlp"}
    one = shifted.sel(side=side, window=window)
    one = one.sel({dim: value for dim, value in wanted.items() if dim in one.dims})
    return one.reset_coords(drop=True).dropna("prompt")


def late_table(results, side="sufficiency", lens="tuned") -> pd.DataFrame:
    """Return the late graft's shifts of several readings as text, a row a family and one for the dense pool."""
    columns, shifted = {}, {title: windows_of(dataset[[*LATE]]) for title, dataset in results.items()}
    for reading, heading in LATE.items():
        table = interval_table(shifted, lambda d, r=reading: of_window(d[r], side, lens))
        columns[heading] = pd.Series(written(table, 3), index=table["family"])
    table = pd.DataFrame(columns).rename_axis(None)
    tokens = {title: number(by_token(dataset, side, lens), 3) for title, dataset in results.items()}
    table.insert(1, "the same by token", pd.Series(tokens).reindex(table.index).fillna(""))
    return table


def by_token(dataset: xr.Dataset, side="sufficiency", lens="tuned") -> float:
    """Return the late graft's shift of KL(layer ‖ own final) with every token counting once, as the study pooled, nats."""
    shift, n = late_shift(dataset, "kl_layer_final", side, lens), dataset.n_tokens.sel(teacher="it")
    return float(stats.token_weighted_mean(shift.values, n.sel(prompt=shift.prompt).values))


def template_shift(dataset: xr.Dataset, reading: str, lens="tuned") -> xr.DataArray:
    """Return B2 − A'_tmpl in the final fifth, [prompt]: IT's late MLPs in PT, which reads the chat turn."""
    one = shifts(of_it(dataset[[reading]]))[reading].sel(
        condition="B2", basis="host", region="final_fifth", lens=lens
    )
    return one.reset_coords(drop=True).dropna("prompt")


def branch_table(results, lens="tuned") -> pd.DataFrame:
    """Return the late graft's shift of KL(layer ‖ own final) under the raw prompt and in the template branch, as text."""
    columns = {
        "plain prompt, B_late − A'": lambda d: late_shift(d, "kl_layer_final", "sufficiency", lens),
        "chat turn, B2 − A'_tmpl": lambda d: template_shift(d, "kl_layer_final", lens),
    }
    found = {name: interval_table(results, measure) for name, measure in columns.items()}
    return pd.DataFrame(
        {name: pd.Series(written(table, 3), index=table["family"]) for name, table in found.items()}
    ).rename_axis(None)


def divergence_table(results) -> pd.DataFrame:
    """Return where each condition would first write another token than the teacher, and how often it agrees, as text."""
    names = ["A'", "B_early", "B_mid", "B_late", "A'_tmpl", "B2", "D_early", "D_mid", "D_late"]
    rows = {}
    for title, dataset in results.items():
        one = of_it(dataset).sel(condition=names)
        step, share = one.first_divergence_teacher.mean("prompt"), one.agreement_teacher.mean("prompt")
        rows[title] = [f"{number(float(s), 1)} · {percent(a)}" for s, a in zip(step.values, share.values)]
    return pd.DataFrame(rows, index=names).T.rename_axis(None)


# exp14


def test_table(results, readout="kl_layer_final", lens="tuned") -> pd.DataFrame:
    """Return each window's shift in the final fifth with its interval and p, Holm over families and windows, by side."""
    cases = [(side, window) for side in SIDES for window in WINDOWS]
    chosen = {
        t: d.sel(readout=readout, lens=lens, basis="host", region="final_fifth") for t, d in results.items()
    }
    p = np.array([[float(d.p.sel(side=s, window=w)) for s, w in cases] for d in chosen.values()])
    holm = np.array(stats.holm(p.ravel())).reshape(p.shape)
    rows = {}
    for (title, d), adjusted in zip(chosen.items(), holm):
        rows[title] = []
        for (side, window), each in zip(cases, adjusted):
            one = d.sel(side=side, window=window)
            ends = pd.DataFrame(
                [[float(one[name]) for name in ("mean", "low", "high")]], columns=["mean", "low", "high"]
            )
            rows[title].append(f"{written(ends, 3)[0]}{' *' if each < 0.05 else ''}")
    if sum(map(is_dense, results.values())) > 1:
        rows[POOL] = [
            written(pool_table(results, side, window, readout, lens), 3)[0] for side, window in cases
        ]
    columns = pd.MultiIndex.from_tuples([(SIDES[side], window) for side, window in cases])
    return pd.DataFrame(rows, index=columns).T


def window_shift(
    dataset: xr.Dataset, side: str, window: str, readout="kl_layer_final", lens="tuned"
) -> xr.DataArray:
    """Return exp14's shift of one window in the final fifth, [prompt]."""
    one = dataset["shift"].sel(
        side=side, window=window, readout=readout, lens=lens, basis="host", region="final_fifth"
    )
    return one.reset_coords(drop=True).dropna("prompt")


def pool_table(results, side, window, readout, lens) -> pd.DataFrame:
    """Return the dense pool's mean and interval of one window's shift."""
    table = interval_table(results, lambda d: window_shift(d, side, window, readout, lens))
    return table[table["family"] == POOL]


def strongest_late(
    results, readout="kl_layer_final", lens="tuned", region="final_fifth"
) -> dict[str, dict[str, float]]:
    """Return by side and family the bootstrap probability that the late window is the strongest, of one read-out."""
    return {
        side: {
            title: float(
                d.strongest.sel(
                    side=side, window="late", readout=readout, lens=lens, basis="host", region=region
                )
            )
            for title, d in results.items()
        }
        for side in SIDES
    }


def readout_table(results, lens="tuned") -> pd.DataFrame:
    """Return in how many families the late window is the strongest with a probability of 0.95, by read-out and side."""
    rows = {}
    for readout, (title, _) in READINGS.items():
        regions = {"final_fifth": "final fifth", "window": "own window"}
        for region, where in ({"final_fifth": "all layers"} if readout in WHOLE else regions).items():
            found = strongest_late(results, readout, lens, region)
            shown = {}
            for side, heading in SIDES.items():
                values = np.array([value for value in found[side].values() if not np.isnan(value)])
                sure, other = int((values >= 0.95).sum()), int((values <= 0.05).sum())
                counts = {"late strongest": sure, "surely not": other}
                shown |= {
                    f"{heading}: {name}": f"{count} of {len(values)}" if len(values) else "–"
                    for name, count in counts.items()
                }
            rows[title, where] = shown
    table = pd.DataFrame(rows).T
    return table.rename_axis([None, None])


# exp13


def correlation_table(results, kind="shift", given="nothing", lens="tuned") -> pd.DataFrame:
    """Return Pearson's r of `correlates.FEATURES` with late KL as text, a row a family and condition, a column a feature."""
    rows = {}
    for title, dataset in results.items():
        one = dataset.sel(scale="cosine", kind=kind, given=given, lens=lens)
        for condition in one.measured.values:
            cell = one.sel(measured=condition)
            if bool(cell.r.isnull().all()):
                continue
            rows[title, str(condition)] = {
                FEATURES[str(f)]: "{} [{}, {}]".format(
                    *(number(float(cell[name].sel(feature=f))) for name in ("r", "r_low", "r_high"))
                )
                for f in one.feature.values
            }
    return pd.DataFrame(rows).T.rename_axis([None, None])


def gain_by_prompt(
    dataset: xr.Dataset, kind: str, condition="B_late", lens="tuned", gain="log_rank_gain"
) -> xr.DataArray:
    """Return the gain of the teacher's tokens of one class by prompt, later steps, [prompt]."""
    one = dataset[gain].sel(part="later", token_class=kind, condition=condition, lens=lens)
    return one.reset_coords(drop=True).dropna("prompt")


def class_change(
    dataset: xr.Dataset, kind: str, condition="B_late", lens="tuned"
) -> tuple[float, float, float]:
    """Return the share of a class among supported tokens less that among displaced, and its interval."""
    one = dataset.sel(token_class=kind, condition=condition, lens=lens, role="change")
    return tuple(float(one[name]) for name in ("share", "share_low", "share_high"))


def class_table(results, condition="B_late", lens="tuned") -> pd.DataFrame:
    """Return by class the change of its share from displaced to supported first tokens as text, a row a family."""
    rows = {
        title: {
            name: "{} [{}, {}]".format(
                *(number(value) for value in class_change(dataset, kind, condition, lens))
            )
            for kind, name in CLASSES.items()
        }
        for title, dataset in results.items()
    }
    return pd.DataFrame(rows).T.rename_axis(None)


def pooled_classes(results, condition="B_late", lens="tuned") -> pd.DataFrame:
    """Return `class_table` for all families together and for the dense ones, every replaced cell counting once."""
    dense = {title: dataset for title, dataset in results.items() if is_dense(dataset)}
    pools = {"all families": results} | ({POOL: dense} if len(dense) > 1 else {})
    rows = {}
    for name, chosen in pools.items():
        counts = [
            d.replaced.sel(condition=[condition], lens=[lens]).drop_vars("prompt") for d in chosen.values()
        ]
        shares = support.shares(xr.concat(counts, "prompt"))
        pooled = shares.rename(value="share", low="share_low", high="share_high")
        rows |= class_table({name: pooled}, condition, lens).T.to_dict()
    return pd.DataFrame(rows).T.rename_axis(None)
