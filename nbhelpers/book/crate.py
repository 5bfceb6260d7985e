"""The supplement's metadata for machines: an RO-Crate that says which notebook made which result, from what, and when.

It follows the profile Workflow Run Crate 0.5 on RO-Crate 1.1. Of each dataset it states what the dataset's own attributes
record, and nothing else: who started a run, and the runs of pages across models, are recorded nowhere.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from nbhelpers.core import params, store

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
KINDS = {
    ".nc": "application/x-netcdf",
    ".safetensors": "application/octet-stream",
    ".ipynb": "application/x-ipynb+json",
}
LICENSE = "https://spdx.org/licenses/MIT"


def metadata(profile: str, datasets: Mapping[str, Path], sums: Mapping[str, str]) -> dict:
    """Return the crate's metadata as JSON-LD.

    datasets: {name in the archive: path} of the results that it holds. sums: {name: SHA-256} of all its files.
    """
    made = ROCrate(version="1.1")
    describe_root(made, profile)
    workflow = made.add_workflow(
        dest_path="Snakefile", main=True, lang="snakemake", properties={"name": "The book's workflow"}
    )
    for name in ("html/", f"runs/{profile}/", "params/", "nbhelpers/"):
        made.add_dataset(dest_path=name, properties={"name": name.rstrip("/")})
    attributes = {name: store.attributes(path) for name, path in datasets.items() if path.suffix == ".nc"}
    for name, path in datasets.items():
        add_file(made, name, sums, contentSize=str(path.stat().st_size))
    actions = [add_action(made, name, found, datasets, sums) for name, found in attributes.items()]
    run = add_run(made, workflow, attributes)
    made.root_dataset["mentions"] = [action for action in [run, *actions] if action]
    made.root_dataset["datePublished"] = max(
        (a["created"] for a in attributes.values()), default="1980-01-01"
    )
    return ordered(made.metadata.generate())


def describe_root(made: ROCrate, profile: str) -> None:
    """State of the whole what CITATION.cff says, and the profiles that the crate keeps to."""
    cited = yaml.safe_load((params.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    made.name = f"{cited['title']} ({profile})"
    made.description = " ".join(cited["abstract"].split())
    made.license = made.add(ContextEntity(made, LICENSE, {"@type": "CreativeWork", "name": "MIT License"}))
    made.root_dataset["version"], made.keywords = cited["version"], cited["keywords"]
    made.root_dataset["author"] = [add_author(made, i, author) for i, author in enumerate(cited["authors"])]
    kept = [
        made.add(ContextEntity(made, url, {"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in PROFILES.items()
    ]
    made.root_dataset["conformsTo"] = kept


def add_author(made: ROCrate, number: int, author: Mapping):
    """Return the entity of one author of CITATION.cff: a person by given and family name, or a group by its name."""
    person = " ".join(author[part] for part in ("given-names", "family-names") if part in author)
    about = {"@type": "Person" if person else "Organization", "name": person or author["name"]}
    return made.add(ContextEntity(made, f"#author/{number}", about))


def add_file(made: ROCrate, name: str, sums: Mapping[str, str], **more):
    """Return the entity of one file of the archive, with its checksum and kind."""
    about = {"name": name, "sha256": sums[name], **more}
    if kind := KINDS.get(Path(name).suffix):
        about["encodingFormat"] = kind
    return made.add_file(dest_path=name, properties=about)


def add_action(
    made: ROCrate, name: str, found: Mapping, datasets: Mapping[str, Path], sums: Mapping[str, str]
):
    """Return the action that created one dataset, by its attributes; None if it records a file beside another dataset's."""
    key, model, profile = found["experiment"], found["model"], found["profile"]
    if key not in params.keys("experiments"):
        return None
    experiment, folder = params.experiment(key), f"datasets/{profile}/{model}"
    instrument = f"notebooks/{experiment.notebook}"
    if made.dereference(instrument) is None:
        kind = {"@type": ["File", "SoftwareSourceCode", "SoftwareApplication"]}
        add_file(made, instrument, sums, **kind)
    read = [f"{folder}/{need}.nc" for need in experiment.needs]
    written = [name, *(f"{folder}/{artifact}" for artifact in experiment.artifacts)]
    entities = [made.dereference(each) for each in read if each in datasets]
    entities += checkpoints(made, json.loads(found["model_revisions"]))
    entities += values(made, f"{profile}/{model}/{key}", json.loads(found.get("parameters", "{}")))
    end = datetime.fromisoformat(found["created"])
    recorded = ("code_version", "device", "parameter_hash", "libraries")
    about = {
        "name": f"{experiment.title}, {model}",
        "description": "; ".join(f"{name} {found[name]}" for name in recorded),
        "startTime": (end - timedelta(seconds=float(found["wall_time_s"]))).isoformat(timespec="seconds"),
        "endTime": end.isoformat(timespec="seconds"),
    }  # fmt: skip
    results = [made.dereference(each) for each in written if each in datasets]
    action = f"#run/{profile}/{model}/{key}"
    return made.add_action(made.dereference(instrument), action, entities, results, about)


def checkpoints(made: ROCrate, revisions: Mapping[str, str]) -> list:
    """Return the entities of a pair's checkpoints, which the archive does not hold."""
    found = []
    for variant, version in revisions.items():
        name = f"#checkpoint/{version}"
        about = {
            "@type": "CreativeWork",
            "name": f"{variant.upper()} checkpoint {version}",
            "version": version.rpartition("@")[2],
        }
        found.append(made.dereference(name) or made.add(ContextEntity(made, name, about)))
    return found


def values(made: ROCrate, run: str, parameters: Mapping) -> list:
    """Return the entities of a run's parameters."""
    return [
        made.add(
            ContextEntity(
                made,
                f"#parameter/{run}/{name}",
                {
                    "@type": "PropertyValue",
                    "name": name,
                    "value": value if isinstance(value, int | float | str) else json.dumps(value),
                },
            )
        )
        for name, value in parameters.items()
    ]


def add_run(made: ROCrate, workflow, attributes: Mapping[str, Mapping]):
    """Return the action of the whole workflow: all batches that made the results, from the first start to the last end."""
    if not attributes:
        return None
    ends = {name: datetime.fromisoformat(a["created"]) for name, a in attributes.items()}
    starts = [ends[name] - timedelta(seconds=float(a["wall_time_s"])) for name, a in attributes.items()]
    about = {
        "name": "The batches that made these results",
        "description": "one batch or several; what was current was not measured again",
        "startTime": min(starts).isoformat(timespec="seconds"),
        "endTime": max(ends.values()).isoformat(timespec="seconds"),
    }
    return made.add_action(
        workflow, "#run", result=[made.dereference(name) for name in attributes], properties=about
    )


def ordered(described: dict) -> dict:
    """Return JSON-LD with its entities and their keys in a fixed order, the metadata's own entity and the root first.

    A list of one value becomes the value, as RO-Crate 1.1 recommends.
    """
    first = ("ro-crate-metadata.json", "./")
    entities = sorted(described["@graph"], key=lambda entity: (entity["@id"] not in first, entity["@id"]))
    graph = [{key: single(value) for key, value in sorted(entity.items())} for entity in entities]
    return {"@context": described["@context"], "@graph": graph}


def single(value):
    """Return the value of a list that has one, and anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
