"""Health checks of an installation, each with a remedy for what is wrong, and the table of models.

This module changes nothing and loads no model.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from nbhelpers import experiments
from nbhelpers.core import params
from nbhelpers.run import checkpoints, locks, notebooks

KERNEL = "instruction-tuning-book"
DISK_GB, MEMORY_GB = 2, 3
INSTALL = "make environment"


class Check(NamedTuple):
    """One finding: whether it is well (None: for information only), what was checked, and the remedy."""

    well: bool | None
    text: str
    remedy: str = ""


def pins() -> dict[str, str]:
    """Return {package: exact version} as environment.yml states them."""
    stated = yaml.safe_load((params.ROOT / "environment.yml").read_text(encoding="utf-8"))
    listed = next(entry["pip"] for entry in stated["dependencies"] if isinstance(entry, dict))
    return dict(line.split("==") for line in listed)


def _installed(package: str) -> str:
    """Return the installed version without its build suffix (2.13.0+cpu is 2.13.0)."""
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return "not installed"


def check_versions() -> Iterator[Check]:
    """Yield one check of Python and one of all pinned packages."""
    version = sys.version_info
    yield Check(version >= (3, 11), f"Python {version.major}.{version.minor}", "use Python 3.11 to 3.13")
    wanted = pins()
    wrong = [
        f"{name} {found}, pinned {pin}" for name, pin in wanted.items() if (found := _installed(name)) != pin
    ]
    shown = "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    yield Check(not wrong, f"{len(wanted)} pinned packages" + (f": {shown}" if wrong else ""), INSTALL)


def _kernel(name: str, remedy: str) -> Check:
    """Return the check that a kernel that Jupyter finds starts this environment's Python."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        python = Path(KernelSpecManager().get_kernel_spec(name).argv[0])
    except (NoSuchKernel, ValueError, OSError):
        return Check(False, f"Jupyter kernel {name} is not registered", INSTALL)
    same = not python.is_absolute() or python.parent.resolve() == Path(sys.executable).parent.resolve()
    return Check(same, f"Jupyter kernel {name}" + ("" if same else f" starts {python}"), remedy)


def check_kernel() -> Iterator[Check]:
    """Yield the check that the project's kernel is registered and starts this environment's Python."""
    yield _kernel(KERNEL, INSTALL)


def check_lab() -> Iterator[Check]:
    """Yield the check of the kernel that JupyterLab starts for a notebook by default; runs start their own in any case."""
    yield _kernel("python3", "unset JUPYTER_PATH, or choose “Instruction-tuning book” in JupyterLab")


def check_params() -> Iterator[Check]:
    """Yield one check of all parameter files; it reports the first error."""
    try:
        for key in params.keys("models"):
            params.model_params(key)
        for name in params.keys("profiles"):
            for key in params.keys("experiments"):
                experiments.experiment_params(key, name)
    except params.ParameterError as error:
        yield Check(False, f"parameters: {error}", "correct that file")
        return
    counts = ", ".join(f"{len(params.keys(kind))} {kind}" for kind in ("models", "profiles", "experiments"))
    yield Check(True, f"parameters: {counts}")


def sums() -> dict[str, str]:
    """Return the recorded SHA-256 of each shipped checkpoint file, by its path under pocket/checkpoints."""
    path = params.ROOT / "pocket" / "checkpoints" / "SHA256SUMS"
    if not path.exists():
        return {}
    rows = (line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip())
    return {name.lstrip("*"): digest for digest, name in rows}


def _shipped_fault(checkpoint: params.Checkpoint, recorded: dict[str, str]) -> str:
    """Return how a checkpoint differs from the one that ships with the project; "" if it does not."""
    top = params.ROOT / "pocket" / "checkpoints"
    for name, digest in recorded.items():
        path = top / name
        if path.is_relative_to(checkpoint.folder):
            if not path.exists():
                return f"lacks {path.name}"
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                return f"is not the shipped one ({path.name} differs from SHA256SUMS)"
    return ""


def cached(checkpoint: params.Checkpoint, name: str = "config.json") -> Path | None:
    """Return the path of a checkpoint's file, in its folder or the hub's cache; None if it is not on this machine."""
    if checkpoint.folder:
        path = checkpoint.folder / name
        return path if path.exists() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(checkpoint.hub, name, revision=checkpoint.revision)
    return Path(found) if isinstance(found, str) else None


