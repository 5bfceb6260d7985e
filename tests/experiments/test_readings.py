"""What a page quotes is what its experiment says of the same results."""

import nbformat
import pytest
from IPython.core.formatters import DisplayFormatter

from nbhelpers import experiments
from nbhelpers.book import pages
from nbhelpers.book.markdown import PageError
from nbhelpers.core import params
from tests import synthetic


def made(key):
    return synthetic.results(key, n_prompts=24)


def test_every_experiment_has_its_verdict():
    for key in params.ordered():
        assert callable(experiments.part(key, "report").verdict)


@pytest.mark.parametrize("key", params.ordered())
def test_a_page_quotes_the_verdict_of_its_experiment(key, tmp_path, monkeypatch):
    """The verdict goes through the notebook that shows it: IPython's output of the cell, saved and read."""
    said = experiments.part(key, "report").verdict(made(key))
    data, metadata = DisplayFormatter().format(said)
    output = nbformat.v4.new_output("execute_result", data, metadata=metadata)
    cells = [
        nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell(outputs=[output], metadata={"name": "verdict"})
    ]  # fmt: skip
    path = tmp_path / "across.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(pages, "executed_path", lambda profile, notebook: path)
    assert pages.verdict("pocket", key) == said
    nbformat.write(nbformat.v4.new_notebook(cells=cells[:1]), path)
    with pytest.raises(PageError, match=f"states no verdict.*nbh run {key}_across"):
        pages.verdict("pocket", key)
    path.unlink()
    with pytest.raises(PageError, match="is missing; make it with"):
        pages.verdict("pocket", key)
