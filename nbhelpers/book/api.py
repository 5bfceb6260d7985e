"""The API reference: what every public function of the package's folders returns, from its docstring. MyST Markdown.

Modules are parsed and not imported, so no page needs PyTorch.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import groupby
from pathlib import Path

from nbhelpers.book import source
from nbhelpers.book.markdown import PageError, inline, raw, source_link, table

# A line of a docstring that states an equation: one or two words, then = or ∝.
EQUATION = re.compile(r"[^\s=.:;,]+( [^\s=.:;,]+)? (=|∝) ")
# Indices of formulas: in braces, of a sum, of a single sign or one of a few pairs of letters: h_{−1}, Σ_token, p_ℓ, w_ij.
# A name such as kl_it has none. Words hold more names than formulas do: there an index follows a single letter.
SIGN = r"[^\W_²³]"
AFTER = rf"_({SIGN}(?:,{SIGN})?|&lt;\w|·\w|\(\w\)|ij|IT|PT)(?!{SIGN})"
INDEX, INDEX_IN_WORDS = (
    re.compile(rf"_\{{([^{{}}]+)\}}|(?<=Σ)_({SIGN}+)|(?<=\b\w)_(last)\b|(?<={before}){AFTER}")
    for before in (r"[\w*'\u0302\u0304]", r"\b[^\W\d_]")
)
FOLDERS = ("core", "models", "measures", "report", "experiments", "run", "book", "cli")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Item:
    """A public function or class: its module, name, signature, docstring and line; of a class also its methods."""

    module: str
    name: str
    signature: str
    text: str
    line: int
    methods: tuple["Item", ...] = ()

    @property
    def summary(self) -> str:
        """Return the first sentence or paragraph of the docstring on one line."""
        return " ".join(self.text.partition("\n\n")[0].split())

    @property
    def equations(self) -> list[str]:
        """Return the lines of the docstring that state an equation."""
        return [line for line in map(str.strip, self.text.splitlines()) if EQUATION.match(line)]

    @property
    def anchor(self) -> str:
        """Return the anchor of the item on the page of its folder."""
        return f"{self.module}.{self.name}"

    @property
    def path(self) -> str:
        """Return the path of its file, from the package's parent."""
        return f"nbhelpers/{self.module.replace('.', '/')}.py"


@cache
def parsed(path: Path, module: str) -> tuple[str, tuple[Item, ...]]:
    """Return a module's docstring and its public functions and classes, in the order of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return ast.get_docstring(tree) or "", tuple(item(node, module) for node in public(tree))


def public(node: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """Yield the public functions and classes that a module or class defines."""
    for child in node.body:
        if isinstance(child, Definition) and not child.name.startswith("_"):
            yield child


def item(node: Definition, module: str, owner: str = "") -> Item:
    """Return a function or class as an item; owner: the class of a method, with a dot."""
    methods: tuple[Item, ...] = ()
    if isinstance(node, ast.ClassDef):
        methods = tuple(item(child, module, f"{node.name}.") for child in public(node))
        bases = ", ".join(map(ast.unparse, node.bases))
        signature = f"class {node.name}({bases})" if bases else f"class {node.name}"
    else:
        returns = f" → {ast.unparse(node.returns)}" if node.returns else ""
        signature = f"{node.name}({ast.unparse(node.args)}){returns}"
    return Item(module, f"{owner}{node.name}", signature, ast.get_docstring(node) or "", node.lineno, methods)


def modules(folder: str) -> dict[str, Path]:
    """Return {dotted name within the package: path} of a folder's modules, `__init__` first."""
    found = {}
    for path in source.modules():
        parts = path.with_suffix("").parts[1:]
        if parts[0] == folder:
            found[".".join(parts)] = source.ROOT / path
    return found


def prose(text: str) -> str:
    """Return a docstring as HTML: paragraphs, with equations, indented examples and lists of parameters set apart."""
    return "\n".join(block(part) for part in re.split(r"\n\s*\n", text) if part.strip())


def block(text: str) -> str:
    """Return one paragraph of a docstring as HTML."""
    lines = text.strip("\n").splitlines()
    if len(lines) > 1 and re.fullmatch("-{3,}", lines[1]):
        return listed(lines[0], lines[2:])
    if all(line.startswith("    ") for line in lines):
        return f"<pre>{escape(chr(10).join(lines), quote=False)}</pre>"
    made = []
    for stated, run in groupby(lines, lambda line: bool(EQUATION.match(line.strip()))):
        bare = [line.strip() for line in run]
        made.append(formula(bare) if stated else f"<p>{indexed(inline(' '.join(bare)))}</p>")
    return "\n".join(made)


def formula(lines: list[str]) -> str:
    """Return lines of equations as HTML, one equation a line."""
    text = "\n".join(lines).replace(";  ", "\n").replace("`", "")
    return f'<pre class="formula">{indexed(escape(text, quote=False), INDEX)}</pre>'


def indexed(html: str, index: re.Pattern = INDEX_IN_WORDS) -> str:
    """Return HTML with the indices and powers of its formulas set below and above the line, code left as it is."""
    parts = re.split("(<code>.*?</code>)", html)
    for at in range(0, len(parts), 2):
        lowered = index.sub(lambda found: f"<sub>{found[found.lastindex]}</sub>", parts[at])
        parts[at] = re.sub(r"\^([\d.]*\d)", r"<sup>\1</sup>", lowered)
    return "".join(parts)


def listed(heading: str, lines: list[str]) -> str:
    """Return a numpydoc section as HTML: each name that stands at the margin, and the indented text below it."""
    made = [f"<p>{inline(heading)}</p>", "<dl>"]
    for indented, run in groupby(lines, lambda line: line.startswith(" ")):
        text = inline(" ".join(map(str.strip, run)))
        made.append(f"<dd>{text}</dd>" if indented else f"<dt><code>{text}</code></dt>")
    return "\n".join([*made, "</dl>"])


def entry(found: Item) -> str:
    """Return an item as HTML: its signature with a link to its source, its docstring, and the methods of a class."""
    code = f"<code>{escape(found.signature, quote=False)}</code>"
    head = f'<p class="signature">{code} {source_link(found.path, "source", found.line, "../")}</p>'
    inner = "\n".join(entry(method) for method in found.methods)
    body = f'<div class="docstring">\n{prose(found.text)}\n{inner}\n</div>'
    return f'<div class="api" id="{escape(found.anchor)}">\n{head}\n{body}\n</div>'


def api(profile: str, folder: str) -> str:
    """Return the reference of a folder, a section for each module with public functions; PageError without such a folder."""
    if folder not in FOLDERS:
        raise PageError(f"nbhelpers has no folder {folder!r}; it has {', '.join(FOLDERS)}.")
    parts = []
    for name, path in modules(folder).items():
        text, items = parsed(path, name)
        if items:
            label = f"(api-{name.replace('.', '-').replace('_', '-')})="
            listed = "\n".join(entry(each) for each in items)
            parts.append(f"{label}\n## {name}\n\n{raw(f'{prose(text)}{chr(10)}{listed}')}")
    return "\n\n".join(parts)


def api_index(profile: str) -> str:
    """Return the table of the package's folders: the page of each, what it is for, and how many public functions it has."""
    rows = []
    for folder in FOLDERS:
        found = [parsed(path, name) for name, path in modules(folder).items()]
        about = next((text.partition("\n")[0] for text, _ in found if text), "")
        rows.append(
            [f"[{folder}](api/{folder}.md)", about, len(found), sum(len(items) for _, items in found)]
        )
    return table(["folder", "what it holds", "modules", "public names"], rows)
