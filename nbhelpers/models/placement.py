"""Where the models of a pair lie, and how one model's tensors come to the other's modules.

A pair may share one device, lie on two GPUs, or leave IT in the host's memory; `accelerate` may spread each model over
devices. A module that lies elsewhere is called by `through`, a tensor there is read by `taken`; neither copies where all lie
together.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nbhelpers.core.params import ModelParams, ParameterError


def device_of(module, otherwise: torch.device) -> torch.device:
    """Return the device of a module's (or an envoy's) first weight; `otherwise` if it has none, or none at rest.

    Weights that accelerate keeps off the devices rest on "meta"; its hooks move the input themselves.
    """
    weight = next(getattr(module, "_module", module).parameters(), None)
    return otherwise if weight is None or weight.is_meta else weight.device


def through(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return module(x) on the device of x, whatever device the module (or envoy) lies on; no copy where both are one."""
    return module(x.to(device_of(module, x.device))).to(x.device)


def taken(h: Tensor, where: tuple[Tensor, ...], device: torch.device) -> Tensor:
    """Return h[where] on a device; h and the indices may lie on others."""
    return h[tuple(index.to(h.device) for index in where)].to(device)


def beside(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a module on a device: itself if it lies there, else a copy."""
    if device_of(module, device) == device:
        return module
    from accelerate.hooks import remove_hook_from_module

    return remove_hook_from_module(copy.deepcopy(module), recurse=True).to(device)


def device_map(params: ModelParams, variant: str) -> Any:
    """Return the device map for one model of a pair, by `device_map` and `placement` of its parameters.

    "together": `device_map` as it is. "apart": PT on the first GPU, IT on the second. "it_on_host": PT on the first GPU, IT
    in the host's memory. `device_map: meta`, with which no weights are read, stays. ParameterError if there are fewer GPUs.
    """
    if params.placement == "together" or params.device_map == "meta":
        return params.device_map
    places = {"pt": 0, "it": 1 if params.placement == "apart" else "cpu"}
    needed, here = (2 if params.placement == "apart" else 1), torch.cuda.device_count()
    if here < needed:
        raise ParameterError(
            f"{params.key}: `placement: {params.placement}` needs {needed} GPU{'s' * (needed > 1)}, and this process sees "
            f"{here}: set `gpus: {needed}` in the profile, or `placement: together` in params/models/{params.key}.yml."
        )
    return {"": places[variant]}
