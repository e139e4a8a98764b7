"""Sampling: from noise to clips, with guidance, by the schedulers of diffusers."""

from collections.abc import Callable, Sequence
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

from models.conditions import kept_places, some_steps, stacked, without
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
        guidance_parallel: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        thresholding: str | None = None,
        window_frames: int | None = None,
        window_overlap: int | None = None,
        conditions: dict[str, Tensor] | None = None,
        condition_scales: dict[str, float] | None = None,
        replacement: tuple[Tensor, Tensor] | None = None,
        start: Tensor | None = None,
        strength: float = 1.0,
        noise: Tensor | None = None,
        guide: Callable[..., Tensor] | None = None,
        generators: list[torch.Generator] | None = None,
        on_step: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Clips (B, C, num_frames, height, width) for B texts, of pixels in [-1, 1] or of latents.

        guidance_interval: where guidance acts, as shares of all timesteps, 0 the clean clip and 1 pure noise (after
            Kynkaanniemi et al. 2024, arXiv:2404.07724); elsewhere a step asks the network half as much.
        thresholding: see denoise; by default "static" for pixels and "none" for latents.
        window_frames: a longer clip is denoised in windows of so many frames, which overlap by window_overlap, half of
            them by default: each is a clip by itself to the network, and takes no more memory than one.
        conditions: see models/conditions.py; condition_scales: how strongly each counts, see denoise.
        replacement: (clips, mask (B, 1, T, H, W)): where the mask is 1 the guess of the clean clip is always this, also
            for a network that takes no known places (Song et al. 2021, arXiv:2011.13456, appendix I.2); by default
            those of the conditions, where all of a place is known.
        guide: (noisy, timesteps, conditions=...) to a prediction, by a weaker model of the same text: guidance leads
            away from it in place of the negative text (autoguidance, Karras et al. 2024, arXiv:2406.02507).
        start: clips to begin from, with as much noise as is left after 1 - strength of the steps (SDEdit, Meng et al.
            2022, arXiv:2108.01073).
        noise: to begin with in place of a random one: of `invert` in editing.py, for sampler "ddim"; without `start`,
            and with a strength below 1, it is the noisy clip itself.
        text_embeddings: (B, L, D). negative_embeddings: (B, L', D), the empty or the negative prompt, needed when
        guidance_scale != 1. generators: one per video, on the CPU, so that a seed is the same video in any batch and on
        any device; None draws from the global state. on_step is called after each step with the guess of the clean
        clips, for a progress bar or to watch them come.
        Raises ValueError for an unknown sampler, a number of steps outside 1..num_timesteps, missing embeddings, an
        overlap of none or all of a window, latents that are to be kept in a range, an interval that is none, a strength
        outside (0, 1], and scales of conditions that are not given.
        """
        thresholding = thresholding or self.default_thresholding
        if self.latents and thresholding != "none":
            raise ValueError(f"thresholding {thresholding!r} is for pixels, and these are latents")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
        if not 1 <= num_inference_steps <= self.num_timesteps:
            raise ValueError(f"num_inference_steps must be 1 to {self.num_timesteps}, not {num_inference_steps}")
        if guidance_scale != 1 and negative_embeddings is None and guide is None:
            raise ValueError("guidance_scale other than 1 needs negative_embeddings")
        if window_frames is not None and num_frames > window_frames:
            window_overlap = window_frames // 2 if window_overlap is None else window_overlap
            if not 1 <= window_overlap < window_frames:
                raise ValueError(f"window_overlap must be 1 to {window_frames - 1}, not {window_overlap}")
        if generators is not None and len(generators) != len(text_embeddings):
            raise ValueError(f"{len(generators)} generators for {len(text_embeddings)} texts")
        if not 0 <= guidance_interval[0] < guidance_interval[1] <= 1:
            raise ValueError(f"guidance_interval must rise from 0 to 1, not {guidance_interval}")
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be above 0 and at most 1, not {strength}")
        conditions = conditions or {}
        replacement = kept_places(conditions, self.unet.config.in_channels) if replacement is None else replacement
        scales = {name: scale for name, scale in (condition_scales or {}).items() if scale != 1}
        if unknown := scales.keys() - conditions.keys():
            raise ValueError(f"a scale for {min(unknown)}, which is not given")

        def denoise(timestep, noisy, steps):
            scale, texts, masks, known = guidance_scale, context, mask, some_steps(given, steps)
            if not guidance_interval[0] <= float(timestep) / self.num_timesteps <= guidance_interval[1]:
                scale, texts, masks, known = 1.0, *_but_the_first(texts, masks, known, len(context) - unguided)
            how = scale, guidance_rescale, thresholding, known, list(scales.values()), guidance_parallel
            clip = self.denoise(noisy, timestep, texts, masks, *how, guide)
            if replacement is not None:
                known, where = (each[:, :, steps] for each in replacement)
                clip = torch.where(where > 0, known, clip)
            return clip

        stacked_scale = 1 if guide is not None else guidance_scale
        context, mask = stack_guidance(text_embeddings, mask, negative_embeddings, negative_mask, stacked_scale)
        branches = [conditions] * (1 if stacked_scale == 1 else 2) + [without(conditions, name) for name in scales]
        given = stacked(branches) if conditions else {}
        if scales:
            every = [text_embeddings] * len(scales)
            context, mask = torch.cat([context, *(context[-len(each) :] for each in every)]), _repeated(mask, every)
        unguided = len(text_embeddings) * (1 + len(scales))  # samples of a step without guidance
        kind, settings = SAMPLERS[sampler]
        scheduler = kind.from_config(self.scheduler.config, clip_sample=False, rescale_betas_zero_snr=False, **settings)
        scheduler.set_timesteps(num_inference_steps)  # on the CPU: it looks at each, and a GPU would be waited for
        shape = (self.unet.config.in_channels, num_frames, height, width)
        device = text_embeddings.device
        noise = _randn(len(text_embeddings), shape, generators, device) if noise is None else noise
        first = first_step(len(scheduler.timesteps), strength)
        timesteps = scheduler.timesteps[first:]
        sample = noise * scheduler.init_noise_sigma
        if start is not None:
            sample = scheduler.add_noise(start, noise, timesteps[:1].to(device).expand(len(start)))
        step_generator = {} if sampler == "unipc" else {"generator": generators}
        for timestep in timesteps:
            noisy = scheduler.scale_model_input(sample, timestep)
            clip = over_frames(partial(denoise, timestep), noisy, window_frames or num_frames, window_overlap)
            sample = scheduler.step(clip, timestep, sample, **step_generator).prev_sample
            if on_step is not None:
                on_step(clip)
        return sample if self.latents else sample.clamp(-1, 1)

    @property
    def default_thresholding(self) -> str:
        return "none" if self.latents else "static"

    def denoise(
        self,
        noisy: Tensor,
        timestep: Tensor,
        context: Tensor,
        mask: Tensor | None,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        thresholding: str = "static",
        conditions: dict[str, Tensor] | None = None,
        scales: Sequence[float] = (),
        guidance_parallel: float = 1.0,
        guide: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """The network's guess of the clean clip behind `noisy`, (B, C, T, H, W), guided and kept in range.

        Guidance (Ho and Salimans 2022, eq. 6, with their 1 + w as guidance_scale) and its rescaling (Lin et al. 2023,
        eq. 15 and 16) act on what the network predicts; of what guidance adds to the clip the part along the clip,
        mostly contrast, counts guidance_parallel times (the eta of Sadat et al. 2024, arXiv:2410.02416, sec. 4, without
        their momentum and threshold); with guidance, context holds the B negative texts before the B texts, unless
        there is a guide, see sample. conditions, of as many samples as context, are given to all of these; for each of
        `scales` context and conditions go on with B texts without one of them, and what that one makes of the
        prediction counts so many times (Brooks et al. 2023, arXiv:2211.09800, sec. 3.2). At high noise an error of
        epsilon is multiplied by 1/sqrt(alpha_bar), up to 20,000 for the cosine schedule: the clip is therefore clipped
        to [-1, 1] ("static") or divided by its own 99.5% quantile ("dynamic", Saharia et al. 2022, arXiv:2205.11487,
        sec. 2.3); "none" leaves it alone.
        """
        whole = not timestep.is_floating_point() or bool(timestep == timestep.round())  # Euler counts in floats
        batch = timestep.long() if whole else timestep.float()
        batch = batch.to(noisy.device, non_blocking=True).expand(len(context))
        known = {"conditions": conditions} if conditions else {}
        prediction = self.unet(torch.cat([noisy] * (len(context) // len(noisy))), batch, context, mask, **known).float()
        prediction, *lacking = prediction.split(
            [len(prediction) - len(scales) * len(noisy)] + [len(noisy)] * len(scales)
        )
        negative, positive = prediction[: len(noisy)], prediction[-len(noisy) :]
        if guide is not None and guidance_scale != 1:
            ours = {name: each[: len(noisy)] for name, each in (conditions or {}).items()}
            negative = guide(noisy, batch[: len(noisy)], conditions=ours).float()
        if guidance_scale != 1:
            prediction = negative + guidance_scale * (positive - negative)
        for scale, less in zip(scales, lacking, strict=True):
            prediction = prediction + (scale - 1) * (positive - less)
        if guidance_scale != 1 and guidance_rescale > 0:
            dims = tuple(range(1, prediction.dim()))
            matched = prediction * (positive.std(dims, keepdim=True) / prediction.std(dims, keepdim=True))
            prediction = guidance_rescale * matched + (1 - guidance_rescale) * prediction
        times = batch[: len(noisy)]
        clip = self.predict_clip(prediction, noisy, times)
        if guidance_scale != 1 and guidance_parallel != 1:
            guess, other = (self.predict_clip(each, noisy, times) for each in (positive, negative))
            along = (guess - other).flatten(1) * guess.flatten(1)
            share = along.sum(dim=1) / guess.flatten(1).square().sum(dim=1).clamp(min=1e-8)
            clip = (
                clip
                - (guidance_scale - 1) * (1 - guidance_parallel) * share.reshape(-1, *[1] * (clip.dim() - 1)) * guess
            )
        if thresholding == "dynamic":
            limit = clip.flatten(1).abs().quantile(0.995, dim=1).clamp(min=1).reshape(-1, *[1] * (clip.dim() - 1))
            return clip.clamp(-limit, limit) / limit
        return clip.clamp(-1, 1) if thresholding == "static" else clip


def first_step(num_inference_steps: int, strength: float) -> int:
    """The step with which drawing begins that leaves 1 - strength of the steps out."""
    return num_inference_steps - max(1, round(strength * num_inference_steps))


def _randn(batch: int, shape: tuple[int, ...], generators: list[torch.Generator] | None, device) -> Tensor:
    if generators is None:
        return torch.randn(batch, *shape, device=device)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def _but_the_first(texts: Tensor, mask: Tensor | None, known: dict[str, Tensor], count: int):
    """What a batch goes on with after the first `count` samples."""
    return texts[count:], None if mask is None else mask[count:], {name: x[count:] for name, x in known.items()}


def _repeated(mask: Tensor | None, texts: list[Tensor]) -> Tensor | None:
    return mask if mask is None else torch.cat([mask, *(mask[-len(each) :] for each in texts)])


def stack_guidance(positive, positive_mask, negative, negative_mask, guidance_scale):
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
