"""Pictures, batches and networks for the tests of this folder."""

import math

import numpy as np
import PIL.Image
import torch

from models.svd.conditioning import (
    Conditioning,
    draw_noise_aug,
    image_embeddings,
)
from models.svd.objective import draw_sigmas, svd_loss


def picture(seed=0, height=64, width=96):
    """A random image with structure at all scales."""
    rng = np.random.default_rng(seed)
    image = sum(
        np.kron(rng.normal(size=(height // s, width // s, 3)), np.ones((s, s, 1))) * s**0.5 for s in (1, 2, 4, 8)
    )
    return PIL.Image.fromarray(np.clip(128 + 20 * image, 0, 255).astype(np.uint8))


def to_frame(image):
    """(3, H, W) in [-1, 1], as a dataset gives it."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def random_batch(pipeline, batch_size=2, num_frames=4, side=8):
    """Latents, all arguments of make_conditioning with its draws given, sigmas and noise."""
    frames = torch.rand(batch_size, 3, 8 * side, 8 * side) * 2 - 1
    conditioning = {
        "first_frames": frames,
        "image_embeddings": image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frames),
        "fps": torch.arange(batch_size) + 7,
        "motion_bucket_ids": 60 * torch.arange(batch_size) + 20,
        "noise_aug": draw_noise_aug(batch_size),
        "noise": torch.randn_like(frames),
        "dropped": torch.zeros(batch_size, dtype=torch.bool),
    }
    latents = torch.randn(batch_size, num_frames, 4, side, side)
    return latents, conditioning, draw_sigmas(batch_size), torch.randn_like(latents)


class Answer(torch.nn.Module):
    """A network that gives the same answer to everything."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *args, **kwargs):
        return (self.answer,)


def loss_of_answer(answer, latents, sigmas, noise, kind="edm"):
    B, _, C, H, W = latents.shape
    nothing = Conditioning(torch.zeros(B, C, H, W), torch.zeros(B, 1, 32), torch.zeros(B, 3))
    return svd_loss(Answer(answer), latents, nothing, sigmas, noise, kind)


def moving_blob(num_frames=8, side=8):
    """Latents (1, T, 4, H, W) of unit variance: a bump that travels, in four channels of different sign and width."""
    t, y, x = torch.meshgrid(torch.arange(num_frames), torch.arange(side), torch.arange(side), indexing="ij")
    distance = (x - 1 - 0.75 * t).square() + (y - 5 + 0.4 * t).square()
    channels = [sign * torch.exp(-distance / width) for sign, width in ((1, 2), (-1, 4), (1, 8), (-1, 3))]
    clip = torch.stack(channels, dim=1)
    return ((clip - clip.mean()) / clip.std())[None]


def psnr(clip, target):
    peak = target.max() - target.min()
    return 10 * math.log10(peak.square() / (clip - target).square().mean())
