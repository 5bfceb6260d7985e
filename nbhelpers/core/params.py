"""Typed parameters of models, profiles, experiments and runs.

All files in `params/` are read and checked here, so a mistake in one is reported in one sentence before a model loads.
This module knows nothing of tensors, notebooks or result files.
"""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from nbhelpers.core import checkpoint_files, digests
from nbhelpers.core.mistakes import sentence, suggestion
from nbhelpers.core.schemas import ExperimentParams, GenerationParams, Prompts, PromptSet, Record, Size, Texts
from nbhelpers.core.yaml_loader import Loader

ROOT = Path(os.environ.get("NBHELPERS_ROOT", Path(__file__).resolve().parents[2])).resolve()
FAMILIES = ("gemma", "llama", "qwen", "mistral", "deepseek", "olmo")
VARIANTS = ("pt", "it")
Key = Annotated[str, Field(pattern="^[a-z0-9_]+$")]  # it names files and stands in commands
File = Annotated[str, Field(pattern="^[A-Za-z0-9_]+[.][a-z]+$")]
NATIVE = {"pt": "raw", "it": "chat"}  # each variant's own prompt format


class ParameterError(ValueError):
    """A parameter that cannot be used; its message is one sentence for the user."""


class LackingError(ParameterError):
    """A part that an architecture does not have, so that what is measured of it is left out."""


class Checkpoint(Record):
    """One model's weights: a folder (`path`: absolute, ~ or from the repository's root) or a hub id with a revision."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _one_source(self):
        if (self.path is None) == (self.hub is None):
            raise ValueError("must give either a path or a hub id, not both or neither")
        return self

    @property
    def folder(self) -> Path | None:
        """The absolute folder of a local checkpoint, None for one on the hub."""
        return ROOT / os.path.expanduser(self.path) if self.path else None

    @property
    def source(self) -> str:
        """What `from_pretrained` takes: the folder or the hub id."""
        return str(self.folder) if self.path else self.hub

    @property
    def files(self) -> list[Path]:
        """The files of a local checkpoint that determine what it computes; empty for one on the hub."""
        return checkpoint_files.deciding(self.folder) if self.path else []

    @property
    def version(self) -> str:
        """The version that provenance records: the path and a digest of its files, or the hub id and revision."""
        if self.hub:
            return f"{self.hub}@{self.revision or 'main'}"
        return f"{self.path}@{files_hash(self.files, keep=True) if self.files else 'missing'}"


class ModelParams(Record):
    """One PT/IT pair, `params/models/<key>.yml`.

    Measurements read the sizes from the checkpoint; `size` serves cost estimates before the checkpoint is downloaded.
    `family` decides order and title alone. `published_as` names the family of the study whose published figures stand
    beside this pair's results; `mixture` says that its MLPs are mixtures of experts, which no pool of dense models holds.
    """

    key: Key
    family: str
    title: str
    published_as: Literal["gemma", "llama", "qwen", "mistral", "deepseek", "olmo"] | None = None
    mixture: bool = False
    pt: Checkpoint
    it: Checkpoint
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    device_map: str | None = None
    placement: Literal["together", "apart", "it_on_host"] = Field(
        default="together",
        description="of the pair: as device_map says, on two GPUs, or IT in the host's memory",
    )
    chat: dict[str, Any] = {}
    max_new_tokens: int | None = Field(default=None, ge=1, description="cap on new tokens in any experiment")
    size: Size | None = None

    @field_validator("family", "title")
    @classmethod
    def _one_line(cls, text):
        whole = text.encode("utf-8", "ignore").decode()  # without halves of characters
        if not text.strip() or len(text.splitlines()) > 1 or text != whole:
            raise ValueError("must be one line of text")
        return text


# What decides how a pair is shown or where it lies, and nothing that is measured.
SHOWN = {"size", "published_as", "mixture", "placement"}


class ProfileParams(Record):
    """One profile, `params/profiles/<name>.yml`: its models, its prompts and settings of the machine."""

    name: Key
    title: str
    models: list[Key] = Field(min_length=1)
    prompts: Prompts
    threads: int | None = Field(default=None, ge=1, description="CPU threads of one notebook")
    gpus: int = Field(default=0, ge=0, description="GPUs a notebook takes of those given to the batch")
    sizes_of: str | None = Field(default=None, description="the profile whose sizes lie under its own")
    lens_compile: bool = Field(default=False, description="compile the lens; pays off for large vocabularies")
    noun: str = Field(default="pairs", description="what pages call its pairs")
    about: str = Field(default="", description="what a reader must know of them, a clause")


class Experiment(Record):
    """One experiment, `params/experiments/<key>.yml`: its notebooks, the experiments it needs, its parameters, its chapter.

    `needs` names the experiments whose results its notebook reads. `artifacts` names the files that it writes beside its
    dataset for other experiments. `parameters` hold in every profile; `profiles` gives the sizes for each. `chapter` is a
    caption in the book's contents, `place` the position there; an experiment without a chapter has no page.
    """

    key: Key
    title: str
    chapter: str | None = None
    place: int = Field(default=99, ge=1, description="position in the chapter; equal places go by key")
    notebook: File
    across: File | None = None
    needs: list[Key] = []
    artifacts: list[File] = []
    parameters: dict[str, Any] = {}
    profiles: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _page_across(self):
        if self.chapter and not self.across:
            raise ValueError("must name its page `across` models, since it has a chapter")
        return self


class Run(Record):
    """Everything that one notebook run needs: a model, a profile and an experiment's parameters, all checked.

    `upstream` holds the hash of each result that the run builds on.
    """

    key: Key
    model: ModelParams
    profile: ProfileParams
    experiment: ExperimentParams
    upstream: dict[str, str] = {}

    @property
    def prompts(self) -> str | PromptSet | None:
        """The prompts that this run reads: the experiment's own, else the profile's; None if it reads none."""
        shared = self.profile.prompts if isinstance(self.experiment, GenerationParams) else None
        return getattr(self.experiment, "prompts", None) or shared

    @property
    def files(self) -> list[Path]:
        """The prompt and text files that this run reads, without data sets of the hub."""
        read = (self.prompts, getattr(self.experiment, "corpus", None))
        names = [source.path if isinstance(source, Texts) else source for source in read]
        return [ROOT / name for name in names if name]

    @property
    def hash(self) -> str:
        """Twelve hex digits that change with anything that changes this run's result."""
        experiment = self.experiment.model_dump(exclude={"batch_size", "lens_rows"})
        texts = [[path.name, path.exists() and files_hash([path], keep=True)] for path in self.files]
        if isinstance(self.prompts, PromptSet):  # a profile's prompts are no parameter of the experiment
            texts.append(self.prompts.model_dump())
        read = [self.model.pt.version, self.model.it.version, texts, self.upstream]
        return parameter_hash([self.key, self.model.model_dump(exclude=SHOWN), read, experiment])


