"""The supplement as one file: the book, the results behind it, notebooks, parameters and sources, with checksums.

The same inputs give the same bytes: names are sorted, and no time of the machine is written. `nbh verify` checks it
(`book/verify`); `book/crate` describes it for machines.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.book import crate
from nbhelpers.core import params, sealed, store
from nbhelpers.core.store import ResultError
from nbhelpers.run import graph, results, versions

SUMS, CRATE, ABOUT = "SHA256SUMS", "ro-crate-metadata.json", "SUPPLEMENT.md"
LIMIT = 100_000_000  # bytes of the zip
MARGIN = 1_000_000  # bytes kept free for checksums, metadata and the zip's own list of files
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold, of every file
FIRST = (
    "README.md",
    "LICENSE",
    "CITATION.cff",
    ".zenodo.json",
    "environment.yml",
    "pyproject.toml",
    "Makefile",
    "Snakefile",
)
SOURCES = {
    "params": "**/*", "notebooks": "*.ipynb", "nbhelpers": "**/*", "book": "**/*", "pocket": "*.*",
    "pocket/checkpoints": "*/card.json",
}  # fmt: skip
NO_SOURCE = ("__pycache__", ".ipynb_checkpoints")
INTRODUCTION = """# {title}

The archive of the book, profile `{profile}`. Open `html/index.html`; it needs no network.

- `html/`: the book
- `datasets/{profile}/<model>/`: results as NetCDF, tuned lenses as safetensors; the package's README says how to read them
- `runs/{profile}/`: the notebooks as they ran, with their outputs
- `notebooks/`, `params/`, `nbhelpers/`, `book/`, `pocket/`, `Snakefile`, `environment.yml`: what they were made with, to
  be read; to run it take the whole repository, which has the checkpoints and tests too
- `{crate}`: which notebook made which result, from what, when (RO-Crate, Workflow Run Crate)
- `{sums}`: checksums, which `sha256sum -c {sums}` checks; `nbh verify` checks more

{left_out}
"""
COMPLETE = "Every result of the profile is here."
INCOMPLETE = """## Left out

The archive holds less than {limit} MB. Results that hold a value for each single token (dimension `step`) are intermediates
that others summarise; they come last, pair by pair, each that finds room. Of the others the smallest come first. These found
no room; `nbh batch --profile {profile}` makes each of them:

{names}
"""


@dataclass
class Archive:
    """A zip in the making: what it holds by name, and what found no room, each with its SHA-256."""

    file: zipfile.ZipFile
    sums: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        """Add one file under a name."""
        info = zipfile.ZipInfo(name, EPOCH)
        info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
        self.file.writestr(info, data, compresslevel=6)
        self.sums[name] = hashlib.sha256(data).hexdigest()

    @property
    def room(self) -> int:
        """How many bytes may still be added."""
        return LIMIT - MARGIN - self.file.fp.tell()


def archive_path(profile: str) -> Path:
    """Return the path of a profile's supplement, `_build/supplement-<profile>.zip`."""
    return params.ROOT / "_build" / f"supplement-{profile}.zip"


def note_path() -> Path:
    """Return the path of the note of what the built book was made from."""
    return params.ROOT / "_build" / "steps" / "book-version"


def book_inputs(profile: str) -> str:
    """Return a digest of what the book of a profile is made from: sources, parameters and executed notebooks."""
    runs = sorted((params.ROOT / "_build" / "runs" / profile).rglob("*.ipynb"))
    done = [path for path in runs if not path.name.endswith(".partial.ipynb")]
    return params.parameter_hash([profile, versions.book_version(), params.files_hash(done)])


def note_inputs(profile: str) -> None:
    """Write down what the book that was built last is made from."""
    store.write_whole(note_path(), book_inputs(profile).encode())


def require_book(profile: str) -> Path:
    """Return the folder of the built book; ResultError if there is none of the profile or it is out of date."""
    html, make = params.ROOT / "_build" / "html", f"`make book PROFILE={profile}`"
    if not (html / "index.html").is_file() or not results.holds(results.book_stamp(), profile):
        raise ResultError(f"there is no book of the profile {profile} in _build/html; make it with {make}.")
    if old := graph.outdated(profile):
        raise ResultError(
            f"{len(old)} notebooks are out of date, such as {store.shown(old[0])}; renew them with {make}."
        )
    if not results.holds(note_path(), book_inputs(profile)):
        raise ResultError(
            f"the book in _build/html is older than its sources or notebooks; build it anew with {make}."
        )
    return html


