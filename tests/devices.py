"""Two devices that are not there: tensors of a made-up accelerator, whose values lie on the CPU, and which do not mix.

An operation on tensors of two devices fails, as it does on two GPUs; so do an index on another device than what it indexes
and NumPy's view of a tensor that is not on the CPU. What has no device of its own may mix: numbers, and indices on the CPU.
PyTorch knows a device type "maia" and has no code for it, so that this stand-in hides nothing else.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map_only

KIND = "maia"
FIRST, SECOND, HOST = torch.device(KIND, 0), torch.device(KIND, 1), torch.device("cpu")
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}
# What wants a driver, and what does the same without one.
WITHOUT_DRIVER = {
    torch.Tensor.contiguous: lambda h, **_: h.clone(memory_format=torch.contiguous_format),
    torch.Tensor.__invert__: torch.bitwise_not,
    torch.Tensor.copy_: lambda h, source, **_: (bare(h).copy_(bare(source)), h)[1],
    torch.Tensor.tolist: lambda h: h.cpu().tolist(),
    torch.Tensor.__int__: lambda h: int(h.cpu()),
    torch.Tensor.__float__: lambda h: float(h.cpu()),
    torch.Tensor.__bool__: lambda h: bool(h.cpu()),
    torch.Tensor.__index__: lambda h: int(h.cpu()),
}
MOVING = {"_to_copy", "copy_"}


class Placed(torch.Tensor):
    """A tensor that says it lies on a device; `value` is what it holds, on the CPU."""

    @staticmethod
    def __new__(cls, value, device):
        """Return a tensor of one device around a tensor of the CPU."""
        about = {"strides": value.stride(), "storage_offset": value.storage_offset(), "dtype": value.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, value.shape, device=torch.device(device), **about)
        made.value = value
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Index by hand, since PyTorch's own indexing wants a driver of the device; leave the rest to it."""
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            return indexed(func, *args)
        with torch._C.DisableTorchFunctionSubclass():
            return WITHOUT_DRIVER.get(func, func)(*args, **(kwargs or {}))

    def __repr__(self):
        """Return its value and its device."""
        return f"Placed({self.value}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Run an operation on the CPU, once its tensors are known to lie on one device."""
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        wanted = kwargs.pop("device", None)
        device = wanted or (args[0].device if name == "copy_" else common(func, name, args, kwargs))
        bare = tree_map_only(Placed, lambda t: t.value, (args, kwargs))
        made = func(*bare[0], **bare[1])
        if func._schema.is_mutable:  # what an operation writes into is what it returns
            written = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
            known = {id(t.value if isinstance(t, Placed) else t): t for t in written}
            return tree_map_only(torch.Tensor, lambda t: known.get(id(t), t), made)
        return tree_map_only(torch.Tensor, lambda t: on(t, device), made)


def indexed(func, whole, index, *value):
    """Return whole[index], or write a value there, if all tensors lie on one device, or the index on the CPU."""
    common(func, "index", (whole, [index], *value), {})
    found = func(*tree_map_only(Placed, bare, (whole, index, *value)))
    return None if value else on(found, whole.device)


def on(value, device):
    """Return a tensor of the CPU as one of a device."""
    return value if torch.device(device).type == "cpu" else Placed(value, device)


def common(func, name, args, kwargs):
    """Return the device of an operation's tensors; RuntimeError if there are two."""
    if name in MOVING:
        return args[0].device
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    free = tree_flatten(args[1])[0] if name in INDEXING else ()
    free = {id(t) for t in free if isinstance(t, torch.Tensor) and t.device == HOST}
    found = {t.device for t in tensors if id(t) not in free and not (t.ndim == 0 and t.device == HOST)}
    if len(found) > 1:
        raise RuntimeError(f"{func}: expected all tensors on one device, found {sorted(map(str, found))}.")
    return found.pop() if found else HOST


@contextmanager
def two_devices() -> Iterator[None]:
    """Make tensors of the made-up devices within the block."""
    library = torch.library.Library("aten", "IMPL", KIND.upper())

    def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
        return Placed(torch.empty(size, dtype=dtype), device)

    def strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
        return Placed(torch.empty_strided(size, stride, dtype=dtype), device)

    def copied(source, target, non_blocking=False):
        (target.value if isinstance(target, Placed) else target).copy_(
            source.value if isinstance(source, Placed) else source
        )
        return target

    for name, made in (("empty.memory_format", empty), ("empty_strided", strided), ("_copy_from", copied)):
        library.impl(name, made, KIND.upper())
    try:
        yield
    finally:
        library._destroy()


def put(module: nn.Module, device) -> None:
    """Put a module's parameters and buffers on a device, in place."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(on(bare(value.data), device), requires_grad=False)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = on(bare(value), device)


def bare(value):
    """Return a tensor on the CPU."""
    return value.value if isinstance(value, Placed) else value


def put_decoder(decoder, device) -> None:
    """Put a whole model on a device."""
    put(decoder.module, device)


def parts(decoder) -> list:
    """Return a model's embedding, the lower and the upper half of its blocks, its norm and its head, as lists of modules."""
    stack = decoder.stack._module
    half = len(stack.layers) // 2
    head = decoder.module.get_output_embeddings()
    return [[stack.embed_tokens], stack.layers[:half], stack.layers[half:], [stack.norm], [head]]


def spread(decoder, places) -> None:
    """Put a model's `parts` on five devices, as accelerate does: each moves its input to its own device."""
    put(decoder.module, places[0])
    for group, device in zip(parts(decoder), places):
        for module in group:
            put(module, device)
            add_hook_to_module(module, AlignDevicesHook(execution_device=device))


def gather(decoder) -> None:
    """Put a model back on the CPU."""
    remove_hook_from_module(decoder.module, recurse=True)
    put(decoder.module, HOST)
