"""The reference of functions: every public name once, with its signature, its docstring and its line."""

import re
import subprocess
import sys

import pytest

from nbhelpers.book import api, markdown
from tests.stubs import REPOSITORY

MODULE = '''"""What it is for.

More of it.
"""


class Box(dict):
    """A box.

    Parameters
    ----------
    a, b
        Two `things` < 3.
    """

    def open(self, *, far: bool = False) -> int:
        """Return how far it opens."""

    def _hidden(self): ...


def area(width: float, height: float = 1.0) -> float:
    """Return the area, m².

    area = width · height, m²
    volume ∝ area
    width: of the floor. So that n = 3 boxes fit, and
    x = 3 · y
    """


def _private(): ...
'''


@pytest.fixture
def items(tmp_path):
    """Return the items of a made-up module."""
    path = tmp_path / "made.py"
    path.write_text(MODULE, encoding="utf-8")
    return api.parsed(path, "core.made")


def test_a_module_has_its_public_names_with_signature_and_line(items):
    about, (box, area) = items
    assert about.startswith("What it is for.") and (box.name, area.name) == ("Box", "area")
    assert box.signature == "class Box(dict)" and [method.name for method in box.methods] == ["Box.open"]
    assert area.signature == "area(width: float, height: float=1.0) → float"
    assert MODULE.splitlines()[area.line - 1].startswith("def area")
    assert area.summary == "Return the area, m²." and area.path == "nbhelpers/core/made.py"


def test_lines_that_open_with_a_name_and_a_sign_of_equality_are_equations(items):
    _, (box, area) = items
    assert area.equations == ["area = width · height, m²", "volume ∝ area", "x = 3 · y"]
    assert box.equations == []


def test_a_docstring_becomes_paragraphs_equations_and_lists(items):
    _, (box, area) = items
    made = api.prose(area.text)
    assert '<pre class="formula">area = width · height, m²\nvolume ∝ area</pre>' in made
    assert "<p>width: of the floor. So that n = 3 boxes fit, and</p>" in made
    made = api.prose(box.text)
    assert "<dt><code>a, b</code></dt>\n<dd>Two <code>things</code> &lt; 3.</dd>" in made


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("h_{ℓ−1}", "h<sub>ℓ−1</sub>"),
        ("mean_{i ∈ A} D*_i", "mean<sub>i ∈ A</sub> D*<sub>i</sub>"),
        ("Σ_token kl_ℓ", "Σ<sub>token</sub> kl<sub>ℓ</sub>"),
        ("x_i² + d̂_{−i}", "x<sub>i</sub>² + d̂<sub>−i</sub>"),
        ("p_L,t and p_(k)", "p<sub>L,t</sub> and p<sub>(k)</sub>"),
        ("y_<t", "y<sub>&lt;t</sub>"),
        ("W_IT rank_ij", "W<sub>IT</sub> rank<sub>ij</sub>"),
        ("v^1.5", "v<sup>1.5</sup>"),
        ("kl_it[ℓ] N_CANDIDATES residual_last n_bytes", "kl_it[ℓ] N_CANDIDATES residual_last n_bytes"),
    ],
)
def test_indices_of_a_formula_stand_below_the_line_and_names_stay(text, html):
    assert api.formula([f"a = {text}"]) == f'<pre class="formula">a = {html}</pre>'


def test_words_hold_indices_of_single_letters_alone_and_code_stays():
    said = api.prose("The state h_{−1} and p_ℓ of late_3, `a_b` and 0_25.")
    assert said == "<p>The state h<sub>−1</sub> and p<sub>ℓ</sub> of late_3, <code>a_b</code> and 0_25.</p>"


def test_an_example_that_is_indented_keeps_its_lines():
    assert api.formula(["a = `b`;  c = 1"]) == '<pre class="formula">a = b\nc = 1</pre>'
    assert api.prose("Text.\n\n    a   b\n    c") == "<p>Text.</p>\n<pre>    a   b\n    c</pre>"


def test_an_entry_leads_to_its_line(items):
    _, (_, area) = items
    made = api.entry(area)
    assert f'<a href="../source/nbhelpers/core/made.html#L{area.line}">source</a>' in made
    assert 'id="core.made.area"' in made


@pytest.mark.parametrize("folder", api.FOLDERS)
def test_the_page_of_a_folder_has_every_public_name_once(folder):
    page = api.api("made", folder)
    ids = re.findall(r'<div class="api" id="([^"]+)">', page)
    wanted = []
    for name, path in api.modules(folder).items():
        for item in api.parsed(path, name)[1]:
            wanted += [item.anchor, *(method.anchor for method in item.methods)]
    assert sorted(ids) == sorted(wanted) and len(ids) == len(set(ids)) and ids
    assert len(page.encode()) < 1_500_000  # of 3 MB that a page may weigh
    for place, line in re.findall(r'href="\.\./source/(nbhelpers/[^"]+)\.html#L(\d+)"', page)[::25]:
        text = (REPOSITORY / f"{place}.py").read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert re.match(r"\s*(@|async def |def |class )", text), (place, line)


def test_every_folder_of_the_package_has_a_page():
    folders = {path.name for path in (REPOSITORY / "nbhelpers").iterdir() if (path / "__init__.py").exists()}
    assert folders == set(api.FOLDERS)
    for folder in folders:
        text = (REPOSITORY / f"book/api/{folder}.md").read_text(encoding="utf-8")
        assert f"% insert: api {folder}\n" in text
    assert api.api_index("made").count("](api/") == len(folders)


def test_an_unknown_folder_is_named():
    with pytest.raises(markdown.PageError, match="no folder 'model'; it has core, models"):
        api.api("made", "model")


def test_the_reference_needs_no_model_library():
    code = "import sys; from nbhelpers.book import api; api.api('x', 'models'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False", done.stderr
