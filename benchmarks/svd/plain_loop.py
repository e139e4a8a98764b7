"""The recipe by which people fine-tune SVD today, that of SVD_Xtend, as a loop over diffusers and nothing of ours.

All U-Net weights are float32, those of the transformers over time learn, and all have a moving average; VAE and CLIP
are in half precision and read every frame in every step; recomputation is that of enable_gradient_checkpointing(). The
objective is Karras et al.'s (2022, arXiv:2206.00364) with SVD's preconditioning: ln sigma ~ N(0.7, 1.6), and noise on
the first frame with ln sigma ~ N(-3, 0.5), which is dropped in a tenth of the clips.
"""

import math
from typing import TYPE_CHECKING

from benchmarks.svd.recipes import Clip

if TYPE_CHECKING:
    from torch import Tensor


class PlainLoop:
    """A step on one random clip, called. pipeline: on its device; it is changed. bf16: else all is float32."""

    def __init__(self, pipeline, clip: Clip, bf16: bool):
        import torch
        from diffusers.training_utils import EMAModel

        self.vae, self.unet, self.image_encoder = pipeline.vae, pipeline.unet, pipeline.image_encoder
        self.device, self.dtype = self.vae.device, torch.bfloat16 if bf16 else torch.float32
        for module in (self.vae, self.image_encoder):
            module.requires_grad_(False).to(self.dtype)
        for name, parameter in self.unet.named_parameters():
            parameter.requires_grad_("temporal_transformer_block" in name)
        self.unet.train().enable_gradient_checkpointing()
        self.parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=1e-2)
        self.ema = EMAModel(self.unet.parameters())
        self.frames = torch.rand(1, clip.num_frames, 3, clip.height, clip.width, device=self.device) * 2 - 1

    def __call__(self) -> float:
        import torch

        inputs = self.inputs()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.loss(*inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.unet.parameters())
        return loss.item()

    def inputs(self) -> tuple:
        """Latents, their noise and its sigma; image latents and embedding; time ids: all that is drawn or encoded."""
        import torch
        from torch.nn.functional import interpolate

        with torch.no_grad():
            latents = self.vae.encode(self.frames.flatten(0, 1).to(self.dtype)).latent_dist.sample()
            latents = latents.float()[None] * self.vae.config.scaling_factor
            first = self.frames[:, 0]
            strength = math.exp(torch.randn(()).item() * 0.5 - 3)
            noisy_first = (first + strength * torch.randn_like(first)).to(self.dtype)
            image_latents = self.vae.encode(noisy_first).latent_dist.mode().float()
            pixels = interpolate(first, (224, 224), mode="bicubic", antialias=True)
            embeddings = self.image_encoder(pixels.to(self.dtype)).image_embeds[:, None].float()
        if torch.rand(()).item() < 0.1:
            image_latents, embeddings = torch.zeros_like(image_latents), torch.zeros_like(embeddings)
        sigma = math.exp(torch.randn(()).item() * 1.6 + 0.7)
        time_ids = torch.tensor([[6.0, 127.0, strength]], device=self.device)
        return latents, torch.randn_like(latents), sigma, image_latents, embeddings, time_ids

    def loss(
        self,
        latents: "Tensor",
        noise: "Tensor",
        sigma: float,
        image_latents: "Tensor",
        embeddings: "Tensor",
        time_ids: "Tensor",
    ) -> "Tensor":
        """The error of the denoised clip, weighed by (1 + sigma^2) / sigma^2."""
        import torch

        noisy = latents + sigma * noise
        known = image_latents[:, None].expand(-1, latents.shape[1], -1, -1, -1)
        sample = torch.cat([noisy / math.sqrt(sigma**2 + 1), known], dim=2)
        timestep = torch.tensor([0.25 * math.log(sigma)], device=latents.device)
        answer = self.unet(sample, timestep, embeddings, added_time_ids=time_ids).sample
        denoised = noisy / (sigma**2 + 1) - answer * sigma / math.sqrt(sigma**2 + 1)
        return ((1 + sigma**2) / sigma**2 * (denoised.float() - latents).square()).mean()
