"""The training objective and the conditioning of Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127).

SVD turns one image into a clip. Its network F is an EDM denoiser (Karras et al. 2022, arXiv:2206.00364) in latent space
with sigma_data = 1: noise of a continuous standard deviation sigma, one for all frames of a clip, and

    x = latents + sigma noise                                        the noisy clip
    F = unet([c_in x; image latent], c_noise, image embedding, ids)  the raw output, v, and not the noise
    D = c_skip x + c_out F                                           the denoised clip
    eps_hat = (x - D) / sigma                                        the noise the network predicts

Whoever trains F itself to be the noise trains another parametrisation than the published weights and every sampler
have; the loss falls just as well, and the videos are ruined. What else the network sees is made as in diffusers'
StableVideoDiffusionPipeline: the first frame as CLIP embedding and as latent, frame rate, motion, noise on the image.

Latents are (B, T, C, H, W) here, as in diffusers' SVD. Random numbers are drawn on the CPU, from the generator given or
else the global state, so that a seed is the same run on every device.
"""

from typing import NamedTuple

import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from torch import Generator, Tensor, nn

LOSSES = ("edm", "eps")
CLIP_SIZE = (224, 224)


# Noise and preconditioning


def draw_sigmas(
    batch_size: int,
    p_mean: float = 0.7,
    p_std: float = 1.6,
    *,
    stratum: tuple[int, int] = (0, 1),
    generator: Generator | None = None,
) -> Tensor:
    """Noise levels (B,), ln sigma ~ N(p_mean, p_std), one per clip (Karras et al. 2022, table 1).

    The defaults are those of image-to-video SVD: half the levels are above 2, where only motion and layout survive; an
    image model, at (-1.2, 1.2), sees little of that. stratum (k, K) draws batch k of K batches that share one optimiser
    step: together they take one level from each of their K*B equally likely parts, which makes the gradient and the
    loss curve less noisy and leaves the distribution as it is. Raises ValueError unless 0 <= k < K.
    """
    index, count = stratum
    if not 0 <= index < count:
        raise ValueError(f"stratum must be (k, K) with 0 <= k < K, not {stratum}")
    uniform = torch.rand(batch_size, dtype=torch.float64, generator=generator)
    if count > 1:
        uniform = (index * batch_size + torch.arange(batch_size) + uniform) / (count * batch_size)
    normal = torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7))  # 0 and 1 would be an infinite noise
    return torch.exp(p_mean + p_std * normal).float()


class Preconditioning(NamedTuple):
    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


def preconditioning(sigmas: Tensor) -> Preconditioning:
    """The scalings of the module's equations, each of the shape of sigmas (> 0).

    Karras et al. 2022, table 1, with sigma_data = 1 and the sign of c_out that makes F the v of Salimans and Ho 2022
    (arXiv:2202.00512). c_noise is what the U-Net gets as its timestep.
    """
    variance = sigmas.square() + 1
    return Preconditioning(1 / variance, -sigmas * variance.rsqrt(), variance.rsqrt(), sigmas.log() / 4)


