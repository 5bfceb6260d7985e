"""Where each figure comes from: the notebook's cell, the datasets that it draws, their parameters and code.

The book's builder writes `origins.json` beside the sources; the Sphinx extension of charts reads it and writes one line
under each figure.
"""

import json
from html import escape
from pathlib import Path

from nbhelpers.book import registry
from nbhelpers.core import params
from nbhelpers.report.text import in_words

FILE = "origins.json"
SAID = "origin"  # the key of Vega-Lite's `usermeta` under which a chart says itself where it comes from
LINE = '<p class="figure-origin">{}</p>'


def of_page(profile: str, key: str, model: str | None = None) -> dict[str, str | list[str]]:
    """Return what an experiment's page, of one model or across models, draws its figures from.

    notebook: its file; data: the datasets in words; needs: the experiments that these build on; parameters: hashes, of one
    model alone; code: versions, of all its datasets.
    """
    experiment, found = params.experiment(key), registry.attributes(profile, key)
    kept = {name: found[name] for name in ([model] if model else found)}
    data = f"{model}/{key}.nc" if model else f"{key}.nc of {in_words(len(kept))} pairs"
    return {
        "notebook": experiment.notebook if model else experiment.across,
        "data": data,
        "needs": registry.behind(key),
        "parameters": [a["parameter_hash"] for a in kept.values()] if model else [],
        "code": sorted({a["code_version"] for a in kept.values()}),
    }


def write(profile: str, keys: list[str], folder: Path) -> None:
    """Write the origins of the figures of all pages of experiments into the book's source folder."""
    found = {}
    for key in keys:
        experiment = params.experiment(key)
        found[f"runs/{Path(experiment.across).stem}"] = of_page(profile, key)
        for model in params.profile_params(profile).models:
            found[f"runs/{model}/{Path(experiment.notebook).stem}"] = of_page(profile, key, model)
    (folder / FILE).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def read(folder: Path) -> dict[str, dict]:
    """Return {page: what its figures are drawn from}; nothing where no builder has written it."""
    path = folder / FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def said(chart: dict, words: str) -> dict:
    """Return a chart's specification that says in words where it comes from."""
    return chart | {"usermeta": {SAID: words}}


def line(origin: dict, cell: str, to_cell: str, to_results: str) -> str:
    """Return the line under a figure as HTML.

    to_cell, to_results: addresses of the cell and of the page that lists all results with their parameters.
    """
    named = f'cell <a href="{escape(to_cell)}"><code>{escape(cell)}</code></a> of ' if cell else ""
    parts = [
        f"{named}<code>{escape(origin['notebook'])}</code>",
        f"data <code>{escape(origin['data'])}</code>",
        f'<a href="{escape(to_results)}">parameters</a>{_codes(origin["parameters"])}',
        f"code{_codes(origin['code'])}",
    ]
    return LINE.format(f"From {'; '.join(parts)}.")


def _codes(names: list[str]) -> str:
    """Return names as code, with a blank before them; "" without any."""
    return " " + ", ".join(f"<code>{escape(name)}</code>" for name in names) if names else ""