def check_checkpoints(profile: str) -> Iterator[Check]:
    """Yield a check of each checkpoint of a profile: whether it is here, can be loaded, is as shipped or pinned."""
    recorded = sums()
    top = params.ROOT / "pocket" / "checkpoints"
    for key in params.profile_params(profile).models:
        model, well = params.model_params(key), True
        for variant in params.VARIANTS:
            checkpoint = getattr(model, variant)
            if not checkpoint.folder:
                yield _on_hub(checkpoint, key)
                continue
            # Sums are quick and tell more; a checkpoint of the user's own has none.
            shipped = any((top / name).is_relative_to(checkpoint.folder) for name in recorded)
            if shipped:
                fault = checkpoints.file_fault(checkpoint.folder) or _shipped_fault(checkpoint, recorded)
            else:
                fault = checkpoints.checkpoint_fault(model, variant)
            well = well and not fault and not shipped
            text = f"checkpoint {checkpoint.path} {fault}".rstrip()
            yield Check(not fault, text, params.remedy(checkpoint, key))
        if well and model.pt.folder and model.it.folder and (fault := checkpoints.pair_fault(model)):
            yield Check(False, f"pair {key}: {fault}", f"correct params/models/{key}.yml")


def _on_hub(checkpoint: params.Checkpoint, key: str) -> Check:
    """Return the check of a checkpoint on the hub: whether its revision is pinned, and whether it is here."""
    if not re.fullmatch("[0-9a-f]{40}", checkpoint.revision or ""):
        remedy = f"put a commit hash in params/models/{key}.yml"
        return Check(False, f"checkpoint {checkpoint.hub} has no pinned revision", remedy)
    here = "" if cached(checkpoint) else ": not downloaded yet, fetched at first use"
    return Check(True if not here else None, f"checkpoint {checkpoint.hub}{here}")


def check_notebooks() -> Iterator[Check]:
    """Yield one check for each notebook: whether it has exactly one `parameters` cell."""
    for path in sorted((params.ROOT / "notebooks").glob("*.ipynb")):
        try:
            notebooks.declared(path)
            yield Check(True, f"notebook {path.name}")
        except (notebooks.BatchError, ValueError, KeyError) as error:
            yield Check(False, f"notebook {path.name}: {error}", "tag one code cell `parameters`")


def check_machine(profile: str) -> Iterator[Check]:
    """Yield the checks of `_build`, free disk, memory and GPU."""
    try:
        locks.require_writable()
    except OSError as error:
        remedy = "allow writing there, or free some room"
        yield Check(False, f"_build cannot be written ({error.strerror})", remedy)
    disk, memory = shutil.disk_usage(params.ROOT).free / 1e9, psutil.virtual_memory().available / 1e9
    yield Check(disk >= DISK_GB, f"{disk:.0f} GB of disk free", f"free at least {DISK_GB} GB")
    yield Check(memory >= MEMORY_GB, f"{memory:.0f} GB of memory available", f"free at least {MEMORY_GB} GB")
    names = gpu_names()
    if names:
        import torch

        seen = torch.cuda.is_available()
        remedy = "install a CUDA build of PyTorch that fits the driver"
        yield Check(
            seen, f"GPU: {', '.join(names)}" + ("" if seen else ", which PyTorch does not see"), remedy
        )
    else:
        needed = params.profile_params(profile).gpus
        yield Check(False if needed else None, "no GPU: the CPU is used", f"profile {profile} wants {needed}")


def gpu_names() -> list[str]:
    """Return the names of this machine's NVIDIA GPUs."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(
            query, capture_output=True, text=True, check=True, timeout=20
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def checks(profile: str) -> Iterator[Check]:
    """Yield every check of a profile in the order in which remedies should be tried."""
    yield from check_versions()
    yield from check_kernel()
    yield from check_lab()
    parameters = list(check_params())
    yield from parameters
    if parameters[0].well:
        yield from check_checkpoints(profile)
        yield from check_notebooks()
        yield from check_machine(profile)


def report(profile: str) -> bool:
    """Return whether all is well, after printing one line for each check, with the remedy if it failed."""
    encoding = (sys.stdout.encoding or "").lower()
    marks = {True: "✔", False: "✘", None: "·"} if "utf" in encoding else {True: "ok", False: "NO", None: "--"}
    failed = 0
    for check in checks(profile):
        failed += check.well is False
        remedy = f"\n    → {check.remedy}" if check.well is False else ""
        print(f"{marks[check.well]} {check.text}{remedy if 'utf' in encoding else remedy.replace('→', '->')}")
    print("all is well" if not failed else f"{failed} to mend")
    return not failed


def _sizes(checkpoint: params.Checkpoint) -> tuple[str, str]:
    """Return the layers and width in a checkpoint's configuration; "?" if that is not on this machine."""
    path = cached(checkpoint)
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path else {}
        config = config.get("text_config", config)
        return str(config.get("num_hidden_layers", "?")), str(config.get("hidden_size", "?"))
    except (ValueError, AttributeError):  # `nbh doctor` says more of it
        return "?", "?"


def model_table(profiles: list[str]) -> list[str]:
    """Return the lines of the table of models: profile, key, family, layers, width, checkpoints."""
    rows = [("profile", "model", "family", "L", "d", "PT", "IT")]
    for name in profiles:
        for key in params.profile_params(name).models:
            model = params.model_params(key)
            here = [
                "here" if cached(c) else "missing" if c.folder else "on the hub" for c in (model.pt, model.it)
            ]
            rows.append((name, key, model.family, *_sizes(model.pt), *here))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
