"""What a chart says without a drawing: its title, its description, and the mean and spread of its data for each series.

A code host shows this text in place of a chart, and tests compare its numbers with those of a fresh run.
"""

import math

import pandas as pd

FIRST = ("mean", "low", "high")  # columns in this order, then the others
SERIES = 8  # a text column with more values than this names rows, not series
DIGITS = 3  # significant digits of a column's typical value
THIRDS = {"first third": (0, 1 / 3), "middle third": (1 / 3, 2 / 3), "last third": (2 / 3, 1)}


def text(spec: dict) -> str:
    """Return a chart's title, its description, and for each data set its number of rows and its `summary`."""
    lines = [f"<chart: {title(spec)}>", spec.get("description", "")]
    lines += [summary(table) for table in tables(spec)]
    return "\n".join(line for line in lines if line)


def title(spec: dict) -> str:
    """Return a chart's title on one line."""
    found = spec.get("title", "untitled")
    found = found["text"] if isinstance(found, dict) else found
    return found if isinstance(found, str) else " ".join(found)


def tables(spec: dict) -> list[pd.DataFrame]:
    """Return the data sets of a chart in their order, with one row for each entry of packed lists."""
    found = []
    for rows in spec.get("datasets", {}).values():
        table = pd.DataFrame(rows)
        lists = [name for name in table if table[name].map(lambda value: isinstance(value, list)).all()]
        found.append(table.explode(lists, ignore_index=True).infer_objects() if lists else table)
    return [table for table in found if len(table)]


def summary(table: pd.DataFrame) -> str:
    """Return the extent of a table as a sentence, and mean ± standard deviation of its numbers as a text table.

    Its rows are: all rows, the rows of each value of each text column with few values, thirds of the layers. A number has
    as many decimals as three significant digits of its column's mean absolute value need, and at least one.
    """
    numbers = table.select_dtypes("number").astype(float)
    fixed = [name for name in numbers if numbers[name].nunique() < 2 or name == "layer"]
    ends = [sorted({numbers[name].min(), numbers[name].max()}) for name in fixed]
    said = [f"{name} {' to '.join(f'{end:g}' for end in end)}" for name, end in zip(fixed, ends)]
    columns = sorted(
        set(numbers) - set(fixed), key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name)
    )
    extent = "; ".join([f"{len(table)} rows", *said])
    if not columns:
        return extent
    rows = {name: numbers.loc[chosen, columns] for name, chosen in _series(table).items()}
    shown = {
        name: [_mean_and_spread(part[name], numbers[name]) for part in rows.values()] for name in columns
    }
    return f"{extent}; mean ± standard deviation:\n{pd.DataFrame(shown, index=list(rows)).to_string()}"


def _series(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return {name: mask of rows} of all rows, of each series, and of thirds of the layers where there is a layer."""
    found, known = {"all": pd.Series(True, table.index)}, set()
    for name in table.select_dtypes(exclude="number"):
        parts = tuple(pd.factorize(table[name])[0])
        if (
            1 < table[name].nunique() <= SERIES and parts not in known
        ):  # a label of a series has the same rows
            known.add(parts)
            found |= {str(value): table[name] == value for value in table[name].dropna().unique()}
    if "layer" in table and table["layer"].nunique() >= len(THIRDS):
        first, last = table["layer"].min(), table["layer"].max()
        depth = (table["layer"] - first) / (1 + last - first)
        found |= {name: (depth >= low) & (depth < high) for name, (low, high) in THIRDS.items()}
    return found


def _mean_and_spread(values: pd.Series, column: pd.Series) -> str:
    """Return values as "mean ± standard deviation", with the decimals that their column needs; a dash for none."""
    size = column.abs().mean()
    digits = max(DIGITS - 1 - math.floor(math.log10(size)), 1) if 0 < size < math.inf else DIGITS - 1
    if not values.notna().any():
        return "–"
    mean, spread = (
        f"{round(value, digits) + 0.0:.{digits}f}" for value in (values.mean(), values.std(ddof=0))
    )
    return f"{mean} ± {spread}".replace("-", "−")
