"""What to do next, from a picture: a policy that imitates episodes (behaviour cloning), several actions at a time."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from models.robots.seeing import looking, seen

TASK_CHANNELS = 32


class Policy(ModelMixin, ConfigMixin):
    """Frames (B, 3, H, W) in [-1, 1] to the next `chunk` actions.

    It answers with several actions at once, so that fewer of its own mistakes add up (Zhao et al. 2023,
    arXiv:2304.13705).
    tasks: in words, what it can be asked to do. names, mean, std: of the numbers of an action in the data. width:
    channels. frame_size, fps: (height, width) and rate of what it learnt from.
    """

    @register_to_config
    def __init__(
        self,
        tasks: list[str],
        names: list[str],
        mean: list[float],
        std: list[float],
        chunk: int = 8,
        width: int = 32,
        frame_size: tuple[int, int] = (64, 64),
        fps: float = 10.0,
    ):
        super().__init__()
        self.look = looking(3, width, (2, 2, 1, 1))
        self.places = nn.Conv2d(width, width, 1)
        self.task = nn.Embedding(len(tasks), TASK_CHANNELS)
        self.head = nn.Sequential(
            nn.Linear(3 * width + TASK_CHANNELS, 8 * width),
            nn.SiLU(),
            nn.Linear(8 * width, 8 * width),
            nn.SiLU(),
            nn.Linear(8 * width, chunk * len(names)),
        )
        self.register_buffer("centre", torch.tensor(mean), persistent=False)
        self.register_buffer("spread", torch.tensor(std), persistent=False)

    def forward(self, frames: Tensor, tasks: Tensor) -> Tensor:
        """Actions (B, chunk, D) in deviations from the data's mean. tasks: (B,) places in config.tasks."""
        maps = self.look(frames)
        known = torch.cat([seen(maps, self.places(maps)), self.task(tasks).to(maps.dtype)], dim=1)
        return self.head(known).float().unflatten(1, (self.config.chunk, len(self.config.names)))

    @torch.no_grad()
    def act(self, frames: Tensor, tasks: Tensor) -> Tensor:
        """Actions (B, chunk, D) in the units of the data; see forward."""
        return self(frames, tasks) * self.spread + self.centre


def imitation_loss(policy, clips: Tensor, actions: Tensor, tasks: Tensor, present: Tensor) -> Tensor:
    """Mean squared error, in deviations, of what the policy would do at every frame of clips (B, 3, T, H, W).

    actions: (B, T, D) in deviations; action t is taken at frame t. Of the chunk at a frame those count that lie in the
    clip. tasks: (B,). present: (B,), 1 where actions are known.
    """
    batch, _, length = clips.shape[:3]
    believed = policy(clips.transpose(1, 2).flatten(0, 1), tasks.repeat_interleave(length))
    believed = believed.unflatten(0, (batch, length))
    at = torch.arange(length)[:, None] + torch.arange(believed.shape[2])
    inside = (at < length).to(clips.device)
    error = (believed - actions[:, at.clamp(max=length - 1).to(clips.device)]).square().mean(dim=3)
    weight = inside * present.reshape(-1, 1, 1)
    return (error * weight).sum() / weight.sum().clamp(min=1)


def shifted(clips: Tensor, most: int) -> Tensor:
    """Each clip (B, 3, T, H, W) moved by up to `most` px, its rim repeated: what it shows does not depend on the pixel
    (Kostrikov et al. 2020, arXiv:2004.13649)."""
    if not most:
        return clips
    height, width = clips.shape[3:]
    padded = nn.functional.pad(clips.flatten(1, 2), [most] * 4, mode="replicate").unflatten(1, clips.shape[1:3])
    places = torch.randint(2 * most + 1, (len(clips), 2)).tolist()
    return torch.stack(
        [clip[..., top : top + height, left : left + width] for clip, (top, left) in zip(padded, places, strict=True)]
    )
