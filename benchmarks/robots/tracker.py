"""Where the gripper is, read from the pixels of single frames: a small network that learns it from real ones."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.robots.episodes import Window
from utils.files import whole_file

CENTIMETRES = 100


class Tracker(nn.Module):
    """Frames (B, 3, H, W) in [-1, 1] to places (B, 3) in metres: where each of its channels is brightest on average
    (a spatial softmax, Levine et al. 2016, arXiv:1504.00702), and a small network from there."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers, channels = [], 3
        for stride in (2, 1, 2, 1):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, width, 1))
        self.head = nn.Sequential(nn.Linear(2 * width, 128), nn.SiLU(), nn.Linear(128, 3))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.layers(frames)
        weights = maps.flatten(2).softmax(dim=2).unflatten(2, maps.shape[2:])
        rows, columns = (torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[2:])
        places = torch.cat([(weights.sum(3) * rows).sum(2), (weights.sum(2) * columns).sum(2)], dim=1)
        return self.head(places) * self.std + self.mean


def fit_tracker(real: Iterable[Window], steps: int, seed: int = 0, batch_size: int = 64) -> Tracker:
    """A tracker that has learnt from all frames of these episodes, a little noisy and brighter or darker, so that what
    a model draws does not confuse it."""
    from tqdm.auto import tqdm

    torch.manual_seed(seed)
    real = list(real)
    frames = torch.from_numpy(np.concatenate([each.frames for each in real])).permute(0, 3, 1, 2)
    places = torch.from_numpy(np.concatenate([each.states[:, :3] for each in real]))
    tracker = Tracker().train()
    tracker.mean.copy_(places.mean(0))
    tracker.std.copy_(places.std(0))
    optimizer = torch.optim.AdamW(tracker.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in tqdm(range(steps), desc="learning to track the gripper", unit="step", disable=None, leave=False):
        chosen = torch.randint(len(frames), (batch_size,))
        batch = frames[chosen].float() / 127.5 - 1
        batch = batch * (1 + 0.1 * torch.randn(batch_size, 1, 1, 1)) + 0.03 * torch.randn_like(batch)
        error = (tracker(batch) - places[chosen]) / tracker.std
        error.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return tracker.eval()


@torch.no_grad()
def tracked(tracker: Tracker, frames: np.ndarray) -> np.ndarray:
    """Places (T, 3) in metres of the gripper in frames, uint8 (T, H, W, 3)."""
    return tracker(torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()


def errors(tracker: Tracker, frames: np.ndarray, states: np.ndarray) -> np.ndarray:
    """How far off the gripper is in each frame, (T,), in cm."""
    return CENTIMETRES * np.linalg.norm(tracked(tracker, frames) - states[:, :3], axis=1)


def kept_tracker(file: Path, real: Iterable[Window], steps: int) -> Tracker:
    """That of a file, or one that learns now and is kept there."""
    if file.is_file():
        tracker = Tracker()
        tracker.load_state_dict(load_file(file))
        return tracker.eval()
    tracker = fit_tracker(real, steps)
    with whole_file(file) as partial:
        save_file(tracker.state_dict(), partial)
    return tracker
