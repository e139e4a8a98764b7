"""The training objective of Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127).

SVD turns one image into a clip. Its network F is an EDM denoiser (Karras et al. 2022, arXiv:2206.00364) in latent space
with sigma_data = 1: noise of a continuous standard deviation sigma, one for all frames of a clip, and

    x = latents + sigma noise                                        the noisy clip
    F = unet([c_in x; image latent], c_noise, image embedding, ids)  the raw output, v, and not the noise
    D = c_skip x + c_out F                                           the denoised clip
    eps_hat = (x - D) / sigma                                        the noise the network predicts

Whoever trains F itself to be the noise trains another parametrisation than the published weights and every sampler
have; the loss falls just as well, and the videos are ruined.

Latents are (B, T, C, H, W) here, as in diffusers' SVD. Random numbers are drawn on the CPU, from the generator given or
else the global state, so that a seed is the same run on every device.
"""

from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from models.svd.conditioning import Conditioning, per_clip
from models.svd.steering import steered

LOSSES = ("edm", "eps")


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
    scale = preconditioning(per_clip(sigmas, noisy))
    return scale.c_skip * noisy + scale.c_out * output


def eps_hat(output: Tensor, noisy: Tensor, sigmas: Tensor) -> Tensor:
    """(noisy - D) / sigma, the noise (B, T, C, H, W) that the network predicts. sigmas: (B,).

    Written out, because the difference would cancel at small sigma: sigma/(sigma^2 + 1) noisy + F/sqrt(sigma^2 + 1).
    """
    sigmas = per_clip(sigmas, noisy)
    scale = preconditioning(sigmas)
    return sigmas * scale.c_skip * noisy + scale.c_in * output


def v_target(latents: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The output F for which D is the clean clip: (noise - sigma latents) / sqrt(sigma^2 + 1)."""
    sigmas = per_clip(sigmas, latents)
    return (noise - sigmas * latents) * preconditioning(sigmas).c_in


def svd_loss(
    unet: nn.Module,
    latents: Tensor,
    conditioning: Conditioning,
    sigmas: Tensor,
    noise: Tensor,
    kind: str = "edm",
    vectors: dict[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Each clip's loss (B,), and what to log of it: {"edm", "eps", "sigma"}, (B,) each, detached.

    latents: (B, T, 4, H/8, W/8), scaled. sigmas: (B,) > 0. noise: like latents. vectors: per frame, see steering.py.
    kind:
    "edm": (1 + sigma^2)/sigma^2 * ||D - latents||^2, in effect the error of F at weight one for every sigma (SVD).
    "eps": ||eps_hat - noise||^2, the error of the predicted noise. It is exactly edm / (1 + sigma^2): three quarters of
        its weight lie on sigma < 1, so it teaches detail more than motion.
    Both are means over elements, in float32 whatever the network computes in. Raises ValueError for an unknown kind.
    """
    if kind not in LOSSES:
        raise ValueError(f"the loss must be one of {', '.join(LOSSES)}, not {kind!r}")
    latents, noise, sigmas = latents.float(), noise.float(), sigmas.float()
    noisy = latents + per_clip(sigmas, latents) * noise
    output = predict(unet, noisy, sigmas, conditioning, vectors)
    errors = {
        "edm": _mean_square(output - v_target(latents, noise, sigmas)),
        "eps": _mean_square(eps_hat(output, noisy, sigmas) - noise),
    }
    return errors[kind], {**{name: error.detach() for name, error in errors.items()}, "sigma": sigmas}


def predict(
    unet: nn.Module,
    noisy: Tensor,
    sigmas: Tensor,
    conditioning: Conditioning,
    vectors: dict[str, Tensor] | None = None,
) -> Tensor:
    """F, the raw output (B, T, 4, H/8, W/8) in float32 for noisy latents of that shape and sigmas (B,).

    c_in scales the noisy half of the input only; the image latent is repeated for every frame as it is.
    """
    scale = preconditioning(sigmas)
    image_latents = conditioning.image_latents[:, None].expand(-1, noisy.shape[1], -1, -1, -1)
    sample = torch.cat([per_clip(scale.c_in, noisy) * noisy, image_latents.to(noisy.dtype)], dim=2)
    context, time_ids = conditioning.image_embeddings.to(noisy.dtype), conditioning.time_ids
    with steered(getattr(unet, "module", unet), vectors):
        return unet(sample, scale.c_noise, context, added_time_ids=time_ids, return_dict=False)[0].float()


def _mean_square(errors: Tensor) -> Tensor:
    return errors.square().flatten(1).mean(dim=1)
