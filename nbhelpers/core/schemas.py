"""Base classes of typed parameters: names, limits and meanings of what experiments, texts and prompt sets take.

An experiment derives its own `Params` from one of them, in its slice's experiment.py. `nbhelpers.core.params` reads the
values.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class Record(BaseModel):
    """A frozen record that refuses unknown keys, wrong types and numbers that are not finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class Size(Record):
    """The sizes of a model, for cost estimates before its checkpoint is downloaded."""

    layers: int = Field(ge=1)
    width: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    heads: int = Field(ge=1)
    parameters: int = Field(ge=1)
    inner: int | None = Field(
        default=None, ge=1, description="neurons that act on a token in one layer; 4·width if none"
    )
    cached: int | None = Field(
        default=None,
        ge=1,
        description="numbers that the KV cache holds of a token in one layer; 2·width if none",
    )

    @property
    def mlp(self) -> int:
        """The neurons that act on a token in one layer, at least as assumed."""
        return self.inner or 4 * self.width

    @property
    def kv(self) -> int:
        """The numbers that the KV cache holds of a token in one layer, at most if they are not known."""
        return self.cached or 2 * self.width


class Texts(Record):
    """Running text: a JSON Lines file with a field of text (`path`), or a data set of the Hugging Face hub (`hub`)."""

    path: str | None = None
    hub: str | None = None
    name: str | None = Field(default=None, description="configuration of a hub data set")
    split: str = "train"
    revision: str | None = None
    field: str = "text"

    @model_validator(mode="after")
    def _one_source(self):
        if (self.path is None) == (self.hub is None):
            raise ValueError("must give either a path or a hub id, not both or neither")
        return self


class PromptSet(Texts):
    """Prompts of a hub data set, or of a JSON Lines file with its own field names: which field holds what.

    `field` holds the question (form: question, which PT reads as "Question: … Answer:") or the text to continue (form:
    stub).
    """

    form: Literal["question", "stub"] = "question"
    id: str | None = Field(default=None, description="field of the id; without one, prompts are numbered")
    category: str | None = Field(
        default=None, description="field of the category; without one, all are alike"
    )
    target: str | None = Field(default=None, description="field of the one-word answer")
    first: int = Field(default=5000, ge=1, description="records read; a hub data set may have no end")


def _path_or_set(value):
    """Return a path unchanged and a mapping as a `PromptSet`, so that error messages name the keys of the prompt set."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict | PromptSet):
        raise ValueError("must be the path of a JSON Lines file, or name a data set by `hub`")
    return PromptSet.model_validate(value)


Prompts = Annotated[str | PromptSet, BeforeValidator(_path_or_set)]


# Of an experiment that keeps numbers of every step; 23 bits are all, see `blocks.rounded`.
KeptBits = Annotated[int, Field(ge=5, le=23, description="of the mantissa of every number by step")]


class ExperimentParams(Record):
    """The parameters that every experiment has."""

    n_resamples: int = Field(default=10_000, ge=100, description="bootstrap resamples over prompts")
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    seed: int = Field(default=0, ge=0, lt=2**32)


class ForwardParams(ExperimentParams):
    """The parameters of an experiment that runs a model."""

    batch_size: int = Field(ge=1, description="rows generated and captured together")
    lens_rows: int = Field(default=256, ge=1, description="tokens unembedded at once")


class GenerationParams(ForwardParams):
    """The parameters of an experiment that generates."""

    n_prompts: int = Field(ge=2, description="prompts, balanced over categories")
    max_new_tokens: int = Field(ge=2, le=8192, description="cap on generated tokens a prompt")


class CommitmentParams(ExperimentParams):
    """The parameters of commitment: thresholds and windows of its rules, and confidence strata."""

    kl_threshold: float = Field(default=0.1, gt=0.0, description="nats")
    kl_grid: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.05, 0.1, 0.2, 0.5, 1.0), min_length=1, strict=False
    )
    majority_share: float = Field(default=0.9, gt=0.5, le=1.0)
    stable_window: int = Field(default=3, ge=2, description="layers a top-1 match must hold")
    confidence_edges: tuple[float, float] = Field(
        default=(0.5, 0.9), strict=False, description="edges of the strata low, medium, high"
    )

    @field_validator("confidence_edges")
    @classmethod
    def _rising(cls, edges):
        if not 0 < edges[0] < edges[1] < 1:
            raise ValueError("must be two probabilities, the lower one first")
        return edges
