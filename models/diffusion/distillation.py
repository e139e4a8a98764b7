"""Distillation: a student that draws in a few steps what its teacher draws in many, with the guidance folded in.

The student's steps are those of DDIM (Song et al. 2020, arXiv:2010.02502, eq. 12) at evenly spaced timesteps, each with
a guess of the clean clip; the teacher's lie on a finer grid that holds them.

"consistency": from a noisy clip the student goes to the end of its step at once; its aim is where one step of the
    teacher's grid, and from there the student itself without gradient, arrive (multistep consistency models, Heek et
    al. 2024, arXiv:2403.06807; with a single step those of Song et al. 2023, arXiv:2303.01469).
"distribution": what the student draws from noise is moved to where the teacher thinks clips are, and away from where a
    third network, which learns what the student draws, thinks its clips are (distribution matching, Yin et al. 2023,
    arXiv:2311.18828, with the few steps of Yin et al. 2024, arXiv:2405.14867).
"""

import copy

import torch
from torch import Tensor, nn

from models.adapters.low_rank import OF_STUDENTS, add_low_rank
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.text2video import TextToVideoDiffusion

METHODS = ("consistency", "distribution")
CLEAN = -1  # the timestep of a clip without noise
MOST_WEIGHT = 5.0  # of the squared error of a clip, which is weighed by min(SNR + 1, this)
NOISE_RANGE = 0.02, 0.98  # shares of the timesteps at which distributions are compared


