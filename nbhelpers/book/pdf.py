"""The book on paper: each page of the built book printed by headless Chromium, and the prints bound into one PDF.

A page is laid out at the width of the paper, with every tab and closed part open, and its charts drawn for that width as
vectors. The outline names chapters and pages; links between pages of the book lead to each other.
"""

import io
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlparse

import yaml
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, FloatObject, NameObject

from nbhelpers.core import params, sealed
from nbhelpers.core.store import ResultError

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
PAPER = {"width": 703, "height": 1030}  # px, of A4 without the margins of book.css
PATIENCE = 120_000  # ms for the charts of one page
OPENED = """() => document.querySelectorAll("article details:not(.chart-data)").forEach(part => (part.open = true))"""
# Chromium notes only the places that a link of the same page leads to, so there is one, unseen, to each.
NOTED = """() => {
    const links = document.createElement("div");
    links.style.display = "none";
    for (const place of document.querySelectorAll("article [id]")) {
        links.append(Object.assign(document.createElement("a"), {href: `#${place.id}`, textContent: "."}));
    }
    document.body.append(links);
}"""
# Whether each chart is drawn for the room that it has now, for a while: layout settles after the parts are open.
SETTLED = """async () => {
    const pause = () => new Promise(done => setTimeout(done, 250));
    const shapes = () => {
        const places = [...document.querySelectorAll("div.vegalite")];
        if (!places.every(place => place.dataset.drawn && place.querySelector("svg.marks"))) return null;
        return places.map(place => place.querySelector("svg.marks").outerHTML.length + "@" + place.clientWidth).join();
    };
    for (let last = null, same = 0; same < 3; await pause()) {
        const now = shapes();
        same = now !== null && now === last ? same + 1 : 0;
        last = now;
    }
    return true;
}"""


def browser_path() -> str:
    """Return the path of Chromium or of a browser built on it; ResultError if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None) or (MAC if os.path.exists(MAC) else None)
    if found is None:
        raise ResultError("no Chromium or Chrome is on the PATH, which prints the book; install one of them.")
    return found


def pdf_path() -> Path:
    """Return the path of the printed book, `_build/book.pdf`."""
    return params.ROOT / "_build" / "book.pdf"


def chapters(every: bool) -> dict[str, list[tuple[str, str]]]:
    """Return {chapter: [(title, file in the book without suffix)]} of the built book; ResultError if there is none.

    every: with the pages of each pair, which stand below an experiment's page.
    """
    toc_path, index = (params.ROOT / "_build" / name for name in ("book/_toc.yml", "html/index.html"))
    if not (toc_path.is_file() and index.is_file()):
        raise ResultError("there is no book in _build/html to print; make it with `make book`.")
    toc = yaml.safe_load(toc_path.read_text(encoding="utf-8"))
    found = {"": [("The answers", toc["root"])]}
    for part in toc["parts"]:
        entries = []
        for entry in part["chapters"]:
            entries.append(entry)
            entries += entry.get("sections", []) if every else []
        found[part["caption"]] = [
            (entry.get("title", entry["file"]), Path(entry["file"]).with_suffix("").as_posix())
            for entry in entries
        ]
    return found


def printed(page: Page, path: Path) -> bytes:
    """Return one page of the book as PDF; ResultError if its charts are not drawn in time."""
    page.goto(path.as_uri())
    page.evaluate("() => document.documentElement.dataset.theme = 'light'")
    page.evaluate(OPENED)
    page.evaluate(NOTED)
    try:
        page.wait_for_function(SETTLED, timeout=PATIENCE)
    except PlaywrightError:
        raise ResultError(
            f"the charts of {path.name} were not drawn in {PATIENCE // 1000} s; open it in a browser to see why."
        ) from None
    return page.pdf(prefer_css_page_size=True, print_background=True, format="A4")


def prints(browser: Browser, names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PDF) of pages of the book."""
    html = params.ROOT / "_build" / "html"
    page = browser.new_page(viewport=PAPER, color_scheme="light", reduced_motion="reduce")
    page.emulate_media(media="print")
    page.add_init_script("try { localStorage.clear() } catch {}")
    for number, name in enumerate(names, 1):
        if sys.stderr.isatty():
            print(f"\r{number} of {len(names)}  {name:60.60}", end="", file=sys.stderr)
        yield name, printed(page, html / f"{name}.html")


