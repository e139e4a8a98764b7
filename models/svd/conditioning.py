"""What the network of Stable Video Diffusion sees besides the noisy clip (Blattmann et al. 2023, arXiv:2311.15127).

It is made as in diffusers' StableVideoDiffusionPipeline: the first frame as CLIP embedding and as latent, frame rate,
motion, noise on the image. Random numbers are drawn on the CPU, from the generator given or else the global state, so
that a seed is the same run on every device.
"""

from typing import NamedTuple

import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Generator, Tensor, nn

from models.svd.memory import cast

CLIP_SIZE = (224, 224)


class Conditioning(NamedTuple):
    """What the network knows of a clip besides its noisy latents."""

    image_latents: Tensor  # (B, 4, H/8, W/8), the first frame, not scaled
    image_embeddings: Tensor  # (B, 1, D), the first frame
    time_ids: Tensor  # (B, 3): frames per second - 1, motion bucket, noise on the first frame


def per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values with the dimensions of `like`, to be broadcast."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


def make_conditioning(
    vae: nn.Module,
    first_frames: Tensor,
    image_embeddings: Tensor,
    fps: Tensor,
    motion_bucket_ids: Tensor,
    *,
    dropout: float = 0.1,
    noise_aug: Tensor | None = None,
    noise: Tensor | None = None,
    dropped: Tensor | None = None,
    generator: Generator | None = None,
) -> Conditioning:
    """The conditioning of B clips as training draws it: noise on the first frames, some clips left without an image.

    first_frames: (B, 3, H, W) in [-1, 1]. image_embeddings: (B, 1, D) of the same frames without noise. fps: (B,),
    frames per second. motion_bucket_ids: (B,), 1 to 255. noise_aug (B,), noise (B, 3, H, W) and dropped (B,) bool are
    drawn unless given; dropout is the probability of the latter.
    """
    batch_size, device = len(first_frames), first_frames.device
    noise_aug = draw_noise_aug(batch_size, generator=generator) if noise_aug is None else noise_aug
    noise = torch.randn(first_frames.shape, generator=generator) if noise is None else noise
    dropped = torch.rand(batch_size, generator=generator) < dropout if dropped is None else dropped
    noise_aug = noise_aug.to(device)
    image_latents = encode_first_frames(vae, first_frames, noise_aug, noise.to(device))
    time_ids = torch.stack([fps.to(device) - 1, motion_bucket_ids.to(device), noise_aug], dim=1)
    return drop_image(Conditioning(image_latents, image_embeddings, time_ids.float()), dropped.to(device))


def draw_noise_aug(
    batch_size: int, mean: float = -3.0, std: float = 0.5, *, generator: Generator | None = None
) -> Tensor:
    """Standard deviations (B,) of the noise on the first frames, ln ~ N(mean, std); half are above 0.05.

    The pipeline adds 0.02 by default: an image a little off the training data is then still familiar.
    """
    return torch.exp(mean + std * torch.randn(batch_size, generator=generator))


@torch.no_grad()
def encode_first_frames(vae: nn.Module, frames: Tensor, noise_aug: Tensor, noise: Tensor) -> Tensor:
    """Image latents (B, 4, H/8, W/8) of frames (B, 3, H, W) in [-1, 1] plus noise_aug (B,) times noise, per frame.

    As in the pipeline, the mode of the posterior, and not multiplied by the scaling factor. See `full_precision_vae`.
    """
    full_precision_vae(vae)
    noisy = frames + per_clip(noise_aug, frames) * noise
    with torch.autocast(frames.device.type, enabled=False):
        return vae.encode(noisy.to(vae.dtype)).latent_dist.mode().float()


def drop_image(conditioning: Conditioning, dropped: Tensor) -> Conditioning:
    """Zeros for the image, as latent and as embedding at once, of the clips where dropped (B,) is True.

    Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) needs the network without the image; the
    pipeline's unconditional half is exactly this, with the time ids kept.
    """
    latents, embeddings, time_ids = conditioning
    return Conditioning(
        latents.masked_fill(per_clip(dropped, latents), 0),
        embeddings.masked_fill(per_clip(dropped, embeddings), 0),
        time_ids,
    )


@torch.no_grad()
def image_embeddings(image_encoder: nn.Module, feature_extractor, frames: Tensor) -> Tensor:
    """CLIP embeddings (B, 1, D) of frames (B, 3, H, W) in [-1, 1], the same as the pipeline's.

    CLIP was trained on images resized otherwise, but SVD on these: blurred, then bicubic with aligned corners, and not
    clamped. feature_extractor gives the mean and the standard deviation of the colours.
    """
    pixels = (_resize_with_antialiasing(frames.float(), CLIP_SIZE) + 1) / 2
    mean, std = (
        torch.tensor(values, device=frames.device)[:, None, None]
        for values in (feature_extractor.image_mean, feature_extractor.image_std)
    )
    with torch.autocast(frames.device.type, enabled=False):
        return image_encoder(((pixels - mean) / std).to(image_encoder.dtype)).image_embeds[:, None].float()


@torch.no_grad()
def encode_latents(vae: nn.Module, frames: Tensor, chunk: int = 8) -> Tensor:
    """Latents (B, T, 4, H/8, W/8) of clips (B, T, 3, H, W) in [-1, 1], scaled, to be trained on: the posterior's mode.

    chunk: frames that pass the encoder at once; it changes the memory, not the result. See `full_precision_vae`.
    """
    full_precision_vae(vae)
    with torch.autocast(frames.device.type, enabled=False):
        latents = [vae.encode(part.to(vae.dtype)).latent_dist.mode() for part in frames.flatten(0, 1).split(chunk)]
    return torch.cat(latents).float().unflatten(0, frames.shape[:2]) * vae.config.scaling_factor


def full_precision_vae(vae: nn.Module) -> None:
    """Cast the VAE to float32 in place if its config says force_upcast, as SVD's does: it overflows in float16."""
    if vae.config.force_upcast and vae.dtype != torch.float32:
        cast(vae, torch.float32)
