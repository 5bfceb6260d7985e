"""The parameters of exp04."""

from pydantic import Field

from nbhelpers.core.schemas import ExperimentParams


class Params(ExperimentParams):
    """exp04: intrinsic dimension, its intervals, and the permutation of layers."""

    n_subsamples: int = Field(default=100, ge=20, description="subsamples without replacement")
    n_permutations: int = Field(default=10_000, ge=100)
    mle_neighbours: int = Field(default=10, ge=3)
