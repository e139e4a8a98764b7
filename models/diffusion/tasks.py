"""Tasks of one model: which frames and places of a clip are known, and which are to be made.

Text to video knows none, picture to video the first frame, and so on: to a network that takes known places with their
mask (models/conditions.py) all are one and the same (as in MCVD, Voleti et al. 2022, arXiv:2205.09853).
"""

from collections.abc import Callable

import torch
from torch import Tensor

HOLE = 0.3, 0.7  # sides of holes and of what outpainting keeps, as shares of the frame


def _text(mask: Tensor) -> None:
    """Nothing is known."""


def _first_frame(mask: Tensor) -> None:
    mask[0] = 1


def _continuation(mask: Tensor) -> None:
    """The beginning, up to half of the clip."""
    mask[: _integer(1, max(1, len(mask) // 2))] = 1


def _first_last(mask: Tensor) -> None:
    mask[[0, -1]] = 1


def _in_between(mask: Tensor) -> None:
    """Every second to fourth frame, and the last."""
    mask[:: _integer(2, 4)] = 1
    mask[-1] = 1


def _inpainting(mask: Tensor) -> None:
    """All but a box, which stands still or moves."""
    mask[:] = 1
    _draw_boxes(mask, 0)


def _outpainting(mask: Tensor) -> None:
    """A box that stands still, and nothing around it."""
    _draw_boxes(mask, 1, moves=False)


TASKS: dict[str, Callable[[Tensor], None]] = {
    "text": _text,
    "first_frame": _first_frame,
    "continuation": _continuation,
    "first_last": _first_last,
    "in_between": _in_between,
    "inpainting": _inpainting,
    "outpainting": _outpainting,
}


def draw_tasks(shares: dict[str, float], videos: Tensor, holes: Tensor | None = None) -> Tensor:
    """Masks (B, 1, T, H, W) for videos (B, C, T, H, W), 1 where they are known, of tasks drawn by their shares.

    holes: masks of what inpainting is to fill, 1 where, in place of a box; -1 all over for a video without any.
    Draws from torch's random state on the CPU. Raises ValueError for a task that is not among TASKS, and for shares
    that are not positive in sum.
    """
    if unknown := shares.keys() - TASKS.keys():
        raise ValueError(f"no task {min(unknown)!r}: choose from {', '.join(TASKS)}")
    batch, _, frames, height, width = videos.shape
    masks = torch.zeros(batch, 1, frames, height, width)
    names, weights = list(shares), torch.tensor(list(shares.values()), dtype=torch.float64)
    if not weights.sum() > 0:
        raise ValueError("the shares of the tasks must be positive in sum")
    for n, chosen in enumerate(torch.multinomial(weights, batch, replacement=True).tolist()):
        if names[chosen] == "inpainting" and holes is not None and (holes[n] > 0).any():
            masks[n] = 1 - holes[n].cpu()
        else:
            TASKS[names[chosen]](masks[n, 0])
    return masks.to(videos.device)


def _integer(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


def _draw_boxes(mask: Tensor, value: float, moves: bool = True) -> None:
    """Set a box of each frame, whose place changes linearly; half of those that may move do."""
    frames, height, width = mask.shape
    low, high = HOLE
    sides = [max(1, round(float(low + (high - low) * torch.rand(())) * side)) for side in (height, width)]
    ends = [[_integer(0, side - box) for side, box in zip((height, width), sides, strict=True)] for _ in range(2)]
    if not moves or torch.rand(()) < 0.5:
        ends[1] = ends[0]
    for t in range(frames):
        way = t / max(1, frames - 1)
        top, left = (round(a + (b - a) * way) for a, b in zip(*ends, strict=True))
        mask[t, top : top + sides[0], left : left + sides[1]] = value
