"""Noise schedules: how much noise a timestep has."""

import torch
from diffusers.schedulers.scheduling_ddpm import betas_for_alpha_bar
from torch import Tensor

NOISE_SCHEDULES = ("cosine", "linear", "scaled_linear")
# The frames x height x width for which the schedule is right as it is: Stable Diffusion's 64x64 latents; in pixels a
# quarter of 16x64x64, for which doubled noise has proved itself here.
UNSHIFTED = {"latents": 64 * 64, "pixels": 16 * 64 * 64 // 4}


def noise_shift_for(num_frames: int, height: int, width: int, latents: bool) -> float:
    """The noise shift for clips of so many latents, or pixels: sqrt(n / n0), at least 1.

    n = frames x height x width, n0 of UNSHIFTED: what a clip shows in common is seen n / n0 times as often, so its mean
    is as uncertain at sqrt(n / n0) times the noise (Esser et al. 2024, arXiv:2403.03206, eq. 23; there n0 is what an
    earlier stage was trained on).
    """
    return max(1.0, (num_frames * height * width / UNSHIFTED["latents" if latents else "pixels"]) ** 0.5)


def make_betas(
    num_timesteps: int,
    noise_shift: float = 1.0,
    noise_schedule: str = "cosine",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
) -> Tensor:
    """Betas of a schedule, each at most 0.999, (T,) float32.

    noise_schedule: "cosine", alpha_bar(t) = cos^2((t/T + 0.008) / 1.008 * pi/2); "linear", betas from beta_start to
    beta_end (Ho et al. 2020); "scaled_linear", their roots so, and then squared (Stable Diffusion).
    noise_shift multiplies sigma = sqrt(1/alpha_bar - 1): the frames of a clip repeat each other, so noise that hides an
    image still shows a video (Hoogeboom et al. 2023, arXiv:2301.11093, shift it for size; the same holds for length).
    Raises ValueError for an unknown schedule.
    """
    if noise_schedule not in NOISE_SCHEDULES:
        raise ValueError(f"noise_schedule must be one of {', '.join(NOISE_SCHEDULES)}, not {noise_schedule!r}")
    if noise_schedule == "cosine":
        betas = betas_for_alpha_bar(num_timesteps).double()
    else:
        power = 1 if noise_schedule == "linear" else 2
        ends = beta_start ** (1 / power), beta_end ** (1 / power)
        betas = torch.linspace(*ends, num_timesteps, dtype=torch.float64) ** power
    if noise_shift != 1:
        alphas_cumprod = (1 - betas).cumprod(dim=0)
        alphas_cumprod = 1 / (1 + noise_shift**2 * (1 / alphas_cumprod - 1))
        previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
        betas = (1 - alphas_cumprod / previous).clamp(max=0.999)
    return betas.float()
