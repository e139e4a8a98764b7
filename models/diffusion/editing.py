"""Inversion: the noise from which a deterministic sampler draws a given clip, so that another text draws it changed.

DDIM's steps (Song et al. 2021, arXiv:2010.02502, eq. 12) are turned around one by one. The usual shortcut takes the
network's answer of one step for that of the next; here each is solved by fixed-point iteration (Pan et al. 2023,
arXiv:2309.04907), so that drawing it again comes back to the clip.
"""

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from models.diffusion.sampling import first_step
from models.diffusion.text2video import TextToVideoDiffusion


@torch.no_grad()
def invert(
    diffusion: TextToVideoDiffusion,
    clips: Tensor,
    text_embeddings: Tensor,
    mask: Tensor | None = None,
    *,
    num_inference_steps: int,
    strength: float = 1.0,
    conditions: dict[str, Tensor] | None = None,
    iterations: int = 5,
    generators: list[torch.Generator] | None = None,
    on_step: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """The noisy clips (B, C, T, H, W) from which `sample` with sampler "ddim", guidance 1 and as many steps draws clips
    (B, C, T, H, W) again, for texts (B, L, D) that describe them.

    strength: how far to go, the same as sample is given then. The last step of drawing, which only takes noise away,
    cannot be turned around: a little noise from `generators` stands for what it takes. iterations: per step.
    on_step is called after each step with the guess of the clean clips.
    """
    scheduler = DDIMScheduler.from_config(diffusion.scheduler.config)
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps[first_step(num_inference_steps, strength) :].tolist()
    stride = diffusion.num_timesteps // num_inference_steps
    how = 1.0, 0.0, diffusion.default_thresholding, conditions
    noise = torch.stack([torch.randn(clips.shape[1:], generator=g) for g in generators or [None] * len(clips)])
    alpha, sigma = _levels(diffusion, timesteps[-1], clips)
    sample = alpha * clips + sigma * noise.to(clips)
    for timestep in reversed(timesteps[:-1]):
        next_alpha, next_sigma = _levels(diffusion, timestep - stride, clips)  # where DDIM's step leads
        alpha, sigma = _levels(diffusion, timestep, clips)
        found = sample
        for _ in range(iterations):
            clean = diffusion.denoise(found, torch.tensor(timestep), text_embeddings, mask, *how)
            found = alpha * clean + sigma * (sample - next_alpha * clean) / next_sigma
        sample = found
        if on_step is not None:
            on_step(clean)
    return sample


def _levels(diffusion: TextToVideoDiffusion, timestep: int, like: Tensor) -> tuple[Tensor, Tensor]:
    return diffusion.alpha_sigma(torch.tensor([timestep], device=like.device), like)
