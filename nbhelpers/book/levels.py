"""The levels at which this book can be checked, what each costs, and the checksums of the results. MyST Markdown.

Costs of a profile that has been measured are those of its results; costs of the others are the dry run's.
"""

import json
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.book.markdown import inline, stacked, table
from nbhelpers.book.registry import attributes
from nbhelpers.core import digests, params, store
from nbhelpers.core.cost import Cost
from nbhelpers.run import estimate, results

# TFLOPS of matrix products and TB/s of memory that the times assume.
SPEEDS = {"laptop": (1.0, 0.05), "paper": (estimate.GPU_RATE, estimate.GPU_BANDWIDTH)}
HEADER = ("level", "command", "time", "disk", "memory", "what it shows")
UNKNOWN = "–"
SHOWS = {
    "laptop": "that the protocol works on public models of the same families",
    "paper": "what holds of the study's own models",
}


def levels(profile: str, keys: list[str]) -> str:
    """Return the table of levels, from reading to the study's own models, with command, time, disk, memory, what it shows."""
    drawn = estimate.duration(sum(durations(profile, keys)))
    measured, held = estimate.duration(spent(profile, keys)), estimate.gib(kept(profile))
    rows = [
        ("read", "open `_build/html/index.html`", "–", "the book's folder", "a browser",
         "what was found, and every value behind every figure"),
        ("redraw", f"`nbh run expNN_across --profile {profile}`, then `nbh book --profile {profile}`",
         f"{drawn} for all pages, on one core", held, "under 1 GiB for the pocket profile",
         "that the pages follow from the datasets"),
        ("rerun", f"`make clean`, then `make book PROFILE={profile}`", f"{measured} for all pairs, on one core",
         held, memory(profile, costs(profile, keys)), "that the datasets follow from code, parameters and checkpoints"),
        *(_planned(name, keys) for name in SPEEDS if name != profile),
    ]  # fmt: skip
    return stacked(HEADER, [[inline(cell) for cell in row] for row in rows])


def costs(profile: str, keys: list[str]) -> list[tuple[params.Run, Cost]]:
    """Return every run of a profile with its cost, by the dry run; none if the sizes of a pair are not known.

    Of pairs that ship with the project, all of one size, the first alone is counted.
    """
    models = params.profile_params(profile).models
    try:
        runs = [
            experiments.resolve(key, model=model, profile=profile)
            for model in (models if profile in SPEEDS else models[:1])
            for key in keys
        ]
        return [(run, estimate.cost(run)) for run in runs]
    except params.ParameterError:  # a checkpoint that is not here states no sizes
        return []


def _planned(name: str, keys: list[str]) -> tuple[str, ...]:
    """Return the row of a profile that has not been run here, by the dry run."""
    found = costs(name, keys)
    rate, bandwidth = SPEEDS[name]
    took = estimate.duration(sum(estimate.seconds(run, rate, bandwidth) for run, _ in found))
    time = f"{took} of matrix products at {rate:g} TFLOPS and of reading weights at {bandwidth:g} TB/s"
    disk = f"{estimate.gib(sum(cost.result for _, cost in found))} of results, and the weights"
    command = f"`make book PROFILE={name}`"
    return name, command, f"{time}; all else comes on top", disk, memory(name, found), SHOWS[name]


def memory(profile: str, found: list[tuple[params.Run, Cost]]) -> str:
    """Return the most memory that one of a profile's runs holds, as text; a dash if there is none."""
    if not found:
        return UNKNOWN
    if params.profile_params(profile).gpus:
        device, host = (max(getattr(cost, name) for _, cost in found) for name in ("memory", "host"))
        return f"{estimate.gib(device)} on the GPU, {estimate.gib(host)} beside it"
    return (
        f"{estimate.gib(max(cost.memory + cost.host for _, cost in found))} beside Python and its libraries"
    )


def durations(profile: str, keys: list[str]) -> list[float]:
    """Return the seconds that the pages across models took, as papermill noted them; none of a page without a note."""
    found = []
    for key in keys:
        path = results.executed_path(profile, params.experiment(key).across)
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        found.append(float(metadata.get("papermill", {}).get("duration") or 0.0))
    return found


def spent(profile: str, keys: list[str]) -> float:
    """Return the seconds that all notebooks of a profile's pairs took, one after the other, from start to dataset."""
    return sum(float(a["wall_time_s"]) for key in keys for a in attributes(profile, key).values())


def files(profile: str) -> list[Path]:
    """Return the files of a profile's results, in the order of models and names."""
    folders = [
        store.result_path(profile, model, "x").parent for model in params.profile_params(profile).models
    ]
    return [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix in (".nc", ".safetensors")
    ]


def kept(profile: str) -> int:
    """Return how many bytes the results of a profile take."""
    return sum(path.stat().st_size for path in files(profile))


def checksums(profile: str) -> str:
    """Return the closed table of the SHA-256 of every dataset and artifact of the profile."""
    folder = params.ROOT / "_build" / "digests"
    rows = [
        [f"`{path.parent.name}/{path.name}`", f"{path.stat().st_size:,}", f"`{digests.sha256(path, folder)}`"]
        for path in files(profile)
    ]
    return f"::::{{dropdown}} {len(rows)} files\n{table(['file', 'bytes', 'SHA-256'], rows)}\n::::"
