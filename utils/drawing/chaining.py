"""Videos longer than a model was trained for, piece by piece: each goes on from the last frames of the one before.

What goes wrong in long chains is slow: colours fade, detail is lost, a thing becomes another. The drift of each piece
from the first is measured and kept beside the video.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import count

import cv2
import numpy as np
import torch
from torch import Tensor

from models.conditions import KNOWN, some_steps, steps_of
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.known import known_places
from utils.evaluation.judge import judge
from utils.video.frames import to_uint8

MOST_GAIN = 1.25  # by which colours are held, at most


def pieces_of(num_frames: int, length: int, overlap: int) -> list[slice]:
    """The frames of each piece: all are `length` long and share `overlap` or more with the one before."""
    starts = [*range(0, num_frames - length, length - overlap), num_frames - length]
    return [slice(start, start + length) for start in starts]


def endless_pieces(length: int, overlap: int) -> Iterator[slice]:
    """The same of a video without end."""
    return (slice(start, start + length) for start in count(0, length - overlap))


def draw_chain(
    draw: Callable[..., Tensor],
    model: CaptionedDiffusion,
    pieces: Iterable[slice],
    conditions: dict[str, Tensor],
    device: torch.device,
) -> Iterator[Tensor]:
    """What each piece adds to the videos, (B, 3, n, H, W), one after the other.

    draw(num_frames=..., conditions=...): the videos of a piece. conditions: of all of the video, or of its first piece;
    pieces begin where places of them do.
    """
    clips, done = None, 0
    fold = 1 if model.autoencoder is None else model.autoencoder.layout.time
    for piece in pieces:
        length, shared, given = piece.stop - piece.start, done - piece.start, {}
        if all(steps_of(known) >= piece.stop // fold for known in conditions.values()):
            given = some_steps(conditions, slice(piece.start // fold, piece.stop // fold))
        if clips is None:
            clips = draw(num_frames=length, conditions=given).float().cpu()
            yield clips
        else:
            before = clips[:, :, -shared:]
            clips = torch.zeros(*before.shape[:2], length, *before.shape[3:], device=device)
            mask = torch.zeros_like(clips[:, :1])
            clips[:, :, :shared], mask[:, :, :shared] = before.to(device), 1
            given |= {KNOWN: known_places(clips, mask, model.autoencoder)}
            drawn = draw(num_frames=length, conditions=given).float().cpu()
            new = colours_held(drawn, before)[:, :, shared:]
            clips = torch.cat([before, new], dim=2)
            yield new
        done = piece.stop


def colours_held(drawn: Tensor, before: Tensor) -> Tensor:
    """A piece (B, 3, T, H, W) with the mean and deviation of each colour over the frames that it shares with what was
    there before (B, 3, n, H, W)."""
    shared = drawn[:, :, : before.shape[2]].flatten(2)
    mean, std = shared.mean(dim=2), shared.std(dim=2).clamp(min=1e-3)
    wanted_mean, wanted_std = before.flatten(2).mean(dim=2), before.flatten(2).std(dim=2).clamp(min=1e-3)
    gain = (wanted_std / std).clamp(1 / MOST_GAIN, MOST_GAIN)
    mean, wanted_mean, gain = (each[..., None, None, None] for each in (mean, wanted_mean, gain))
    return ((drawn - mean) * gain + wanted_mean).clamp(-1, 1)


class Drift:
    """How far each piece of a video is from its first."""

    def __init__(self):
        self.first = None

    def __call__(self, frames: np.ndarray, piece: slice) -> dict:
        """Of a piece, uint8 RGB (T, H, W, 3): the change of its mean colour in levels, its sharpness as a ratio, and
        whether the judge sees the same thing (colour, shape, size), None where it sees none at first."""
        colour = frames.mean(axis=(0, 1, 2))
        sharpness = np.mean([np.abs(cv2.Laplacian(frame, cv2.CV_32F)).mean() for frame in frames])
        verdict = judge(frames)
        thing = verdict.colour, verdict.shape, verdict.size
        self.first = self.first or (colour, sharpness, thing)
        return {
            "frames": [piece.start, piece.stop],
            "colour": round(float(np.abs(colour - self.first[0]).mean()), 2),
            "sharpness": round(float(sharpness / max(self.first[1], 1e-6)), 3),
            "same_thing": None if self.first[2][0] is None else thing == self.first[2],
        }


def drift_of(video: Tensor, pieces: list[slice]) -> list[dict]:
    """Of each piece of a video (3, T, H, W), against the first."""
    drift = Drift()
    return [drift(to_uint8(video[:, piece]), piece) for piece in pieces]