def parameter_hash(obj: Any) -> str:
    """Return 12 hex digits of the SHA-256 of a record, dict or list written as canonical JSON."""
    plain = obj.model_dump() if isinstance(obj, BaseModel) else obj
    text = json.dumps(plain, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def files_hash(paths, *, keep: bool = False) -> str:
    """Return 12 hex digits of the SHA-256 over names and contents of files, in order; keep: each in `_build/digests`."""
    digest, folder = hashlib.sha256(), ROOT / "_build" / "digests" if keep else None
    for path in paths:
        digest.update(f"{path.name}\0".encode() + bytes.fromhex(digests.sha256(path, folder)))
    return digest.hexdigest()[:12]


def checked(schema: type[BaseModel], values: dict, source: str, *, whole: bool = True):
    """Return `values` as a record of `schema`; ParameterError names `source`, the key and the value.

    whole: whether a missing value is an error; without, the result is None where only values are missing.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        serious = (
            e for e in error.errors() if whole or e["type"] != "missing" or isinstance(e["loc"][-1], int)
        )
        if first := next(serious, None):
            raise ParameterError(sentence(first, schema, source)) from None
        return None


def parse_yaml(text: str | bytes, source: str):
    """Return the value of YAML text; ParameterError, which begins with `source`, says what is wrong at which line."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError) as error:
        mark, at = getattr(error, "problem_mark", None), getattr(error, "position", 0)
        line = mark.line + 1 if mark else text[:at].count("\n" if isinstance(text, str) else b"\n") + 1
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ParameterError(f"{source} is not valid YAML at line {line}: {problem}.") from None


def keys(kind: Literal["models", "profiles", "experiments"]) -> list[str]:
    """Return the sorted names of the parameter files of one kind."""
    return sorted(path.stem for path in (ROOT / "params" / kind).glob("*.yml"))


def _read(kind: str, name: str, schema: type[Record]):
    """Return `params/<kind>/<name>.yml` as a record; its key or name must be the file's name."""
    path = ROOT / "params" / kind / f"{name}.yml"
    if name not in keys(kind):
        raise ParameterError(f"there is no {kind[:-1]} {name!r}; {suggestion(name, keys(kind))}.")
    return _parsed(path, path.stat().st_mtime_ns, schema)


@cache
def _parsed(path: Path, _mtime: int, schema: type[Record]):
    """Return one file, parsed and checked, cached until its modification time changes."""
    source = path.relative_to(ROOT).as_posix()
    values = parse_yaml(path.read_bytes(), source)
    if not isinstance(values, dict):
        raise ParameterError(f"{source} must hold keys and values.")
    record = checked(schema, values, source)
    named = values.get("key", values.get("name"))
    if named != path.stem:
        raise ParameterError(f"{source}: the file and its key differ ({named!r}); rename one of them.")
    return record


def model_params(key: str) -> ModelParams:
    """Return the PT/IT pair `params/models/<key>.yml`."""
    return _read("models", key, ModelParams)


def profile_params(name: str) -> ProfileParams:
    """Return the profile `params/profiles/<name>.yml`; ParameterError if it names an unknown model."""
    profile = _read("profiles", name, ProfileParams)
    for key in profile.models:
        if key not in keys("models"):
            known = suggestion(key, keys("models"))
            raise ParameterError(f"params/profiles/{name}.yml: there is no model {key!r}; {known}.")
    if profile.sizes_of and profile.sizes_of not in keys("profiles"):
        known = suggestion(profile.sizes_of, keys("profiles"))
        raise ParameterError(
            f"params/profiles/{name}.yml: there is no profile {profile.sizes_of!r}; {known}."
        )
    return profile


def profile_of(model: str) -> str:
    """Return the name of the first profile that lists a model; the pocket profile is searched first."""
    model_params(model)
    for name in sorted(keys("profiles"), key=lambda name: (name != "pocket", name)):
        if model in profile_params(name).models:
            return name
    raise ParameterError(f"no profile lists the model {model!r}; add it to one of params/profiles/*.yml.")


def experiment(key: str) -> Experiment:
    """Return the experiment `params/experiments/<key>.yml`; ParameterError if it names an unknown profile."""
    found = _read("experiments", key, Experiment)
    for name in found.profiles:
        if name not in keys("profiles"):
            known = suggestion(name, keys("profiles"))
            raise ParameterError(f"params/experiments/{key}.yml: there is no profile {name!r}; {known}.")
    return found


def ordered(chosen: list[str] | None = None) -> list[str]:
    """Return experiment keys, each after those that it needs; ParameterError if experiments need each other."""
    done: list[str] = []

    def add(key: str, above: tuple = ()):
        if key in above:
            raise ParameterError(f"the experiments {' → '.join([*above, key])} need each other.")
        for need in experiment(key).needs:
            add(need, (*above, key))
        if key not in done:
            done.append(key)

    for key in keys("experiments") if chosen is None else chosen:
        add(key)
    return done


def require(checkpoint: Checkpoint, model: str) -> Checkpoint:
    """Return the checkpoint; ParameterError, which says what its folder lacks, if it is local and cannot be loaded."""
    if checkpoint.folder and (fault := checkpoint_files.fault(checkpoint.folder, "config.json")):
        raise ParameterError(
            f"the checkpoint {checkpoint.path} of {model} {fault}; {remedy(checkpoint, model)}."
        )
    return checkpoint


def remedy(checkpoint: Checkpoint, model: str) -> str:
    """Return what to do about a local checkpoint that cannot be used; git has only the ones that ship with the project."""
    if checkpoint.folder.resolve().is_relative_to(ROOT / "pocket/checkpoints"):
        return f"restore it with `git checkout {checkpoint.path}` or train it with `make pocket`"
    return f"put a whole checkpoint there or correct its path in params/models/{model}.yml"
