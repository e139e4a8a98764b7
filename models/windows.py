"""Overlapping windows over what is too large to be taken at once: where they begin, and how they are joined."""

from collections.abc import Callable

import torch
from torch import Tensor


def window_starts(length: int, size: int, overlap: int) -> list[int]:
    """Where windows of `size` begin that overlap by `overlap` or more; the last ends at the end."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def ramp(length: int, overlap: int, like: Tensor) -> Tensor:
    """(length,) weights that rise to 1 over `overlap` places from either end, and are never 0."""
    places = torch.arange(length, device=like.device, dtype=like.dtype)
    return (torch.minimum(places, length - 1 - places) + 1).clamp(max=overlap) / overlap


def over_frames(function: Callable[[Tensor, slice], Tensor], x: Tensor, size: int, overlap: int) -> Tensor:
    """function(x, all of its frames), of the shape of x (B, C, T, H, W), from windows of `size` frames.

    Where windows overlap, by 1 to size - 1 frames, the mean of what they say counts, each the less the nearer its end:
    MultiDiffusion (Bar-Tal et al. 2023, arXiv:2302.08113, eq. 5) along time, for the clean clips of a denoising step.
    """
    num_frames = x.shape[2]
    if num_frames <= size:
        return function(x, slice(num_frames))
    total, weights = torch.zeros_like(x), x.new_zeros(num_frames, 1, 1)
    weight = ramp(size, overlap, x)[:, None, None]
    for start in window_starts(num_frames, size, overlap):
        place = slice(start, start + size)
        total[:, :, place] += function(x[:, :, place], place) * weight
        weights[place] += weight
    return total / weights
