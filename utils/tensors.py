"""Tensors on their way to and from a disk: their size and precision, and whether they are numbers."""

import re
from collections.abc import Iterable, Mapping

import torch

_SCALES = re.compile(r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale(_\d)?|input_scale|comfy_quant|absmax)$")


def tensor_bytes(tensors: object) -> int:
    """The size of a tensor, or of all tensors in nested mappings; other values count nothing."""
    if isinstance(tensors, Mapping):
        return sum(map(tensor_bytes, tensors.values()))
    return tensors.nbytes if isinstance(tensors, torch.Tensor) else 0


def require_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError that names the first tensor that holds a NaN or an infinity, or no numbers at all: what the
    files of a model do not hold stays on the meta device."""
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise ValueError(f"it lacks {name}")
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise ValueError(f"{name} holds values that are not numbers")


def refuse_scales(names: Iterable[str]) -> None:
    """Raises ValueError if among the names of a file's tensors are factors that its weights, of few bits, still have to
    be multiplied by: without them the weights are wrong and nothing says so."""
    if found := next(filter(_SCALES.search, names), None):
        raise ValueError(
            f"its weights are of few bits, with scales beside them ({found}); take a file of 16 or 32 bits"
        )


def computable(stored: torch.dtype) -> torch.dtype:
    """The precision in which weights that are stored so are used; floats of 8 bits are only stored."""
    return torch.float16 if stored.is_floating_point and stored.itemsize == 1 else stored
