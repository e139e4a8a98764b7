"""What a training step of a network needs, counted on the meta device: bytes and multiplications, without weights,
without a GPU, in seconds."""

import re
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

OPTIMIZERS = {"adamw": 8, "muon": 4}  # bytes per trained parameter
# What is recomputed at once: the layers of one number in a block of UNet3D and of diffusers' U-Nets.
LAYER = re.compile(r"(.*?)\.(?:resnets|attentions|temporal_attentions|motion_modules)\.(\d+)")


class Saved(NamedTuple):
    """A storage that autograd keeps, and the module that was running when it was saved."""

    module: str
    storage: int
    nbytes: int


def step_bytes(network: nn.Module, inputs: tuple, optimizer: str = "adamw", moving_average: bool = True) -> dict:
    """Bytes that training the network needs, by item, and their "total"; for bfloat16 autocast on CUDA.

    network: on the meta device, in training mode, with its gradient checkpointing switched as it shall be. inputs: of
    its forward pass, on the meta device. Weights, trained or frozen, are in float32; "autocast copies" are those of
    trained weights, while those of frozen ones are made anew for each layer and count as activations. "recomputed": the
    largest layer between two checkpoints. Not counted: what CUDA takes for itself (about 1 GB), fragmentation.
    """
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    frozen = sum(each.numel() for each in network.parameters() if not each.requires_grad)
    layers = {}
    checkpointing = getattr(network, "is_gradient_checkpointing", False)
    if checkpointing:
        network.disable_gradient_checkpointing()
        layers = _by_layer(saved_storages(network, *inputs))
        network.enable_gradient_checkpointing()
    kept = saved_storages(network, *inputs)
    of_layers = _by_layer(kept)
    recomputed = max((size for name, size in layers.items() if of_layers[name] < size), default=0)
    items = {
        "frozen weights": 4 * frozen,
        "trained weights": 4 * trained,
        "autocast copies": 2 * trained,
        "gradients": 4 * trained,
        "optimizer": OPTIMIZERS[optimizer] * trained,
        "moving average": 4 * trained if moving_average else 0,
        "activations": sum({each.storage: each.nbytes for each in kept}.values()),
        "recomputed": recomputed,
    }
    return items | {"total": sum(items.values())}


def step_flops(network: nn.Module, inputs: tuple) -> int:
    """Operations of a forward and a backward pass, a multiplication and an addition being two; with checkpoints the
    forward pass counts again."""
    checkpointing = getattr(network, "is_gradient_checkpointing", False)
    if checkpointing:
        network.disable_gradient_checkpointing()
    with CudaAutocast(), FlopCounterMode(display=False) as counter:
        output = network(*inputs)
        forward = counter.get_total_flops()
        output.float().square().mean().backward()
    network.zero_grad()
    if checkpointing:
        network.enable_gradient_checkpointing()
    return counter.get_total_flops() + forward * checkpointing


def _by_layer(kept: list[Saved]) -> Counter:
    """Bytes by layer; what two layers share counts for both."""
    found = {}
    for each in kept:
        if match := LAYER.match(each.module):
            found[f"{match[1]}.{match[2]}", each.storage] = each.nbytes
    sizes = Counter()
    for (layer, _), nbytes in found.items():
        sizes[layer] += nbytes
    return sizes


def saved_storages(network: nn.Module, *inputs, **settings) -> list[Saved]:
    """What autograd saves in a forward pass of a network on the meta device, besides its weights. A storage that
    several modules save stands there for each of them."""
    saved, modules = [], [""]

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor, modules[-1])
        saved.append(weakref.ref(kept))
        return kept

    with _module_names(network, modules), saved_tensors_hooks(pack, _Kept.unpack), CudaAutocast() as autocast:
        output = network(*inputs, **settings)
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *autocast.copies.values())}
    found = []
    for kept in filter(None, (reference() for reference in saved)):  # autograd has let go of the rest
        storage = kept.tensor.untyped_storage()
        if storage._cdata not in weights:
            found.append(Saved(kept.module, storage._cdata, storage.nbytes()))
    del output  # it held what autograd saved
    return found


@contextmanager
def _module_names(network: nn.Module, stack: list[str]) -> Iterator[None]:
    """Inside the block, stack ends with the name of the module whose forward is running."""

    def enter(name, module, args):
        stack.append(name)

    def leave(module, args, output):
        stack.pop()

    handles = []
    for name, module in network.named_modules():
        handles += module.register_forward_pre_hook(partial(enter, name)), module.register_forward_hook(leave)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Kept:
    """A tensor that autograd holds, and the module that was running when it was saved."""

    def __init__(self, tensor: Tensor, module: str):
        self.tensor, self.module = tensor, module

    def unpack(self) -> Tensor:
        return self.tensor


class CudaAutocast(TorchFunctionMode):
    """CUDA's bfloat16 autocast and flash attention, for the functions of our U-Nets on the meta device."""

    DTYPES = {
        functional.linear: torch.bfloat16,
        functional.conv2d: torch.bfloat16,
        functional.conv3d: torch.bfloat16,
        functional.scaled_dot_product_attention: torch.bfloat16,
        functional.group_norm: torch.float32,
        functional.layer_norm: torch.float32,
    }

    def __init__(self):
        super().__init__()
        self.copies = {}  # of the trained weights: autocast makes each of them once

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in self.DTYPES:
            args = [self.cast(value, self.DTYPES[function]) for value in args]
            kwargs = {name: self.cast(value, self.DTYPES[function]) for name, value in kwargs.items()}
        if function is functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args[:3])[0]  # a mask is small
        return function(*args, **kwargs)

    def cast(self, value, dtype: torch.dtype):
        if not isinstance(value, Tensor) or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self.copies:
            self.copies[id(value)] = value.to(dtype)
        return self.copies[id(value)]
