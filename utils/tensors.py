"""Tensors on their way to and from a disk: their size, and whether they are numbers."""

from collections.abc import Mapping

import torch


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