class Distillation(nn.Module):
    """Teacher, student and what is learnt on the way, as the one module that a trainer wraps.

    teacher: stays as it is. num_inference_steps: of the student. teacher_steps: of the teacher's grid, a multiple of
    these that divides the timesteps ("consistency" only). guidance_scale, guidance_interval: of the teacher, see
    TextToVideoDiffusion.sample. lora_rank: of adapters beside the teacher's weights that alone learn; 0: all learn.
    Raises ValueError for an unknown method and steps that do not divide so.
    """

    def __init__(
        self,
        teacher: CaptionedDiffusion,
        method: str = "consistency",
        num_inference_steps: int = 4,
        teacher_steps: int = 8,
        guidance_scale: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        lora_rank: int = 0,
    ):
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
        num_timesteps = teacher.diffusion.num_timesteps
        if num_timesteps % num_inference_steps:
            raise ValueError(f"num_inference_steps must divide {num_timesteps} timesteps, not {num_inference_steps}")
        if teacher_steps % num_inference_steps or num_timesteps % teacher_steps:
            raise ValueError(
                f"teacher_steps must be a multiple of {num_inference_steps} that divides {num_timesteps} timesteps, "
                f"not {teacher_steps}"
            )
        self.method, self.num_inference_steps, self.teacher_steps = method, num_inference_steps, teacher_steps
        self.guidance_scale, self.guidance_interval = guidance_scale, guidance_interval
        self.teacher = teacher.requires_grad_(False).eval()
        self.student = copy.deepcopy(teacher.diffusion.unet).requires_grad_(not lora_rank)
        if lora_rank:
            add_low_rank(self.student, lora_rank, OF_STUDENTS)
        self.drawn = copy.deepcopy(self.student) if method == "distribution" else None  # learns what the student draws

    @property
    def diffusion(self) -> TextToVideoDiffusion:
        return self.teacher.diffusion

    def train(self, mode: bool = True) -> "Distillation":
        """The teacher is always in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def learnt(self) -> CaptionedDiffusion:
        """The student with the teacher's text encoder and autoencoder; it shares its weights."""
        settings = dict(self.diffusion.settings)
        if settings["scheduler_config"] is not None:  # the timesteps of the student, whatever the teacher's would be
            spacing = {"timestep_spacing": "trailing", "steps_offset": 0, "set_alpha_to_one": True}
            settings["scheduler_config"] = settings["scheduler_config"] | spacing
        diffusion = TextToVideoDiffusion(self.student, **settings).to(self.diffusion.alphas_cumprod.device)
        return CaptionedDiffusion(diffusion, self.teacher.text_encoder, self.teacher.autoencoder)

    def forward(
        self, clips: Tensor, captions: list[str], conditions: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The losses, scalars whose sum is to be minimised, by their names.

        clips: (B, C, T, H, W), of pixels in [-1, 1] or of normalised latents; "distribution" takes only their shape.
        conditions: see models/conditions.py.
        """
        texts = self.encoded(captions)
        if self.method == "consistency":
            return {"consistency": self.consistency(clips, texts, conditions or {})}
        return self._distribution(clips, texts, conditions or {})

    def consistency(
        self,
        clips: Tensor,
        texts: tuple[Tensor, Tensor | None],
        conditions: dict[str, Tensor],
        noise: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Mean over the batch of w * ||guess - aim||^2. noise and places, (B,) shares of the grid in [0, 1), are drawn
        unless given."""
        noise = torch.randn_like(clips) if noise is None else noise
        if places is None:
            places = (
                torch.rand((), device=clips.device) + torch.arange(len(clips), device=clips.device) / len(clips)
            ) % 1
        stride, per_step = (
            self.diffusion.num_timesteps // self.teacher_steps,
            self.teacher_steps // self.num_inference_steps,
        )
        number = (places * self.teacher_steps).long()  # of the teacher's step, counted from the clean clip
        here, there = (number + 1) * stride - 1, number * stride - 1
        end = number // per_step * per_step * stride - 1
        noisy = self._noised(clips, noise, here)
        with torch.no_grad():
            nearer = self._moved(noisy, self._taught(noisy, here, texts, conditions), here, there)
            later = there.clamp(min=0)  # where that is the end already, what the student says there does not count
            arrived = self._moved(nearer, self._guess(self.student, nearer, later, texts, conditions), later, end)
            arrived = torch.where(_wide(there == end, clips), nearer, arrived)
            aim = self._clip_between(noisy, arrived, here, end)
        guess = self._guess(self.student, noisy, here, texts, conditions)
        return self._weighed(guess - aim, here)

    def _distribution(self, clips: Tensor, texts, conditions: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the student draws: the step that learns is the same for a batch, those before it are drawn."""
        stride, count = self.diffusion.num_timesteps // self.num_inference_steps, len(clips)
        noisy, last = torch.randn_like(clips), int(torch.randint(self.num_inference_steps, ()))
        for number in range(self.num_inference_steps - 1, last - 1, -1):
            here = torch.full((count,), (number + 1) * stride - 1, device=clips.device)
            with torch.set_grad_enabled(number == last):
                guess = self._guess(self.student, noisy, here, texts, conditions)
            if number > last:
                noisy = self._moved(noisy, self._in_range(guess), here, here - stride)
        clip = guess.detach()
        with torch.no_grad():
            low, high = (int(share * self.diffusion.num_timesteps) for share in NOISE_RANGE)
            times = self.diffusion.draw_timesteps(count, clips.device).clamp(low, high)
            again = self._noised(clip, torch.randn_like(clip), times)
            right = self._taught(again, times, texts, conditions)
            own = self._in_range(self._guess(self.drawn, again, times, texts, conditions))
            scale = (clip - right).abs().flatten(1).mean(dim=1).clamp(min=1e-3)
            aim = clip - (own - right) / _wide(scale, clip)
        times = self.diffusion.draw_timesteps(count, clips.device)
        again = self._noised(clip, torch.randn_like(clip), times)
        error = self._guess(self.drawn, again, times, texts, conditions) - clip
        return {"distribution": (guess - aim).square().mean() / 2, "drawn": self._weighed(error, times)}

    # -------------------------------------------------------------------------------------------- guesses of the clip

    def encoded(self, captions: list[str]) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, L, D) and mask (B, L) of captions."""
        embeddings, mask = self.teacher.text_encoder.encode(captions)
        return embeddings, self.teacher.needed(mask)

    def _guess(self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, texts, conditions: dict[str, Tensor]) -> Tensor:
        known = {"conditions": conditions} if conditions else {}
        return self.diffusion.predict_clip(unet(noisy, timesteps, *texts, **known).float(), noisy, timesteps)

    def _taught(self, noisy: Tensor, timesteps: Tensor, texts, conditions: dict[str, Tensor]) -> Tensor:
        """The teacher's guess with its guidance, kept in range as in sampling."""
        unet = self.diffusion.unet
        guess = self._guess(unet, noisy, timesteps, texts, conditions)
        low, high = (share * self.diffusion.num_timesteps for share in self.guidance_interval)
        guided = (timesteps >= low) & (timesteps <= high)
        if self.guidance_scale != 1 and guided.any():  # the others need no second look
            known = {name: values[guided] for name, values in conditions.items()}
            texts = self.encoded([""] * int(guided.sum()))
            without = self._guess(unet, noisy[guided], timesteps[guided], texts, known)
            guess[guided] = without + self.guidance_scale * (guess[guided] - without)
        return self._in_range(guess)

    def _in_range(self, clip: Tensor) -> Tensor:
        return clip if self.diffusion.latents else clip.clamp(-1, 1)

    def _weighed(self, error: Tensor, timesteps: Tensor) -> Tensor:
        weights = (1 / (1 - self.diffusion.alphas_cumprod[timesteps])).clamp(max=MOST_WEIGHT)
        return (weights * error.square().flatten(1).mean(dim=1)).mean()

    # ------------------------------------------------------------------------------------- between noise and the clip

    def _alpha_sigma(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), 1 and 0 at CLEAN."""
        alphas_cumprod = self.diffusion.alphas_cumprod
        alphas_cumprod = _wide(torch.cat([alphas_cumprod, alphas_cumprod.new_ones(1)])[timesteps], like)
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()

    def _noised(self, clip: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(timesteps, clip)
        return alpha * clip + sigma * noise

    def _moved(self, noisy: Tensor, clip: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """A step of DDIM from one timestep to an earlier one, given a guess of the clean clip."""
        alpha, sigma = self._alpha_sigma(here, noisy)
        return self._noised(clip, (noisy - alpha * clip) / sigma, there)

    def _clip_between(self, noisy: Tensor, arrived: Tensor, here: Tensor, there: Tensor) -> Tensor:
        """The guess of the clean clip that takes a step of DDIM from `noisy` to `arrived`: the inverse of _moved
        (Salimans and Ho 2022, arXiv:2202.00512, appendix G)."""
        (alpha, sigma), (alpha_there, sigma_there) = (self._alpha_sigma(each, noisy) for each in (here, there))
        ratio = sigma_there / sigma
        return (arrived - ratio * noisy) / (alpha_there - ratio * alpha)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1, 1)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
