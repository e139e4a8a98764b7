"""Sampling: from noise to clips, with guidance, by the schedulers of diffusers."""

from collections.abc import Callable
from functools import partial

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from models.windows import over_frames

# Each a scheduler of diffusers and its settings. The first adds fresh noise in every step, as DDPM does, and so forgets
# the errors of earlier steps: at equal cost a model that is not done learning draws more of its videos right.
SAMPLERS = {
    "dpmpp_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp": (DPMSolverMultistepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
}


class Sampling:
    """The half of TextToVideoDiffusion that draws clips; what it uses of the other one: the U-Net, the schedule
    (`scheduler`, `num_timesteps`), `predict_clip` and whether clips are `latents`."""

    @torch.no_grad()
    def sample(
        self,
        text_embeddings: Tensor,
        mask: Tensor | None = None,
        negative_embeddings: Tensor | None = None,
        negative_mask: Tensor | None = None,
        *,
        num_frames: int,
        height: int,
        width: int,
        sampler: str = "dpmpp_sde",
        num_inference_steps: int = 25,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        thresholding: str | None = None,
        window_frames: int | None = None,
        window_overlap: int | None = None,
        generators: list[torch.Generator] | None = None,
        on_step: Callable[[], object] | None = None,
    ) -> Tensor:
        """Clips (B, C, num_frames, height, width) for B texts, of pixels in [-1, 1] or of latents.

        thresholding: see denoise; by default "static" for pixels and "none" for latents.
        window_frames: a longer clip is denoised in windows of so many frames, which overlap by window_overlap, half of
            them by default: each is a clip by itself to the network, and takes no more memory than one.
        text_embeddings: (B, L, D). negative_embeddings: (B, L', D), the empty or the negative prompt, needed when
        guidance_scale != 1. generators: one per video, on the CPU, so that a seed is the same video in any batch and on
        any device; None draws from the global state. on_step is called after each step, for a progress bar.
        Raises ValueError for an unknown sampler, a number of steps outside 1..num_timesteps, missing embeddings, an
        overlap of none or all of a window, and latents that are to be kept in a range.
        """
        thresholding = thresholding or self.default_thresholding
        if self.latents and thresholding != "none":
            raise ValueError(f"thresholding {thresholding!r} is for pixels, and these are latents")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
        if not 1 <= num_inference_steps <= self.num_timesteps:
            raise ValueError(f"num_inference_steps must be 1 to {self.num_timesteps}, not {num_inference_steps}")
        if guidance_scale != 1 and negative_embeddings is None:
            raise ValueError("guidance_scale other than 1 needs negative_embeddings")
        if window_frames is not None and num_frames > window_frames:
            window_overlap = window_frames // 2 if window_overlap is None else window_overlap
            if not 1 <= window_overlap < window_frames:
                raise ValueError(f"window_overlap must be 1 to {window_frames - 1}, not {window_overlap}")
        if generators is not None and len(generators) != len(text_embeddings):
            raise ValueError(f"{len(generators)} generators for {len(text_embeddings)} texts")

        def denoise(timestep, noisy):
            return self.denoise(noisy, timestep, context, mask, guidance_scale, guidance_rescale, thresholding)

        context, mask = _stack_guidance(text_embeddings, mask, negative_embeddings, negative_mask, guidance_scale)
        kind, settings = SAMPLERS[sampler]
        scheduler = kind.from_config(self.scheduler.config, clip_sample=False, rescale_betas_zero_snr=False, **settings)
        scheduler.set_timesteps(num_inference_steps)  # on the CPU: it looks at each, and a GPU would be waited for
        shape = (self.unet.config.in_channels, num_frames, height, width)
        device = text_embeddings.device
        sample = _randn(len(text_embeddings), shape, generators, device) * scheduler.init_noise_sigma
        step_generator = {} if sampler == "unipc" else {"generator": generators}
        for timestep in scheduler.timesteps:
            noisy = scheduler.scale_model_input(sample, timestep)
            clip = over_frames(partial(denoise, timestep), noisy, window_frames or num_frames, window_overlap)
            sample = scheduler.step(clip, timestep, sample, **step_generator).prev_sample
            if on_step is not None:
                on_step()
        return sample if self.latents else sample.clamp(-1, 1)

    @property
    def default_thresholding(self) -> str:
        return "none" if self.latents else "static"

    def denoise(self, noisy, timestep, context, mask, guidance_scale=1.0, guidance_rescale=0.0, thresholding="static"):
        """The network's guess of the clean clip behind `noisy`, (B, C, T, H, W), guided and kept in range.

        Guidance (Ho and Salimans 2022, eq. 6, with their 1 + w as guidance_scale) and its rescaling (Lin et al. 2023,
        eq. 15 and 16) act on what the network predicts; with guidance, context holds the B negative texts before the B
        texts. At high noise an error of epsilon is multiplied by 1/sqrt(alpha_bar), up to 20,000 for the cosine
        schedule: the clip is therefore clipped to [-1, 1] ("static") or divided by its own 99.5% quantile ("dynamic",
        Saharia et al. 2022, arXiv:2205.11487, sec. 2.3); "none" leaves it alone.
        """
        whole = not timestep.is_floating_point() or bool(timestep == timestep.round())  # Euler counts in floats
        batch = timestep.long() if whole else timestep.float()
        batch = batch.to(noisy.device, non_blocking=True).expand(len(context))
        prediction = self.unet(torch.cat([noisy] * (len(context) // len(noisy))), batch, context, mask).float()
        if guidance_scale != 1:
            negative, positive = prediction.chunk(2)
            prediction = negative + guidance_scale * (positive - negative)
            if guidance_rescale > 0:
                dims = tuple(range(1, prediction.dim()))
                matched = prediction * (positive.std(dims, keepdim=True) / prediction.std(dims, keepdim=True))
                prediction = guidance_rescale * matched + (1 - guidance_rescale) * prediction
        clip = self.predict_clip(prediction, noisy, batch[: len(noisy)])
        if thresholding == "dynamic":
            limit = clip.flatten(1).abs().quantile(0.995, dim=1).clamp(min=1).reshape(-1, *[1] * (clip.dim() - 1))
            return clip.clamp(-limit, limit) / limit
        return clip.clamp(-1, 1) if thresholding == "static" else clip


def _randn(batch: int, shape: tuple[int, ...], generators: list[torch.Generator] | None, device) -> Tensor:
    if generators is None:
        return torch.randn(batch, *shape, device=device)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def _stack_guidance(positive, positive_mask, negative, negative_mask, guidance_scale):
    """One batch of the negative texts and then the texts, padded to one length, or the texts alone without guidance."""
    if guidance_scale == 1:
        return positive, positive_mask
    if positive_mask is negative_mask is None and positive.shape == negative.shape:
        return torch.cat([negative, positive]), None
    length = max(positive.shape[1], negative.shape[1])
    embeddings, masks = [], []
    for text, mask in ((negative, negative_mask), (positive, positive_mask)):
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if mask is None else mask
        padding = length - text.shape[1]
        embeddings.append(nn.functional.pad(text, (0, 0, 0, padding)))
        masks.append(nn.functional.pad(mask, (0, padding)))
    masks = torch.cat(masks)
    return torch.cat(embeddings), None if masks.all() else masks
