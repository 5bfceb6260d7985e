"""Phase 2 of exp10: ridge probes of the gap in both spaces, their R² on other prompts, and the directions that they give."""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from nbhelpers.core import depths
from nbhelpers.experiments.exp10_contrastive_patching.matched import SPACES, Matched
from nbhelpers.measures import conv_direction
from nbhelpers.measures.directions import cosine, unit
from nbhelpers.measures.steps import LENSES
from nbhelpers.models.unembedding import Unembedding

WINDOWS = ("late", "all")


def probed(
    train: Matched, test: Matched, n_test: int, *, n_permuted: int = 20, seed: int = 0, device="cpu", **draws
) -> xr.Dataset:
    """Return probes of every space, lens and layer but the last, fitted to `train` and judged on `test`.

    `weight` (space, lens, layer, feature), `penalty`, `r2`, `r2_cv` (space, lens, layer); `r2_permuted` (space,
    permutation, layer): of probes of the tuned lens's gap with its tokens in random order; `r2_position` (lens, layer): of
    the mean of the training tokens at the same step; `r2_sums` (space, lens, layer, sum, test_prompt). n_test: prompts of
    `test`. device: where probes are fitted.
    """
    n_layers, width = train.gap.shape[1] - 1, train.last.shape[-1]
    shape = len(SPACES), len(LENSES), n_layers
    found = {name: np.zeros(shape) for name in ("penalty", "r2_cv")}
    weight, sums = np.zeros((*shape, width)), np.zeros((n_test, *shape, 4))
    null = np.zeros((len(SPACES), n_permuted, n_layers))
    for s, space in enumerate(SPACES):
        for layer in range(n_layers):
            y = torch.as_tensor(train.gap[:, layer].T)
            shuffled = conv_direction.permuted(y[:, LENSES.index("tuned")], n_permuted, seed=seed + layer)
            x = train.difference[space][layer].to(device)
            probe = conv_direction.fit(x, torch.cat([y, shuffled], 1), train.prompt)
            predicted = probe.predict(test.difference[space][layer]).cpu().numpy()
            truth = test.gap[:, layer].T[:, [0, 1, *[LENSES.index("tuned")] * n_permuted]]
            each = conv_direction.prompt_sums(truth, predicted, test.prompt, n_test)
            sums[:, s, :, layer] = each[:, :2]
            null[s, :, layer] = conv_direction.r2(each.sum(0))[2:]
            weight[s, :, layer] = probe.weight[:2].cpu().numpy()
            found["penalty"][s, :, layer], found["r2_cv"][s, :, layer] = probe.penalty[:2], probe.cv_r2[:2]
    at = ("space", "lens", "layer")
    position = conv_direction.by_position(np.moveaxis(train.gap[:, :-1], -1, 0), train.step, test.step)
    by_place = conv_direction.prompt_sums(np.moveaxis(test.gap[:, :-1], -1, 0), position, test.prompt, n_test)
    return xr.Dataset(
        {name: (at, values) for name, values in found.items()}
        | {
            "weight": ((*at, "feature"), weight),
            "r2": (at, conv_direction.r2(sums.sum(0))),
            "r2_permuted": (("space", "permutation", "layer"), null),
            "r2_position": (("lens", "layer"), conv_direction.r2(by_place.sum(0))),
            "r2_sums": (("test_prompt", *at, "sum"), sums),
            **r2_windows(sums, n_layers + 1, seed=seed, **draws),
        },
        {"space": list(SPACES), "lens": list(LENSES), "layer": np.arange(n_layers), "window": list(WINDOWS),
         "sum": list(conv_direction.SUMS)},
    )  # fmt: skip


def window_layers(n_layers: int) -> dict[str, list[int]]:
    """Return {window: its layers without the last layer of the model}: the late window, and all."""
    late = [layer for layer in depths.windows(n_layers)["late"] if layer < n_layers - 1]
    return {"late": late, "all": list(range(n_layers - 1))}


def r2_windows(sums: np.ndarray, n_layers: int, **draws) -> dict:
    """Return `r2_mean`, `r2_low` and `r2_high` (space, lens, window): mean R² over a window's layers, BCa over prompts."""
    found = np.zeros((3, len(SPACES), len(LENSES), len(WINDOWS)))
    for s in range(len(SPACES)):
        for k in range(len(LENSES)):
            for w, layers in enumerate(window_layers(n_layers).values()):
                of = conv_direction.r2_interval(sums[:, s, k, layers], **draws)
                found[:, s, k, w] = [float(end[0]) for end in of]
    dims = ("space", "lens", "window")
    return {f"r2_{name}": (dims, values) for name, values in zip(("mean", "low", "high"), found)}


def directions_of(
    probes: xr.Dataset, train: Matched, mean: Mapping[str, np.ndarray], it: Unembedding
) -> xr.Dataset:
    """Return the unit directions of every space, and how they lie to each other and in the differences.

    `vector` (direction, space, layer, feature): "conv", the weight of the tuned lens's probe; "pattern", what varies with
    its prediction; "mean", the mean IT − PT difference of each model as it runs (`mean`: {space: [layer, d]}).
    `cosine_mean`, `cosine_pattern`, `cosine_gradient` (space, layer): of "conv" with the others and with the gradient of
    KL(layer ‖ final) in IT by the residual, raw lens. `energy_share` (direction, space, layer): Σ (Δ·d)² / Σ ‖Δ‖²;
    `deviation`: standard deviation of Δ·d. `slope` (space, layer): ‖w‖, nats that the probe predicts per unit along it.
    """
    names, n_layers = ("conv", "pattern", "mean"), probes.sizes["layer"]
    vector = np.zeros((len(names), len(SPACES), n_layers, train.last.shape[-1]))
    share, deviation, slope = (np.zeros(shape) for shape in (vector.shape[:-1],) * 2 + (vector.shape[1:3],))
    for s, space in enumerate(SPACES):
        for layer in range(n_layers):
            x = train.difference[space][layer]
            weight = torch.as_tensor(probes["weight"].sel(space=space, lens="tuned").values[layer])
            found = weight, conv_direction.pattern(x, weight), torch.as_tensor(mean[space][layer])
            slope[s, layer] = weight.norm()
            for k, one in enumerate(found):
                vector[k, s, layer] = axis = unit(one.double().cpu().numpy())
                share[k, s, layer] = conv_direction.energy_share(x, torch.as_tensor(axis))
                deviation[k, s, layer] = (x.double() @ torch.as_tensor(axis)).std()
    some = np.linspace(0, len(train.prompt) - 1, min(256, len(train.prompt))).astype(int)
    h = train.it_residual[:, torch.as_tensor(some)]
    gradient = np.stack(
        [conv_direction.kl_gradient(h[layer], h[-1], it).cpu().numpy() for layer in range(n_layers)]
    )
    dims = ("space", "layer")
    return xr.Dataset(
        {
            "vector": (("direction", *dims, "feature"), vector.astype(np.float32)),
            "energy_share": (("direction", *dims), share),
            "deviation": (("direction", *dims), deviation),
            "slope": (dims, slope),
            "cosine_mean": (dims, cosine(vector[0], vector[2])),
            "cosine_pattern": (dims, cosine(vector[0], vector[1])),
            "cosine_gradient": (dims, cosine(vector[0], gradient)),
        },
        {"direction": list(names), "space": list(SPACES), "layer": np.arange(n_layers)},
    )
