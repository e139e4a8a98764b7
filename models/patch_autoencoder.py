"""PatchAutoencoder: a small autoencoder of videos, quick to train: patches of pixels become tokens at once.

A patch of t x s x s pixels is made channels, and a few residual blocks work on the grid of patches, as in Cosmos
(NVIDIA 2025, arXiv:2501.03575) and LTX-Video (HaCohen et al. 2024, arXiv:2501.00103), which fold pixels first as well.
No layer works at the full size, so 16x256x256 pixels cost what 4x16x16 do, and a little more with a DetailHead.
Convolutions are factorised in space and time (Tran et al. 2018, arXiv:1711.11248), and norms look at one place alone:
what is decoded in tiles has no seams beyond the reach of the convolutions.
"""

from math import gcd
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn.functional import silu

from models.layers import zero_init


class EncoderOutput(NamedTuple):
    """latent_dist: over latents (B, C, T/t, H/s, W/s)."""

    latent_dist: DiagonalGaussianDistribution


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Clips (B, 3, T, H, W) in [-1, 1] to a distribution over latents (B, latent_channels, T/t, H/s, W/s), and back.

    patch_size: (t, s), pixels of a patch in time and along either side. width: channels of the residual blocks.
    encoder_layers, decoder_layers: residual blocks. double_z: whether the encoder gives deviations too, for training
    with a KL term; else they are zero and the distribution is its mean. detail_channels: of a DetailHead; 0 for none.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        patch_size: tuple[int, int] = (4, 16),
        width: int = 192,
        encoder_layers: int = 3,
        decoder_layers: int = 4,
        double_z: bool = False,
        detail_channels: int = 0,
    ):
        super().__init__()
        self.gradient_checkpointing = False
        folded = in_channels * patch_size[0] * patch_size[1] ** 2
        self.patch_in = nn.Conv3d(folded, width, 1)
        self.encoder = nn.ModuleList([ResidualBlock(width) for _ in range(encoder_layers)])
        self.encoder_out = nn.Conv3d(width, latent_channels * (1 + double_z), 1)
        self.decoder_in = nn.Conv3d(latent_channels, width, 1)
        self.decoder = nn.ModuleList([ResidualBlock(width) for _ in range(decoder_layers)])
        self.norm_out = PlaceNorm(width)
        self.patch_out = nn.Conv3d(width, folded, 1)
        head = (width, detail_channels, in_channels, patch_size)
        self.detail_head = DetailHead(*head) if detail_channels else None

    @apply_forward_hook
    def encode(self, videos: Tensor) -> EncoderOutput:
        moments = self.encoder_out(self._run(self.encoder, self.patch_in(fold(videos, *self.config.patch_size))))
        if not self.config.double_z:
            return EncoderOutput(DiagonalGaussianDistribution(torch.cat([moments, moments], dim=1), deterministic=True))
        return EncoderOutput(DiagonalGaussianDistribution(moments))

    @apply_forward_hook
    def decode(self, latents: Tensor) -> DecoderOutput:
        hidden = self._run(self.decoder, self.decoder_in(latents))
        hidden = silu(self.norm_out(hidden))
        videos = unfold(self.patch_out(hidden), *self.config.patch_size)
        return DecoderOutput(sample=videos if self.detail_head is None else videos + self.detail_head(hidden))

    def _run(self, blocks: nn.ModuleList, hidden: Tensor) -> Tensor:
        for block in blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = self._gradient_checkpointing_func(block, hidden)
            else:
                hidden = block(hidden)
        return hidden


class ResidualBlock(nn.Module):
    """A convolution over space and one over time, each behind a norm; zero at the start."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = PlaceNorm(width), PlaceNorm(width)
        self.conv_space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1))
        self.conv_time = zero_init(nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0)))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv_time(silu(self.norm2(self.conv_space(silu(self.norm1(hidden))))))


class DetailHead(nn.Module):
    """What one linear layer cannot say of the pixels of a patch, to be added to what it says: convolutions over squares
    of 4x4 pixels (of the largest part of 4 that a patch divides by), each frame by itself. Zero at the start.

    The last layer says thousands of numbers of a patch from a few hundred channels; outlines stay soft for it.
    """

    def __init__(self, width: int, hidden: int, channels: int, patch_size: tuple[int, int]):
        super().__init__()
        frames, size = patch_size
        self.square = gcd(size, 4)
        self.squares = frames, size // self.square
        self.proj_in = nn.Conv3d(width, hidden * frames * self.squares[1] ** 2, 1)
        self.conv = nn.Conv3d(hidden, hidden, (1, 3, 3), padding=(0, 1, 1))
        self.conv_out = zero_init(nn.Conv3d(hidden, channels * self.square**2, (1, 3, 3), padding=(0, 1, 1)))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, width, T/t, H/s, W/s) to (B, channels, T, H, W)."""
        x = unfold(self.proj_in(hidden), *self.squares)
        return unfold(self.conv_out(silu(self.conv(silu(x)))), 1, self.square)


class PlaceNorm(nn.Module):
    """Root mean square over the channels of each place (Zhang and Sennrich 2019, arXiv:1910.07467), (B, C, ...)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        scale = (hidden.float().square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
        return hidden * scale.to(hidden.dtype) * self.weight.reshape(-1, *[1] * (hidden.dim() - 2)).to(hidden.dtype)


def fold(videos: Tensor, t: int, s: int) -> Tensor:
    """(B, C, T, H, W) -> (B, C*t*s*s, T/t, H/s, W/s)."""
    batch, channels, frames, height, width = videos.shape
    patches = videos.reshape(batch, channels, frames // t, t, height // s, s, width // s, s)
    return patches.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def unfold(patches: Tensor, t: int, s: int) -> Tensor:
    """The inverse of fold."""
    patches = patches.unflatten(1, (-1, t, s, s))
    return patches.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