def denoise(output: Tensor, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """D, the clean clip (B, T, C, H, W) that the network's raw output stands for. sigmas: (B,)."""
    scale = preconditioning(_per_clip(sigmas, noisy))
    return scale.c_skip * noisy + scale.c_out * output


def eps_hat(output: Tensor, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """(noisy - D) / sigma, the noise (B, T, C, H, W) that the network predicts. sigmas: (B,).

    Written out, because the difference would cancel at small sigma: sigma/(sigma^2 + 1) noisy + F/sqrt(sigma^2 + 1).
    """
    sigmas = _per_clip(sigmas, noisy)
    scale = preconditioning(sigmas)
    return sigmas * scale.c_skip * noisy + scale.c_in * output


def v_target(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The output F for which D is the clean clip: (noise - sigma latents) / sqrt(sigma^2 + 1)."""
    sigmas = _per_clip(sigmas, latents)
    return (noise - sigmas * latents) * preconditioning(sigmas).c_in


# The objective


class Conditioning(NamedTuple):
    """What the network knows of a clip besides its noisy latents."""

    image_latents: Tensor  # (B, 4, H/8, W/8), the first frame, not scaled
    image_embeddings: Tensor  # (B, 1, D), the first frame
    time_ids: Tensor  # (B, 3): frames per second - 1, motion bucket, noise on the first frame


def svd_loss(
    unet: nn.Module, latents: Tensor, conditioning: Conditioning, sigmas: Tensor, noise: Tensor, kind: str = "edm"
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each clip's loss (B,), and what to log of it: {"edm", "eps", "sigma"}, (B,) each, detached.

    latents: (B, T, 4, H/8, W/8), scaled. sigmas: (B,) > 0. noise: like latents. kind:
    "edm": (1 + sigma^2)/sigma^2 * ||D - latents||^2, in effect the error of F at weight one for every sigma (SVD).
    "eps": ||eps_hat - noise||^2, the error of the predicted noise. It is exactly edm / (1 + sigma^2): three quarters of
        its weight lie on sigma < 1, so it teaches detail more than motion.
    Both are means over elements, in float32 whatever the network computes in. Raises ValueError for an unknown kind.
    """
    if kind not in LOSSES:
        raise ValueError(f"the loss must be one of {', '.join(LOSSES)}, not {kind!r}")
    latents, noise, sigmas = latents.float(), noise.float(), sigmas.float()
    noisy = latents + _per_clip(sigmas, latents) * noise
    output = predict(unet, noisy, sigmas, conditioning)
    errors = {
        "edm": _mean_square(output - v_target(latents, noise, sigmas)),
        "eps": _mean_square(eps_hat(output, noisy, sigmas) - noise),
    }
    return errors[kind], {**{name: error.detach() for name, error in errors.items()}, "sigma": sigmas}


def predict(unet: nn.Module, noisy: Tensor, sigmas: Tensor, conditioning: Conditioning) -> Tensor:
    """F, the raw output (B, T, 4, H/8, W/8) in float32 for noisy latents of that shape and sigmas (B,).

    c_in scales the noisy half of the input only; the image latent is repeated for every frame as it is.
    """
    scale = preconditioning(sigmas)
    image_latents = conditioning.image_latents[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
    sample = torch.cat([_per_clip(scale.c_in, noisy) * noisy, image_latents.to(noisy.dtype)], dim=2)
    context, time_ids = conditioning.image_embeddings.to(noisy.dtype), conditioning.time_ids
    return unet(sample, scale.c_noise, context, added_time_ids=time_ids, return_dict=False)[0].float()


def _mean_square(errors: Tensor) -> Tensor:
    return errors.square().flatten(1).mean(dim=1)


def _per_clip(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values with the dimensions of `like`, to be broadcast."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


# Conditioning


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
    noisy = frames + _per_clip(noise_aug, frames) * noise
    with torch.autocast(frames.device.type, enabled=False):
        return vae.encode(noisy.to(vae.dtype)).latent_dist.mode()


def drop_image(conditioning: Conditioning, dropped: Tensor) -> Conditioning:
    """Zeros for the image, as latent and as embedding at once, of the clips where dropped (B,) is True.

    Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598) needs the network without the image; the
    pipeline's unconditional half is exactly this, with the time ids kept.
    """
    latents, embeddings, time_ids = conditioning
    return Conditioning(
        latents.masked_fill(_per_clip(dropped, latents), 0),
        embeddings.masked_fill(_per_clip(dropped, embeddings), 0),
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
        return image_encoder(((pixels - mean) / std).to(image_encoder.dtype)).image_embeds[:, None]


@torch.no_grad()
def encode_latents(vae: nn.Module, frames: Tensor, chunk: int = 8) -> Tensor:
    """Latents (B, T, 4, H/8, W/8) of clips (B, T, 3, H, W) in [-1, 1], scaled, to be trained on: the posterior's mode.

    chunk: frames that pass the encoder at once; it changes the memory, not the result. See `full_precision_vae`.
    """
    full_precision_vae(vae)
    with torch.autocast(frames.device.type, enabled=False):
        latents = [vae.encode(part.to(vae.dtype)).latent_dist.mode() for part in frames.flatten(0, 1).split(chunk)]
    return torch.cat(latents).unflatten(0, frames.shape[:2]) * vae.config.scaling_factor


def full_precision_vae(vae: nn.Module) -> None:
    """Cast the VAE to float32 in place if its config says force_upcast, as SVD's does: it overflows in float16."""
    if vae.config.force_upcast and vae.dtype != torch.float32:
        vae.to(torch.float32)