def folder_files(folder: Path, place: str, pattern: str = "**/*") -> Iterator[tuple[str, Path]]:
    """Yield (name in the archive, path) of the files of a folder, sorted; caches and unfinished notebooks are left out."""
    for path in sorted(folder.glob(pattern)):
        inside = path.relative_to(folder)
        if (
            path.is_file()
            and not set(NO_SOURCE) & set(inside.parts)
            and not path.name.endswith(".partial.ipynb")
        ):
            yield f"{place}/{inside.as_posix()}", path


def texts(profile: str, html: Path) -> dict[str, Path]:
    """Return {name in the archive: path} of everything but results."""
    root = params.ROOT
    found = {name: root / name for name in FIRST if (root / name).is_file()}
    for place, pattern in SOURCES.items():
        found |= folder_files(root / place, place, pattern)
    found |= folder_files(html, "html")
    found |= folder_files(root / "_build" / "runs" / profile, f"runs/{profile}", "**/*.ipynb")
    return dict(sorted(found.items()))


def datasets(profile: str) -> dict[str, Path]:
    """Return {name in the archive: path} of a profile's results and their artifacts, in the order in which they find room."""
    early, late = [], []
    for model in params.profile_params(profile).models:
        for key in params.ordered():
            run = experiments.resolve(key, model=model, profile=profile)
            if fault := results.fault(run):
                raise ResultError(f"{key} · {model}: {fault} Make it with `nbh batch --profile {profile}`.")
            own = store.result_path(profile, model, key)
            for path in [own, *(own.with_name(name) for name in params.experiment(key).artifacts)]:
                (late if by_step(path) else early).append(path)
    early.sort(key=lambda path: (path.stat().st_size, path))
    return {f"datasets/{profile}/{path.parent.name}/{path.name}": path for path in [*early, *late]}


def by_step(path: Path) -> bool:
    """Return whether a file is a dataset that holds values of single tokens."""
    return path.suffix == ".nc" and "step" in store.sizes(path)


def write(profile: str) -> tuple[Path, dict[str, str]]:
    """Return the path of a profile's supplement after writing it whole, and {name: SHA-256} of what found no room in it.

    Raises ResultError if the book or a result is missing or out of date, or if texts alone pass the limit.
    """
    html, path = require_book(profile), archive_path(profile)
    found = datasets(profile)
    with sealed.replacing(path) as partial:
        try:
            with zipfile.ZipFile(partial, "w") as file:
                archive = Archive(file)
                fill(archive, texts(profile, html), found)
                finish(archive, profile, found)
        except BaseException:  # an interrupt too: a hundred megabytes are not left lying
            partial.unlink(missing_ok=True)
            raise
    return path, archive.left_out


def fill(archive: Archive, always: Mapping[str, Path], results_: Mapping[str, Path]) -> None:
    """Add files: all of `always`, and of the results, in their order, each that finds room."""
    for name, path in always.items():
        archive.add(name, path.read_bytes())
    if archive.room < 0:
        raise ResultError(
            f"the book and its notebooks alone pass {LIMIT // 10**6} MB, so no supplement can be made of them."
        )
    for name, path in results_.items():
        if path.stat().st_size <= archive.room:
            archive.add(name, path.read_bytes())
        else:
            with open(path, "rb") as file:
                archive.left_out[name] = hashlib.file_digest(file, "sha256").hexdigest()


def finish(archive: Archive, profile: str, found: Mapping[str, Path]) -> None:
    """Add what describes the archive: its introduction, its metadata and its checksums."""
    held = {name: path for name, path in found.items() if name in archive.sums}
    archive.add(ABOUT, introduction(profile, archive.left_out).encode())
    described = crate.metadata(profile, held, archive.sums)
    archive.add(CRATE, (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode())
    lines = [f"{digest}  {name}\n" for name, digest in sorted(archive.sums.items())]
    archive.add(SUMS, "".join(lines).encode())


def introduction(profile: str, left_out: Mapping[str, str]) -> str:
    """Return the text that the archive opens with, which names what was left out."""
    names = "\n".join(f"- `{name}`, SHA-256 `{digest}`" for name, digest in sorted(left_out.items()))
    missing = INCOMPLETE.format(limit=LIMIT // 10**6, profile=profile, names=names) if left_out else COMPLETE
    title = "What instruction tuning changes inside a transformer"
    return INTRODUCTION.format(title=title, profile=profile, crate=CRATE, sums=SUMS, left_out=missing)
