"""What the small networks of robots look with: convolutions, and the places where their channels are brightest."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, pad


def looking(channels: int, width: int, strides: Sequence[int]) -> nn.Sequential:
    """Convolutions of these strides, (B, channels, H, W) to (B, width, h, w)."""
    layers = []
    for stride in strides:
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.GroupNorm(4, width), nn.SiLU()]
        channels = width
    return nn.Sequential(*layers)


def seen(maps: Tensor, brightness: Tensor) -> Tensor:
    """(B, 3 * width) of maps (B, width, h, w): the row and column, -1 to 1, where each channel of `brightness`, of the
    same shape, lies on average (a spatial softmax, Levine et al. 2016, arXiv:1504.00702), and the mean of each map."""
    weights = brightness.float().flatten(2).softmax(dim=2).unflatten(2, maps.shape[2:])
    rows, columns = (torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[2:])
    places = torch.cat([(weights.sum(3) * rows).sum(2), (weights.sum(2) * columns).sum(2)], dim=1)
    return torch.cat([places.to(maps.dtype), maps.mean(dim=(2, 3))], dim=1)


def disturbed(clips: Tensor, strength: float) -> Tensor:
    """Clips (B, 3, T, H, W) in [-1, 1] as another camera, an encoder or a video model might show them: each blurred by
    an amount of its own, brighter or darker, and noisy. strength: 0 leaves them as they are; at 1 the deviations are
    0.1 of contrast, 0.05 of brightness and 0.03 of noise, and up to all of a pixel is spread over 3x3.
    """
    if not strength:
        return clips

    def of_each(*shape: int) -> Tensor:
        return strength * torch.randn(len(clips), *shape, 1, 1, 1, device=clips.device)

    blurred = avg_pool3d(pad(clips, (1, 1, 1, 1, 0, 0), mode="replicate"), (1, 3, 3), stride=1)
    share = torch.rand(len(clips), 1, 1, 1, 1, device=clips.device) * min(strength, 1.0)
    seen_so = (clips + share * (blurred - clips)) * (1 + 0.1 * of_each(1)) + 0.05 * of_each(3)
    return (seen_so + 0.03 * strength * torch.randn_like(clips)).clamp(-1, 1)
