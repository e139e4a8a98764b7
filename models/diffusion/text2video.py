"""TextToVideoDiffusion: the training objective and the sampler of a discrete-time diffusion model of video.

DDPM (Ho et al. 2020, arXiv:2006.11239) with the cosine schedule of Nichol and Dhariwal 2021 (arXiv:2102.09672), those
of DDPM and Stable Diffusion, or any that diffusers describes; text dropout for classifier-free guidance (Ho and
Salimans 2022, arXiv:2207.12598). Samplers are diffusers' schedulers. A clip is of pixels or of latents.
"""

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from models.diffusion.noise_schedule import make_betas
from models.diffusion.sampling import Sampling

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LOSS_WEIGHTINGS = ("none", "min_snr", "snr_plus_one")
TIMESTEP_SAMPLINGS = ("uniform", "logit_normal")


class TextToVideoDiffusion(Sampling, nn.Module):
    """Owns the U-Net and the noise schedule.

    prediction_type: what the network predicts. "epsilon", the noise; "v_prediction", sqrt(a) noise - sqrt(1-a) clip
        (Salimans and Ho 2022, arXiv:2202.00512); "sample", the clean clip.
    loss_weighting: "none" is the plain mean squared error of what is predicted. "min_snr" weighs the error of the clip
        with min(SNR, gamma) (Hang et al. 2023, arXiv:2303.09556), "snr_plus_one" with min(SNR + 1, gamma), which keeps
        teaching where the noise is high, and that is where the text decides (SNR + 1 is Salimans and Ho, sec. 4).
    zero_terminal_snr: the last timestep is pure noise (Lin et al. 2023, arXiv:2305.08891).
    noise_schedule, beta_start, beta_end, noise_shift: see make_betas. scheduler_config: what a scheduler_config.json of
        diffusers holds; it takes the place of these, of num_timesteps, prediction_type and zero_terminal_snr, and says
        how samplers space their timesteps.
    latents: whether clips are latents, which have no range to be kept in, rather than pixels in [-1, 1].
    text_dropout: share of captions replaced by the empty one in training, for classifier-free guidance.
    timestep_sampling: which timesteps training sees, "uniform" or "logit_normal": more of the middle, where it is
        decided what a clip shows, and few of the ends (Esser et al. 2024, arXiv:2403.03206, sec. 3.1, with m=0).
    logit_std: their s, the standard deviation of ln(t / (T - t)); the larger, the more of the ends.
    Raises ValueError for an unknown prediction type, weighting or sampling, and for epsilon with a zero terminal SNR,
    where the noise says nothing about the clip.
    """

    def __init__(
        self,
        unet: nn.Module,
        num_timesteps: int = 1000,
        prediction_type: str = "epsilon",
        loss_weighting: str = "none",
        snr_gamma: float = 5.0,
        noise_shift: float = 1.0,
        zero_terminal_snr: bool = False,
        text_dropout: float = 0.1,
        timestep_sampling: str = "uniform",
        logit_std: float = 1.0,
        noise_schedule: str = "cosine",
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        scheduler_config: dict | None = None,
        latents: bool = False,
    ):
        super().__init__()
        if scheduler_config is not None:
            num_timesteps = scheduler_config.get("num_train_timesteps", 1000)
            prediction_type = scheduler_config.get("prediction_type", "epsilon")
            zero_terminal_snr = scheduler_config.get("rescale_betas_zero_snr", False)
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type must be one of {', '.join(PREDICTION_TYPES)}, not {prediction_type!r}")
        if loss_weighting not in LOSS_WEIGHTINGS:
            raise ValueError(f"loss_weighting must be one of {', '.join(LOSS_WEIGHTINGS)}, not {loss_weighting!r}")
        if timestep_sampling not in TIMESTEP_SAMPLINGS:
            raise ValueError(
                f"timestep_sampling must be one of {', '.join(TIMESTEP_SAMPLINGS)}, not {timestep_sampling!r}"
            )
        if zero_terminal_snr and prediction_type == "epsilon":
            raise ValueError("zero_terminal_snr needs prediction_type v_prediction or sample")
        self.settings = {  # plain data that builds this object again, but for the U-Net
            "num_timesteps": num_timesteps,
            "prediction_type": prediction_type,
            "loss_weighting": loss_weighting,
            "snr_gamma": snr_gamma,
            "noise_shift": noise_shift,
            "zero_terminal_snr": zero_terminal_snr,
            "text_dropout": text_dropout,
            "timestep_sampling": timestep_sampling,
            "logit_std": logit_std,
            "noise_schedule": noise_schedule,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "scheduler_config": scheduler_config,
            "latents": latents,
        }
        self.unet = unet
        self.num_timesteps = num_timesteps
        self.prediction_type = prediction_type
        self.loss_weighting = loss_weighting
        self.snr_gamma = snr_gamma
        self.text_dropout = text_dropout
        self.timestep_sampling = timestep_sampling
        self.logit_std = logit_std
        self.latents = latents
        # Samplers get the clipped clean clip, see denoise(): every one then needs the same care at high noise, once.
        # By keyword: what diffusers is given by position it takes for a default, and other samplers would have 1000.
        if scheduler_config is None:
            scheduler_config = {
                "num_train_timesteps": num_timesteps,
                "trained_betas": make_betas(num_timesteps, noise_shift, noise_schedule, beta_start, beta_end).tolist(),
                "rescale_betas_zero_snr": zero_terminal_snr,
                "timestep_spacing": "trailing",
            }
        self.scheduler = DDPMScheduler.from_config(scheduler_config, prediction_type="sample")
        self.register_buffer("alphas_cumprod", self.scheduler.alphas_cumprod.clone(), persistent=False)

    def forward(
        self,
        videos: Tensor,
        text_embeddings: Tensor,
        mask: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        timesteps: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss: mean over the batch of w(t) * ||prediction - target||^2 (Ho et al. 2020, eq. 14, for epsilon).

        videos: (B, C, T, H, W), pixels in [-1, 1] or latents. text_embeddings: (B, L, D), mask: (B, L) or None. noise
        and timesteps are drawn unless given; a validation gives them, so that its curves can be compared. conditions:
        see models/conditions.py. Returns a scalar.
        """
        noise = torch.randn_like(videos) if noise is None else noise
        if timesteps is None:
            timesteps = self.draw_timesteps(len(videos), videos.device)
        noisy = self.add_noise(videos, noise, timesteps)
        known = {"conditions": conditions} if conditions else {}
        prediction = self.unet(noisy, timesteps, text_embeddings, mask, **known)
        errors = (prediction.float() - self.target(videos, noise, timesteps)).square().flatten(1).mean(dim=1)
        return (self.loss_weights(timesteps) * errors).mean()

    def draw_timesteps(self, count: int, device: torch.device) -> Tensor:
        """(count,) timesteps, each as timestep_sampling says, together spread evenly over its distribution: the loss of
        a batch then varies less (Kingma et al. 2021, arXiv:2107.00630, appendix I.1)."""
        places = (torch.rand((), device=device) + torch.arange(count, device=device) / count) % 1
        if self.timestep_sampling == "logit_normal":
            places = (self.logit_std * torch.special.ndtri(places)).sigmoid()
        return (places * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)

    def drop_text(self, captions: list[str]) -> list[str]:
        """The captions, each one replaced by "" with probability text_dropout while training."""
        if not self.training or self.text_dropout == 0:
            return captions
        kept = torch.rand(len(captions)) >= self.text_dropout
        return [caption if keep else "" for caption, keep in zip(captions, kept, strict=True)]

    def add_noise(self, videos: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) clip + sqrt(1 - alpha_bar) noise (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self.alpha_sigma(timesteps, videos)
        return alpha * videos + sigma * noise

    def target(self, videos: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should answer, by prediction_type."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return videos
        alpha, sigma = self.alpha_sigma(timesteps, videos)
        return alpha * noise - sigma * videos

    def predict_clip(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean clip that a prediction at x_t stands for; the inverse of target()."""
        alpha, sigma = self.alpha_sigma(timesteps, noisy)
        if self.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / alpha
        if self.prediction_type == "sample":
            return prediction
        return alpha * noisy - sigma * prediction

    def loss_weights(self, timesteps: Tensor) -> Tensor:
        """(B,) weights of the squared error of the prediction, such that the clip's error is weighed as documented."""
        alphas_cumprod = self.alphas_cumprod[timesteps]
        snr = alphas_cumprod / (1 - alphas_cumprod)
        if self.loss_weighting == "none":
            return torch.ones_like(snr)
        clip_weights = (snr if self.loss_weighting == "min_snr" else snr + 1).clamp(max=self.snr_gamma)
        # An error of the clip is an error of the noise times 1/SNR, and an error of v times 1/(SNR + 1).
        return clip_weights / {"epsilon": snr, "v_prediction": snr + 1, "sample": 1.0}[self.prediction_type]

    def alpha_sigma(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of each timestep, (B, 1, 1, 1, 1). Between two timesteps, where Euler
        may look, sigma = sqrt(1/alpha_bar - 1) is linear, as in diffusers' scheduler."""
        if timesteps.is_floating_point():
            below, above = (
                (1 / self.alphas_cumprod[each.long()] - 1).sqrt() for each in (timesteps.floor(), timesteps.ceil())
            )
            alphas_cumprod = 1 / (1 + torch.lerp(below, above, timesteps.frac()).square())
        else:
            alphas_cumprod = self.alphas_cumprod[timesteps]
        alphas_cumprod = alphas_cumprod.reshape(-1, *[1] * (like.dim() - 1))
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
