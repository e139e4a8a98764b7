"""From what is known of clips, frame by frame and pixel by pixel, to conditions on a network's own grid.

See models/conditions.py for what a network makes of them.
"""

import torch
from torch import Tensor

from models.autoencoder import VideoAutoencoder
from models.conditions import ConditionSettings
from models.patch_autoencoder import fold


def on_the_grid(x: Tensor, steps: int, frames: int, side: int) -> Tensor:
    """Maps (B, C, T, H, W) as places of `frames` x side x side numbers: (B, C*frames*side^2, steps, H/side, W/side).

    Where an autoencoder keeps the first frame by itself, that one stands for all of its place.
    """
    missing = steps * frames - x.shape[2]
    if missing:
        x = torch.cat([x[:, :, :1].expand(-1, -1, missing, -1, -1), x], dim=2)
    return fold(x, frames, side)


def held(videos: Tensor, mask: Tensor) -> Tensor:
    """What is known of videos (B, C, T, H, W), filled up for a network or an autoencoder: a frame of which nothing is
    known is like the nearest of which something is; other unknown places are 0. mask: (B, 1, T, H, W), 1 where known.
    """
    seen = mask.flatten(3).amax(dim=3)[:, 0] > 0  # (B, T)
    places = torch.arange(seen.shape[1], device=seen.device)
    away = (places[:, None] - places).abs().masked_fill(~seen[:, None], len(places) * 2)  # (B, T, T)
    nearest = away.argmin(dim=2)[:, None, :, None, None].expand_as(videos)
    return (videos * mask).gather(2, nearest)


def known_places(videos: Tensor, mask: Tensor, autoencoder: VideoAutoencoder | None) -> Tensor:
    """The condition "known" of videos (B, 3, T, H, W) in [-1, 1] and mask (B, 1, T, H, W), 1 where they are known;
    zeros for those of which nothing is."""
    filled = held(videos, mask)
    if autoencoder is None:
        return torch.cat([filled, mask], dim=1)
    latents = autoencoder.encode(filled)
    latents = latents * (mask.flatten(1).amax(dim=1) > 0).reshape(-1, 1, 1, 1, 1)
    masks = on_the_grid(mask, latents.shape[2], autoencoder.layout.time, autoencoder.layout.space)
    return torch.cat([latents, masks], dim=1)


def map_places(maps: Tensor, present: Tensor, settings: ConditionSettings, steps: int) -> Tensor:
    """A map (B, C, T, H, W) in [-1, 1] on a grid of `steps` steps in time; present: (B,), 0 where it is absent."""
    places = on_the_grid(maps, steps, *settings.fold)
    places = torch.cat([places, torch.ones_like(places[:, :1])], dim=1)
    return places * present.reshape(-1, 1, 1, 1, 1)


def vector_steps(vectors: Tensor, present: Tensor, about: dict, settings: ConditionSettings, steps: int) -> Tensor:
    """Vectors (B, T, D) as they are in the data, normalised, so many frames a step: (B, steps, (D + 1) * frames)."""
    mean, std = (vectors.new_tensor(about[name]) for name in ("mean", "std"))
    normal = (vectors - mean) / std
    normal = torch.cat([normal, torch.ones_like(normal[..., :1])], dim=2)
    normal = normal * present.reshape(-1, 1, 1)
    missing = steps * settings.fold[0] - normal.shape[1]
    normal = torch.cat([normal[:, :1].expand(-1, missing, -1), normal], dim=1)
    return normal.unflatten(1, (steps, settings.fold[0])).flatten(2)
