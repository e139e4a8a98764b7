"""Which action was taken between two frames, read from the video: an inverse-dynamics model (Baker et al. 2022,
arXiv:2206.11795), which labels what was recorded, or generated, without actions."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from models.robots.seeing import looking, seen

MOST_WEIGHT = 20.0
LOG_STD = (-5.0, 3.0)  # what is believed of an action's deviation, in deviations of the data


class InverseDynamics(ModelMixin, ConfigMixin):
    """Clips (B, 3, T, H, W) in [-1, 1] to what is believed of the T-1 actions between their frames.

    names: of the numbers of an action; mean, std: of each in the data, in its units. width: channels. reach: pairs of
    frames to either side that have a say, because one pair shows a place but not where things are going. frame_size,
    fps: (height, width) and rate of the clips that it learnt from. binary: the numbers are 0 or 1, whether a task is
    done, say; it answers with logits and reads how likely 1 is.
    """

    @register_to_config
    def __init__(
        self,
        names: list[str],
        mean: list[float],
        std: list[float],
        width: int = 32,
        reach: int = 2,
        frame_size: tuple[int, int] = (64, 64),
        fps: float = 10.0,
        binary: bool = False,
    ):
        super().__init__()
        self.look = looking(9, width, (2, 1, 2, 1))  # a frame, the next, and their difference
        self.places = nn.Conv2d(width, width, 1)
        self.pairs = nn.Linear(3 * width, 4 * width)
        self.over_time = nn.Conv1d(4 * width, 4 * width, 2 * reach + 1, padding=reach)
        self.out = nn.Linear(4 * width, 2 * len(names))
        self.register_buffer("centre", torch.tensor(mean), persistent=False)
        self.register_buffer("spread", torch.tensor(std), persistent=False)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(actions (B, T-1, D) in deviations from the data's mean, or logits; the logarithms of their deviations)."""
        before, behind = clips[:, :, :-1], clips[:, :, 1:]
        pairs = torch.cat([before, behind, behind - before], dim=1)
        batch, steps = pairs.shape[0], pairs.shape[2]
        maps = self.look(pairs.transpose(1, 2).flatten(0, 1))
        hidden = self.pairs(seen(maps, self.places(maps)))
        hidden = nn.functional.silu(hidden).unflatten(0, (batch, steps))
        hidden = hidden + nn.functional.silu(self.over_time(hidden.transpose(1, 2)).transpose(1, 2))
        believed, log_std = self.out(hidden).float().chunk(2, dim=2)
        return believed, log_std.clamp(*LOG_STD)

    @torch.no_grad()
    def read(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(actions (B, T-1, D) in the units of the data, their deviations in those of the data)."""
        believed, log_std = self(clips)
        if self.config.binary:
            likely = (believed - rarity(self.centre).log()).sigmoid()
            return likely, (likely * (1 - likely)).sqrt() / self.spread
        return believed * self.spread + self.centre, log_std.exp()


def action_loss(believed: Tensor, log_std: Tensor, actions: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """(negative log likelihood, mean squared error) of actions (B, T-1, D) in deviations; present: (B,), 1 where they
    are known.

    The likelihood is weighed by the deviation itself, not followed by gradients (Seitzer et al. 2022, arXiv:2203.09168,
    beta 1/2 of the variance): else what is hard to tell is not learnt at all.
    """
    error = (believed - actions).square()
    spread = log_std.exp()
    likelihood = (error / (2 * spread.square()) + log_std) * spread.detach()
    weight = present.reshape(-1, 1, 1) / present.sum().clamp(min=1) / (error.shape[1] * error.shape[2])
    return (likelihood * weight).sum(), (error * weight).sum()


def binary_loss(logits: Tensor, values: Tensor, present: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """(binary cross entropy, mean squared error) of values (B, T-1, D) from 0 to 1; present: as of action_loss.

    mean: (D,), how often they are 1. What is rare weighs as much as what is common, see rarity; the logits are as much
    higher than how likely it is.
    """
    rare = rarity(mean)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, values, reduction="none", pos_weight=rare)
    error = ((logits - rare.log()).sigmoid() - values).square()
    weight = present.reshape(-1, 1, 1) / present.sum().clamp(min=1) / (error.shape[1] * error.shape[2])
    return (entropy * weight).sum(), (error * weight).sum()


def rarity(mean: Tensor) -> Tensor:
    """How much rarer 1 is than 0, (D,), for how often (D,) it is: up to MOST_WEIGHT times."""
    return ((1 - mean) / mean.clamp(min=1e-6)).clamp(1 / MOST_WEIGHT, MOST_WEIGHT)
