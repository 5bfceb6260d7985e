"""Parameters, cost and variables of exp02."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import Cost, generation_cost
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import GenerationParams, Prompts, Size
from nbhelpers.core.variables import declared


class Params(GenerationParams):
    """Parameters of exp02: its prompts, and the permutation test of their kinds."""

    prompts: Prompts
    n_prompts: int = Field(ge=6, description="prompts, balanced over kinds, of which each needs two")
    n_permutations: int = Field(default=2000, ge=100)


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp02: a continuation of every prompt under three conditions."""
    return generation_cost(run, size, conditions=3)


VARIABLES = declared(
    {
        ("condition", "component", "prompt", "layer"): {
            "delta_cosine": ("1", "cosine of an update with the residual stream that it is added to"),
            "update_norm": ("1", "Euclidean norm of an update"),
        },
        ("condition", "prompt", "layer"): {
            "entropy": ("nats", "entropy of the layer's raw-lens distribution"),
            "kl_final_layer": ("nats", "KL(final ‖ layer), raw lens"),
            "residual_norm": ("1", "Euclidean norm of the residual stream after the layer"),
        },
        ("condition", "part", "prompt", "layer"): {
            "delta_cosine_by_part": ("1", "δ-cosine of the block update by third of the generated text"),
        },
        ("condition", "prompt"): {
            "n_tokens": ("tokens", "generated tokens, the stop token included"),
            "near_ties": ("tokens", "generated tokens that the forced pass ranks second within rounding"),
            "text": ("1", "generated text"),
        },
        ("prompt",): {
            "category": ("1", "kind of the prompt: IC, OOC or R"),
            "form": ("1", "whether the prompt is a stub to complete or a question"),
        },
        ("prompt", "layer"): {
            "template_shift": ("1", "δ-cosine of the block, IT with its template less IT without, by prompt"),
        },
        ("condition", "measure", "layer"): {
            "f_statistic": ("1", "one-way F of the kinds by layer"),
        },
        ("condition", "measure"): {
            "p_layers": ("1", "p of the largest F over layers, kinds permuted within forms"),
        },
        ("group", "layer"): {
            "weight_rms": ("1", "RMS weight change"),
            "weight_relative": ("1", "relative weight change"),
        },
    }
)
