"""The tasks that evaluate_text2video.py --task measures on the demo: what is known, what is asked, which baselines."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from utils.demo_data import shapes
from utils.task_scores.measure import background_kept, follows, obeyed, psnr, seam
from utils.task_scores.truth import Truth
from utils.video.frames import to_uint8

MARGIN = 0.06  # of the frame, around the object's path: the hole that inpainting fills


@dataclass(frozen=True)
class Task:
    """A task, its ways and what is measured.

    needs: the condition that a model must know. mask: which frames and places are known, (1, T, H, W), of a truth.
    asks: the prompt, if it is another than the truth's. measure: (frames, truth, asked) -> {what: right or number}.
    ways: of doing it, the first of which is the point, see utils/task_scores/evaluate.py.
    """

    needs: str
    measure: Callable[[np.ndarray, Truth, dict], dict]
    ways: tuple[str, ...]
    mask: Callable[[Truth], torch.Tensor] | None = None
    asks: Callable[[Truth], str] | None = None


def whole_frames(choose: Callable[[int], list[int]]) -> Callable[[Truth], torch.Tensor]:
    def mask(truth: Truth) -> torch.Tensor:
        found = torch.zeros(1, *truth.video.shape[1:])
        found[:, choose(truth.video.shape[1])] = 1
        return found

    return mask


def around_the_path(truth: Truth) -> torch.Tensor:
    """All but a box that holds the object wherever it is."""
    mask = torch.ones(1, *truth.video.shape[1:])
    height, width = mask.shape[2:]
    reach = truth.radius * 1.6 + MARGIN
    low, high = truth.path.min(axis=0) - reach, truth.path.max(axis=0) + reach
    left, top = (max(0, int(each * side)) for each, side in zip(low, (width, height), strict=True))
    right, bottom = (min(side, int(np.ceil(each * side))) for each, side in zip(high, (width, height), strict=True))
    mask[:, :, top:bottom, left:right] = 0
    return mask


def _other(value: str, values: list[str]) -> str:
    return values[(values.index(value) + 1) % len(values)]


def other_colour(truth: Truth) -> str:
    colour = truth.attributes["colour"]
    other = _other(colour, list(shapes.COLOURS))
    return re.sub(rf"\b{colour}\b", other, truth.prompt)


def other_object(truth: Truth) -> str:
    """Of another colour and shape, moving alike."""
    shape = truth.attributes["shape"]
    return re.sub(rf"\b{shape}\b", _other(shape, list(shapes.SHAPES)), other_colour(truth))


def continued(num_frames: int) -> int:
    """Known frames of a continuation."""
    return max(1, num_frames // 2)


def known_frames_kept(frames: np.ndarray, truth: Truth, asked: dict, known: list[int]) -> dict:
    real = to_uint8(truth.video)
    worst = min(psnr(frames[n], real[n]) for n in known)
    return {"kept": worst >= 30, "psnr": worst, **obeyed(frames, asked), "path": follows(frames, truth.path)}


def _first_frame(frames, truth, asked):
    found = known_frames_kept(frames, truth, asked, [0])
    return {name: found[name] for name in ("kept", "psnr", "direction", "all")}


def _continuation(frames, truth, asked):
    first = continued(len(frames))
    found = known_frames_kept(frames, truth, asked, list(range(first)))
    return found | seam(frames, to_uint8(truth.video), first)


def _ends(frames, truth, asked):
    return known_frames_kept(frames, truth, asked, [0, len(frames) - 1])


def _between(frames, truth, asked):
    return known_frames_kept(frames, truth, asked, every_third(len(frames)))


def every_third(num_frames: int) -> list[int]:
    return sorted({*range(0, num_frames, 3), num_frames - 1})


def _inpainting(frames, truth, asked):
    outside = around_the_path(truth)[0].bool().numpy()
    equal = bool((frames[outside] == to_uint8(truth.video)[outside]).all())
    return {"outside_equal": equal, **obeyed(frames, asked)}


def _recolour(frames, truth, asked):
    found = obeyed(frames, asked)
    found |= {"path": follows(frames, truth.path), "background": background_kept(frames, to_uint8(truth.video), truth)}
    return {name: found[name] for name in ("colour", "shape", "path", "background")} | {"every": all(found.values())}


def _follows(axes: tuple[int, ...]) -> Callable:
    return lambda frames, truth, asked: {"followed": follows(frames, truth.path, axes), **obeyed(frames, asked)}


KNOWN_WAYS = ("conditioned", "replacement", "text alone")
OTHER_WAYS = ("conditioned", "swapped", "text alone")
TASKS = {
    "first_frame": Task("known", _first_frame, KNOWN_WAYS, whole_frames(lambda n: [0])),
    "continuation": Task("known", _continuation, KNOWN_WAYS, whole_frames(lambda n: list(range(continued(n))))),
    "first_last": Task("known", _ends, KNOWN_WAYS, whole_frames(lambda n: [0, n - 1])),
    "in_between": Task("known", _between, KNOWN_WAYS, whole_frames(every_third)),
    "inpainting": Task("known", _inpainting, KNOWN_WAYS, around_the_path, other_object),
    "depth": Task("depth", _follows((0, 1)), OTHER_WAYS),
    "vectors": Task("vectors", _follows((0, 1)), OTHER_WAYS),
    "audio": Task("audio", _follows((1,)), OTHER_WAYS),
    "recolour": Task("", _recolour, ("inversion", "inversion and depth", "sdedit"), None, other_colour),
}
