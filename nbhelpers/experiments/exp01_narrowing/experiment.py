"""Parameters, cost and variables of exp01."""

from collections.abc import Mapping

from pydantic import Field

from nbhelpers.core.cost import PROMPT_TOKENS, Cost, batches, forwarded, prompt_tokens, weights
from nbhelpers.core.params import Run
from nbhelpers.core.schemas import ForwardParams, Prompts, Size
from nbhelpers.core.variables import declared

NEURON = 16.0  # bytes of a neuron at a position: its activation and what is chosen by
SORTED, TILE = (
    28.0,
    2**24,
)  # bytes of a logit of a chosen neuron while they are sorted and added up; logits at once


class Params(ForwardParams):
    """Parameters of exp01: its prompts, and the number of neurons chosen for each."""

    prompts: Prompts
    n_prompts: int = Field(ge=2)
    n_resamples: int = Field(
        default=400, ge=100, description="of prompts; each fits every chosen neuron again"
    )
    n_neurons: int = Field(default=500, ge=2, description="neurons of each selection, a prompt")


def cost(run: Run, size: Size, needs: Mapping[str, tuple[Run, Cost]]) -> Cost:
    """Return the cost of exp01: one forward a batch and model, and the chosen neurons' logits in blocks."""
    e, prompt = run.experiment, prompt_tokens(run.experiment.prompts)
    rows = min(e.batch_size, e.n_prompts)
    neurons = NEURON * rows * size.layers * size.mlp
    readout = 4.0 * 2 * size.vocabulary * size.width  # an unembedding in float32, with the norm's gain in it
    some = min(TILE / size.vocabulary, size.mlp, 3 * e.n_prompts * e.n_neurons / size.layers)  # of one layer
    breadth = SORTED * some * size.vocabulary
    held = weights(run, size, 2) + readout + max(neurons, breadth, forwarded(run, size, rows, prompt))
    tokens, passes = 2 * e.n_prompts * PROMPT_TOKENS, 2 * batches(e.n_prompts, e.batch_size)
    chosen = (
        2 * 3 * 40.0 * e.n_prompts * e.n_neurons
    )  # both models, three selections, five numbers of 64 bits
    draws = 2 * 3 * 6 * 8.0 * e.n_resamples
    return Cost(e.n_prompts, 0, tokens, passes, held, e.n_prompts * e.n_neurons * 1e3, 2 * chosen + draws)


VARIABLES = declared(
    {
        ("variant", "prompt"): {
            "target_rank": ("1", "rank of the answer among the real tokens, 1 is best"),
        },
        ("variant", "component", "layer", "prompt"): {
            "update_n90": ("tokens", "N90 of a layer's whole update"),
            "update_n50": ("tokens", "N50 of a layer's whole update"),
            "update_target_contribution": ("logits", "what an update contributes to the answer's logit"),
        },
        ("variant", "prompt", "layer"): {
            "support": ("tokens", "effective support exp H of the layer's raw-lens distribution"),
        },
        ("variant", "selection", "prompt", "layer"): {
            "neuron_n90": ("1", "mean ln N90 of the chosen neurons of a layer"),
        },
        ("variant", "sample"): {
            "sample_n90": ("tokens", "N90 of a sample of neurons chosen by attribution"),
            "sample_attribution": ("logits", "attribution of the sample"),
            "sample_layer": ("1", "layers of the sample"),
        },
        ("variant", "selection", "quantity", "statistic"): {
            "fit": ("1", "ln of a quantity on ln N90: slope, intercept, Pearson and Spearman r"),
            "fit_low": ("1", "lower end of the interval of the fit, prompts resampled"),
            "fit_high": ("1", "upper end of the interval of the fit, prompts resampled"),
        },
        ("selection", "quantity", "statistic"): {
            "fit_shift": ("1", "IT − PT of the fit"),
            "fit_shift_low": ("1", "lower end of the interval of the shift"),
            "fit_shift_high": ("1", "upper end of the interval of the shift"),
        },
        ("prompt",): {
            "group": ("1", "memorisation or reasoning"),
            "target": ("1", "the word that answers"),
        },
    }
)
