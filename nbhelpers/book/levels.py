"""The levels at which this book can be checked, what each costs, and the checksums of the results. MyST Markdown.

Costs of a profile that has been measured are those of its results; costs of the others are the dry run's.
"""

import json
from pathlib import Path

from nbhelpers import experiments
from nbhelpers.book.markdown import inline, stacked, table
from nbhelpers.book.registry import attributes
from nbhelpers.core import digests, params, store
from nbhelpers.run import estimate, results

RATES = {"laptop": 1.0, "paper": estimate.GPU_RATE}  # TFLOPS that the times of matrix products assume
HEADER = ("level", "command", "time", "disk", "memory", "what it shows")
UNKNOWN = "–"


def levels(profile: str, keys: list[str]) -> str:
    """Return the table of levels, from reading to the study's own models, with command, time, disk, memory, what it shows."""
    drawn = estimate.duration(sum(durations(profile, keys)))
    measured, held = estimate.duration(spent(profile, keys)), estimate.gib(kept(profile))
    rows = [
        ("read", "open `_build/html/index.html`", "–", "the book's folder", "a browser",
         "what was found, and every value behind every figure"),
        ("redraw", f"`nbh run expNN_across --profile {profile}`, then `nbh book --profile {profile}`",
         f"{drawn} for all pages, on one core", held, "under 1 GiB of the pocket profile",
         "that the pages follow from the datasets"),
        ("rerun", f"`make clean`, then `make book PROFILE={profile}`", f"{measured} for all pairs, on one core",
         held, memory(profile), "that the datasets follow from code, parameters and checkpoints"),
        *(_planned(name, keys) for name in RATES if name != profile),
    ]  # fmt: skip
    return stacked(HEADER, [[inline(cell) for cell in row] for row in rows])


def _planned(name: str, keys: list[str]) -> tuple[str, ...]:
    """Return the row of a profile that has not been run here, by the dry run."""
    runs = [
        experiments.resolve(key, model=model, profile=name)
        for model in params.profile_params(name).models
        for key in keys
    ]
    time = estimate.duration(sum(estimate.seconds(run, RATES[name]) for run in runs))
    disk = estimate.gib(sum(estimate.cost(run).result for run in runs))
    shows = {
        "laptop": "that the protocol works on public models of the same families",
        "paper": "what holds of the study's own models",
    }
    products = f"{time} of matrix products at {RATES[name]:g} TFLOPS; all else comes on top"
    return (
        name,
        f"`make book PROFILE={name}`",
        products,
        f"{disk} of results, and the weights",
        memory(name),
        shows[name],
    )


def memory(profile: str) -> str:
    """Return the most memory that a run of a profile holds, by the dry run; a dash if the sizes of a pair are not known.

    Of pairs that ship with the project, all of one size, the first alone is counted.
    """
    chosen, costs = params.profile_params(profile), []
    try:
        for model in chosen.models if profile in RATES else chosen.models[:1]:
            for key in params.ordered():
                costs.append(estimate.cost(experiments.resolve(key, model=model, profile=profile)))
    except params.ParameterError:  # a checkpoint that is not here states no sizes
        return UNKNOWN
    host = max(cost.host for cost in costs)
    if chosen.gpus:
        return (
            f"{estimate.gib(max(cost.memory for cost in costs))} on the GPU, {estimate.gib(host)} beside it"
        )
    return f"{estimate.gib(max(cost.memory + cost.host for cost in costs))} beside Python and its libraries"


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
