"""Videos longer than a model was trained for, piece by piece: each goes on from the last frames of the one before.

What goes wrong in long chains is slow: colours fade, detail is lost, a thing becomes another. The drift of each piece
from the first is measured and kept beside the video.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from models.conditions import KNOWN, some_steps
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.known import known_places
from utils.evaluation.judge import judge
from utils.video.frames import to_uint8

MOST_GAIN = 1.25  # by which colours are held, at most


def pieces_of(num_frames: int, length: int, overlap: int) -> list[slice]:
    """The frames of each piece: all are `length` long and share `overlap` or more with the one before."""
    starts = [*range(0, num_frames - length, length - overlap), num_frames - length]
    return [slice(start, start + length) for start in starts]


def draw_chain(
    draw: Callable[..., Tensor],
    model: CaptionedDiffusion,
    shape: tuple[int, int, int],
    pieces: list[slice],
    conditions: dict[str, Tensor],
    device: torch.device,
) -> Tensor:
    """Videos (B, 3, T, H, W) of `shape` (T, H, W), piece by piece.

    draw(num_frames=..., conditions=...): the videos of a piece. conditions: of all of the video; pieces begin where
    places of them do.
    """
    videos, done = None, 0
    fold = 1 if model.autoencoder is None else model.autoencoder.layout.time
    for piece in pieces:
        given, length = some_steps(conditions, slice(piece.start // fold, piece.stop // fold)), piece.stop - piece.start
        if videos is not None:
            mask = torch.zeros(len(videos), 1, length, *shape[1:], device=device)
            mask[:, :, : done - piece.start] = 1
            given |= {KNOWN: known_places(videos[:, :, piece].to(device), mask, model.autoencoder)}
        drawn = draw(num_frames=length, conditions=given).float().cpu()
        if videos is None:
            videos = torch.zeros(len(drawn), 3, *shape)
        else:
            drawn = colours_held(drawn, videos[:, :, piece.start : done])
        videos[:, :, done : piece.stop] = drawn[:, :, done - piece.start :]
        done = piece.stop
    return videos


def colours_held(drawn: Tensor, before: Tensor) -> Tensor:
    """A piece (B, 3, T, H, W) with the mean and deviation of each colour over the frames that it shares with what was
    there before (B, 3, n, H, W)."""
    shared = drawn[:, :, : before.shape[2]].flatten(2)
    mean, std = shared.mean(dim=2), shared.std(dim=2).clamp(min=1e-3)
    wanted_mean, wanted_std = before.flatten(2).mean(dim=2), before.flatten(2).std(dim=2).clamp(min=1e-3)
    gain = (wanted_std / std).clamp(1 / MOST_GAIN, MOST_GAIN)
    mean, wanted_mean, gain = (each[..., None, None, None] for each in (mean, wanted_mean, gain))
    return ((drawn - mean) * gain + wanted_mean).clamp(-1, 1)


def drift_of(video: Tensor, pieces: list[slice]) -> list[dict]:
    """Of each piece of a video (3, T, H, W), against the first: the change of its mean colour in levels, its sharpness
    as a ratio, and whether the judge sees the same thing (colour, shape, size), None where it sees none at first."""
    clips = [to_uint8(video[:, piece]) for piece in pieces]
    colours = [clip.mean(axis=(0, 1, 2)) for clip in clips]
    sharp = [np.mean([np.abs(cv2.Laplacian(frame, cv2.CV_32F)).mean() for frame in clip]) for clip in clips]
    seen = [judge(clip) for clip in clips]
    things = [(verdict.colour, verdict.shape, verdict.size) for verdict in seen]
    return [
        {
            "frames": [piece.start, piece.stop],
            "colour": round(float(np.abs(colour - colours[0]).mean()), 2),
            "sharpness": round(float(each / max(sharp[0], 1e-6)), 3),
            "same_thing": None if things[0][0] is None else thing == things[0],
        }
        for piece, colour, each, thing in zip(pieces, colours, sharp, things, strict=True)
    ]