def write(every: bool = False) -> tuple[Path, int]:
    """Return the path of the printed book and its number of sheets; ResultError without a book or a browser.

    every: with the pages of each pair.
    """
    found, browser = chapters(every), browser_path()
    names = [name for pages in found.values() for _, name in pages]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser)
        sheets = {name: PdfReader(io.BytesIO(data)) for name, data in prints(chromium, names)}
        chromium.close()
    writer = bound(sheets, found)
    data = io.BytesIO()
    writer.write(data)
    sealed.write_whole(pdf_path(), data.getvalue())
    return pdf_path(), len(writer.pages)


def bound(sheets: Mapping[str, PdfReader], found: Mapping[str, list[tuple[str, str]]]) -> PdfWriter:
    """Return the prints in one PDF with an outline by chapter, whose links lead to places in it."""
    writer, first = PdfWriter(), {}
    for caption, pages in found.items():
        above = None
        for title, name in pages:
            first[name] = len(writer.pages)
            for sheet in sheets[name].pages:
                writer.add_page(sheet)
            if caption and above is None:
                above = writer.add_outline_item(caption, first[name])
            writer.add_outline_item(title, first[name], parent=above)
    writer.add_metadata({"/Title": "What instruction tuning changes inside a transformer"})
    places = {(name, ""): (start, None) for name, start in first.items()}
    for name, start in first.items():
        places |= {
            (name, anchor): (start + sheet, top) for anchor, (sheet, top) in anchors(sheets[name]).items()
        }
    for name, start in first.items():
        for sheet in writer.pages[start : start + len(sheets[name].pages)]:
            relink(sheet, name, writer, places)
    return writer


def anchors(reader: PdfReader) -> dict[str, tuple[int, float | None]]:
    """Return {anchor: (sheet, height on it)} of one page's print."""
    found = {}
    for name, place in reader.named_destinations.items():
        sheet = reader.get_destination_page_number(place)
        if sheet is not None and sheet >= 0:
            found[str(name).removeprefix("/")] = sheet, place.top
    return found


def relink(sheet, page: str, writer: PdfWriter, places: Mapping) -> None:
    """Make a sheet's links into the book lead to places of the PDF; those to other files of this disk are dropped."""
    kept = ArrayObject()
    for reference in sheet.get("/Annots") or ():
        annotation = reference.get_object()
        name, anchor, local = target(annotation, page)
        if place := places.get((name, anchor), places.get((name, ""))):
            annotation.pop("/A", None)
            annotation[NameObject("/Dest")] = destination(writer, *place)
        if place or not local:
            kept.append(reference)
    if "/Annots" in sheet:
        sheet[NameObject("/Annots")] = kept


def target(annotation, page: str) -> tuple[str | None, str, bool]:
    """Return (page of the book, anchor, whether it is on this disk) that a link of a page leads to."""
    if "/Dest" in annotation:
        return page, str(annotation["/Dest"]).removeprefix("/"), True
    address = urlparse(str(annotation.get("/A", {}).get("/URI", "")))
    if address.scheme != "file":
        return None, "", False
    html, path = params.ROOT / "_build" / "html", Path(unquote(address.path))
    inside = (
        path.relative_to(html).with_suffix("").as_posix()
        if path.is_relative_to(html) and path != html
        else None
    )
    return inside, unquote(address.fragment), True


def destination(writer: PdfWriter, sheet: int, top: float | None) -> ArrayObject:
    """Return a PDF destination: a sheet and a height on it, or its top."""
    where = [NameObject("/FitH"), FloatObject(top)] if top is not None else [NameObject("/Fit")]
    return ArrayObject([writer.pages[sheet].indirect_reference, *where])
