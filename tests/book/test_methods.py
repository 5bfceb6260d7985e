"""The methods pages: every measure states its equation, every departure is shown on a page, sources are cited."""

import ast
import csv
import re

import pytest

from nbhelpers.book import api, markdown, methods, pages
from nbhelpers.core import params
from tests.stubs import REPOSITORY

BOOK = REPOSITORY / "book"
NUMBERS = {
    "np.ndarray",
    "float",
    "Tensor",
    "dict[str, Tensor]",
    "dict[str, np.ndarray]",
    "xr.DataArray",
    "Interval",
}
# Functions of measures that return numbers and measure nothing of their own: they arrange, read or repeat what others return.
PLUMBING = {
    "agreement": {"table"},
    "behaviour": {"outcome", "new_thread"},
    "commitment": {"commitment_table"},
    "conv_direction": {"permuted", "prompt_sums", "r2_interval"},
    "directions": {"collect"},
    "forced_tokens": {"matched_order", "shape_of"},
    "gold": {"as_ratings", "ratings"},
    "graft_shifts": {"commitments"},
    "intrinsic_dimension": {"repeats"},
    "matched_prefix": {"read_bases"},
    "scoring": {"score_table"},
    "steering": {"last_residuals"},
    "tuned_lens": {"translate_layer"},
}  # fmt: skip
SOURCE = re.compile(r"([A-Z][A-Za-z-]+)(?: et al\.?| and [A-Z]\w+)? \(?((?:19|20)\d\d)\)?")


def returning_numbers(module):
    """Return the public functions of a module of measures that return numbers, as items."""
    tree = ast.parse((REPOSITORY / f"nbhelpers/measures/{module}.py").read_text(encoding="utf-8"))
    nodes = [node for node in api.public(tree) if isinstance(node, ast.FunctionDef) and node.returns]
    return [api.item(node, f"measures.{module}") for node in nodes if ast.unparse(node.returns) in NUMBERS]


MODULES = sorted(name.partition(".")[2] for name in api.modules("measures") if "." in name)
MODULES.remove("__init__")


@pytest.mark.parametrize("module", MODULES)
def test_a_measure_states_its_equation(module):
    lacking = {item.name for item in returning_numbers(module) if not item.equations}
    assert lacking == PLUMBING.get(module, set())


@pytest.mark.parametrize("folder", ["core", "measures", "experiments"])
def test_an_equation_stands_on_a_line_of_its_own(folder):
    known = methods.STATISTICS if folder == "core" else ()
    found = [
        line
        for module in api.modules(folder)
        if not known or module.partition(".")[2] in known
        for item in methods.measures(module)
        for line in item.equations
    ]
    assert found and not [line for line in found if re.search(r"\. [A-Za-z`]|; [a-z`]+:", line)]


def test_every_module_with_equations_has_its_place_on_the_page():
    placed = [name for names in methods.GROUPS.values() for name in names]
    assert len(placed) == len(set(placed))
    assert set(placed) == {name for name in MODULES if methods.measures(f"measures.{name}")} - {
        "tuned_lens_files"
    }


def test_a_measure_leads_to_the_line_of_its_function():
    page = methods.equations("made") + methods.statistics("made")
    links = re.findall(r'<code><a href="source/([^"#]+)\.html#L(\d+)">(\w+)</a></code>', page)
    assert len(links) > 90
    for place, line, name in links:
        text = (REPOSITORY / f"{place}.py").read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert re.match(rf"(def|class) {name}\b", text)


def test_a_measure_is_shown_with_what_it_returns_its_equation_and_the_rest():
    page = methods.equations("made")
    start = page.index('id="measures.convergence_gap.convergence_gap"')
    entry = page[
        start : page.index('<div class="measure"', start) if '<div class="measure"' in page[start:] else None
    ]
    assert (
        '<pre class="formula">convergence_gap = mean<sub>⌊L/2⌋ ≤ ℓ &lt; L</sub> (kl_it[ℓ] − kl_pt[ℓ])'
        in entry
    )
    assert "<details><summary>More</summary>" in entry and "per-prompt means [prompt, layer]" in entry


def test_a_module_names_the_experiments_that_reach_it():
    assert "exp00" in methods.users()["lens"] and "exp10" in methods.users()["conv_direction"]
    assert "exp09" not in methods.users().get("steering", [])


def test_the_measures_of_one_experiment_stand_under_its_key():
    page = methods.of_experiments("made", ["exp09", "exp08"])
    assert "### exp08" in page and "rank_measures" in page


def rows():
    """Return the rows of the table of departures."""
    with (REPOSITORY / methods.DIFFERENCES).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_departure_is_shown_by_a_cell_of_a_page():
    assert 20 <= len(rows()) <= 50
    for row in rows():
        across = params.experiment(row["experiment"]).across
        assert row["cell"] in methods.cell_names(REPOSITORY / "notebooks" / across), row
    page = methods.differences("made")
    assert page.count('<tr><th scope="row">') == len(rows())
    assert '<a href="runs/exp09_across.html#other-direction">exp09</a>' in page


def test_a_departure_without_a_reason_is_named(tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    header = ",".join(methods.COLUMNS)
    (tmp_path / methods.DIFFERENCES).write_text(f"{header}\nKL,exp09,matched,one,both,\n", encoding="utf-8")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    with pytest.raises(markdown.PageError, match="differences.csv: a row lacks one of topic"):
        methods.differences("made")


def test_every_experiment_s_own_list_is_repeated():
    keys = pages.in_order()
    page = methods.all_differences("made", keys)
    assert page.count("::::{dropdown}") == len(keys) and "<details>" not in page
    assert not re.search(r"\]\(exp\w+\.ipynb", page)


def entries():
    """Return the keys of the bibliography, with author and year."""
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    return {
        entry.partition(",")[0].partition("{")[2]: (
            re.search(r"author\s+= \{(.+)\},", entry)[1],
            re.search(r"year\s+= \{(\d+)\}", entry)[1],
        )
        for entry in re.split(r"\n(?=@)", text)
    }


def test_every_source_that_a_docstring_names_is_in_the_bibliography():
    known = {(author.replace("{", "").replace("}", ""), year) for author, year in entries().values()}
    for folder in ("core", "measures", "experiments"):
        for name, path in api.modules(folder).items():
            for item in api.parsed(path, name)[1]:
                for author, year in SOURCE.findall(item.text):
                    assert any(author in who and year == when for who, when in known), (name, author, year)


def test_every_entry_is_cited_and_every_citation_is_an_entry():
    texts = [path.read_text(encoding="utf-8") for path in BOOK.rglob("*.md")]
    cited = {
        key for text in texts for keys in re.findall(r"\{cite:\w\}`([^`]+)`", text) for key in keys.split(",")
    }
    assert cited == entries().keys()
