"""The parameters of exp07_0j."""

from pydantic import Field

from nbhelpers.core.schemas import ExperimentParams


class Params(ExperimentParams):
    """exp07_0j: the nine threshold rules and the permutation null."""

    sigmas: tuple[float, ...] = Field(default=(0.5, 0.75, 1.0, 1.5, 2.0), strict=False)
    drops: tuple[float, ...] = Field(default=(0.02, 0.05, 0.1, 0.15), strict=False)
    run_length: int = Field(default=2, ge=1, description="consecutive layers that must meet a rule")
    n_permutations: int = Field(default=2000, ge=100)
