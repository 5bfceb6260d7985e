"""The printed book: every page in order, closed parts open, links inside it, an outline; a sentence where it cannot be."""

import io
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfReader

from nbhelpers.book import pdf
from nbhelpers.core import params, store

TOC = {
    "root": "index",
    "parts": [
        {"caption": "Start", "chapters": [{"file": "words", "title": "Words"}]},
        {"caption": "Work", "chapters": [
            {"file": "runs/one.ipynb", "title": "One", "sections": [{"file": "runs/ann/one.ipynb", "title": "Ann"}]},
        ]},
    ],
}  # fmt: skip
PAGES = {
    "index": '<a href="runs/one.html#deep">to one</a> <a href="/etc/hosts">a file</a> <a href="https://example.org/">out</a>',
    "words": "<p>words",
    "runs/one": '<details><summary>closed</summary><p>inside a closed part</details>'
    '<p style="break-before: page" id="deep">deep <a href="../words.html">back</a> <a href="ann/one.html">ann</a>',
    "runs/ann/one": "<p>ann's own",
}  # fmt: skip
needs_browser = pytest.mark.skipif(
    not shutil.which("chromium"), reason="needs Debian's chromium (apt-get install chromium)"
)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Return the root of a project with a built book of four pages."""
    for name, body in PAGES.items():
        path = tmp_path / "_build/html" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<!doctype html><html><body><article><h1>{name}</h1>{body}</article></body></html>")
    (tmp_path / "_build/book").mkdir()
    (tmp_path / "_build/book/_toc.yml").write_text(yaml.safe_dump(TOC))
    monkeypatch.setattr(params, "ROOT", tmp_path)
    return tmp_path


def alone(work, *given):
    """Return what `work` returns in a thread of its own: in this one another test's browser may be open."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *given).result()


def printed(name):
    """Return one page of the book as the bytes of a PDF."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=pdf.browser_path())
        ((_, data),) = pdf.prints(browser, [name])
    return data


def outline(reader, items=None):
    """Return the outline of a PDF as lists of (title, sheet)."""
    return [
        outline(reader, item)
        if isinstance(item, list)
        else (item.title, reader.get_destination_page_number(item))
        for item in (reader.outline if items is None else items)
    ]


def test_pages_of_pairs_are_left_out_unless_asked_for(root):
    one = ("One", "runs/one")
    assert pdf.chapters(False) == {
        "": [("The answers", "index")],
        "Start": [("Words", "words")],
        "Work": [one],
    }
    assert pdf.chapters(True)["Work"] == [one, ("Ann", "runs/ann/one")]


@needs_browser
@pytest.mark.browser
def test_the_pages_are_bound_in_order_with_an_outline_and_links(root):
    path, sheets = alone(pdf.write)
    reader = PdfReader(path)
    texts = [page.extract_text() for page in reader.pages]
    assert sheets == len(texts) == 4
    assert [text.split()[0] for text in texts] == ["index", "words", "runs/one", "deep"]
    assert "inside a closed part" in texts[2]
    assert outline(reader) == [("The answers", 0), ("Start", 1), [("Words", 1)], ("Work", 2), [("One", 2)]]
    first = [annotation.get_object() for annotation in reader.pages[0]["/Annots"]]
    assert [reader.pages.index(a["/Dest"][0].get_object()) for a in first if "/Dest" in a] == [
        3
    ]  # #deep, not the page's start
    assert [a["/A"]["/URI"] for a in first if "/A" in a] == ["https://example.org/"]  # none to this disk
    last = [annotation.get_object() for annotation in reader.pages[3]["/Annots"]]
    assert [reader.pages.index(a["/Dest"][0].get_object()) for a in last] == [
        1
    ]  # Ann's page is not in the print


@needs_browser
@pytest.mark.browser
def test_a_page_whose_charts_stay_away_is_named(root, monkeypatch):
    page = root / "_build/html/words.html"
    page.write_text(page.read_text().replace("<p>words", '<div class="vegalite"></div>'))
    monkeypatch.setattr(pdf, "PATIENCE", 4000)
    with pytest.raises(store.ResultError, match=r"the charts of words.html were not drawn in 4 s"):
        alone(pdf.write)
    assert not pdf.pdf_path().exists()


@needs_browser
@pytest.mark.browser
@pytest.mark.slow
def test_a_page_of_the_book_is_printed_whole_with_charts_as_vectors(book_root, monkeypatch):
    monkeypatch.setattr(params, "ROOT", book_root)
    name = f"runs/{params.experiment('exp09').across.removesuffix('.ipynb')}"
    reader = PdfReader(io.BytesIO(alone(printed, name)))
    text = "\n".join(page.extract_text() for page in reader.pages)
    html = (book_root / f"_build/html/{name}.html").read_text()
    assert html.count('<figure class="chart"') == len(
        {word for word in text.split("Figure ") if word[:1].isdigit()}
    )
    assert text.count("the whole notebook") == len(params.profile_params("pocket").models)  # every tab
    assert "Hide:" not in text and "Show:" not in text
    assert not any(page.images for page in reader.pages)
    assert all(float(page.mediabox.width) < 850 for page in reader.pages)


@pytest.mark.parametrize("missing", ["_build/html/index.html", "_build/book/_toc.yml"])
def test_without_a_book_it_says_how_to_make_one(root, missing):
    (root / missing).unlink()
    with pytest.raises(store.ResultError, match="no book in _build/html to print; make it with `make book`"):
        pdf.write()


def test_without_a_browser_it_says_which_to_install(root, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(pdf, "MAC", "/nowhere")
    with pytest.raises(
        store.ResultError, match="no Chromium or Chrome is on the PATH, which prints the book; install"
    ):
        pdf.write()
