"""Features of clips: modules that take videos (B, 3, T, H, W) in [-1, 1] and return (B, D): see distances.py.

Features decide what a distance means. Random3DFeatures needs no weights and sees pictures and motion, coarsely;
CLIPFeatures sees what is in the pictures; VAEFeatures their texture; neither of those two sees the order of frames.
I3DFeatures are those of FVD, and only they are. A clip's features depend on that clip alone, not on its batch.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.svd.conditioning import encode_latents

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
I3D_MIN_FRAMES = 10  # fewer do not survive the network's strides in time


def pick_frames(num_frames: int, count: int) -> list[int]:
    """Indices of `count` frames at even distances, the first and the last included; all, if there are no more."""
    return np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int).tolist()


def as_video(frames: np.ndarray) -> Tensor:
    """uint8 RGB (T, H, W, 3) or (B, T, H, W, 3) -> float32 (3, T, H, W) or (B, 3, T, H, W) in [-1, 1]."""
    if frames.dtype != np.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (T, H, W, 3), not {frames.dtype} {frames.shape}")
    return torch.from_numpy(np.moveaxis(frames, -1, -4).copy()).float() / 127.5 - 1


def _check(videos: Tensor) -> None:
    if videos.dim() != 5 or videos.shape[1] != 3 or not videos.is_floating_point():
        raise ValueError(f"videos must be float (B, 3, T, H, W) in [-1, 1], not {videos.dtype} {tuple(videos.shape)}")


class Random3DFeatures(nn.Module):
    """Roots of the means and standard deviations, over time and space, of three layers of random 3-D convolutions.

    Random weights make usable features where trained ones are missing (Naeem et al. 2020, arXiv:2002.09797, for
    images). Half of the first filters sum to zero over time, so that they answer to change alone; they are three times
    as strong, and the root is taken, so that still content does not drown them. The weights follow from the seed, the
    same on any machine: NumPy's RandomState, whose stream is frozen. D = 2 * sum(channels).

    videos: any T and any size, brought to 64x64 pixels; clips of different T are comparable only roughly.
    """

    def __init__(self, seed: int = 0, channels: tuple[int, ...] = (32, 64, 128), size: int = 64):
        super().__init__()
        self.size, self.dim = size, 2 * sum(channels)
        random, inputs = np.random.RandomState(seed), 3
        for layer, outputs in enumerate(channels):
            weight = torch.from_numpy(random.standard_normal((outputs, inputs, 3, 3, 3)))
            if layer == 0:
                weight[::2] -= weight[::2].mean(dim=2, keepdim=True)
            else:
                weight -= weight.mean(dim=(1, 2, 3, 4), keepdim=True)  # their inputs are positive
            weight /= weight.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1, 1)
            if layer == 0:
                weight[::2] *= 3
            self.register_buffer(f"weight_{layer}", weight.float(), persistent=False)
            inputs = outputs

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        _check(videos)
        x, pooled = _resize(videos.float(), self.size, self.size), []
        for weight in self.buffers():
            x = F.conv3d(F.pad(x, (1,) * 6, mode="replicate"), weight, stride=(1, 2, 2))
            x = F.relu(x) * 2  # about as strong as what came in
            pooled += [x.mean(dim=(2, 3, 4)), x.std(dim=(2, 3, 4), correction=0)]
        return torch.cat(pooled, dim=1).sqrt()


class CLIPFeatures(nn.Module):
    """CLIP's image embedding (Radford et al. 2021, arXiv:2103.00020), each of length 1, averaged over even frames.

    model: a transformers CLIPVisionModelWithProjection. Returns sqrt(D) times the average, so that x.y / D, the
    argument of the kernel distance, is the cosine. Frames are resized as CLIP's own are: short side to the model's
    size, bicubic, cut to the centre. image_mean, image_std: of the colours, where the folder says otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        num_frames: int = 8,
        image_mean: tuple[float, ...] = CLIP_MEAN,
        image_std: tuple[float, ...] = CLIP_STD,
    ):
        super().__init__()
        self.model, self.num_frames = model.eval().requires_grad_(False), num_frames
        self.register_buffer("mean", torch.tensor(image_mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).reshape(3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        embeddings = self.embed_frames(videos)
        return embeddings.mean(dim=1) * embeddings.shape[-1] ** 0.5

    @torch.no_grad()
    def embed_frames(self, videos: Tensor) -> Tensor:
        """(B, num_frames or T if that is less, D): the embedding of each picked frame, of length 1."""
        _check(videos)
        frames = videos[:, :, pick_frames(videos.shape[2], self.num_frames)].float().transpose(1, 2)
        size, (height, width) = self.model.config.image_size, frames.shape[-2:]
        scale = size / min(height, width)
        height, width = max(size, int(height * scale)), max(size, int(width * scale))
        # CLIP saw pictures of 8 bits, which end at black and white: bicubic overshoots.
        pixels = F.interpolate(frames.flatten(0, 1), (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
        top, left = (height - size) // 2, (width - size) // 2
        pixels = ((pixels[..., top : top + size, left : left + size] + 1) / 2 - self.mean) / self.std
        embeddings = self.model(pixel_values=pixels.to(self.model.dtype)).image_embeds.float()
        return F.normalize(embeddings, dim=-1).unflatten(0, frames.shape[:2])


class VAEFeatures(nn.Module):
    """Latents of even frames, as mean and standard deviation of each channel in each cell of a 4x4 grid over the frame.

    vae: a diffusers AutoencoderKL or AutoencoderKLTemporalDecoder. D = 2 * latent channels * 16. Height and width must
    be multiples of what the VAE shrinks by, 8 as a rule, and at least four times that; otherwise ValueError.
    """

    def __init__(self, vae: nn.Module, num_frames: int = 8, grid: int = 4):
        super().__init__()
        self.vae, self.num_frames, self.grid = vae.eval().requires_grad_(False), num_frames, grid

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        _check(videos)
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if any(side % factor or side < self.grid * factor for side in videos.shape[-2:]):
            height, width = videos.shape[-2:]
            raise ValueError(
                f"the VAE needs multiples of {factor}, at least {self.grid * factor}, as sides: got {width}x{height}"
            )
        frames = videos[:, :, pick_frames(videos.shape[2], self.num_frames)].float().transpose(1, 2)
        latents = encode_latents(self.vae, frames).float()  # (B, T, C, h, w)
        pool = nn.AdaptiveAvgPool2d(self.grid)
        mean = pool(latents.mean(dim=1))  # (B, C, 4, 4)
        variance = (pool(latents.square().mean(dim=1)) - mean.square()).clamp(min=0)
        return torch.cat([mean.flatten(1), variance.sqrt().flatten(1)], dim=1)


class I3DFeatures(nn.Module):
    """The 400 logits of I3D trained on Kinetics-400 that FVD is defined on (Unterthiner et al. 2018, arXiv:1812.01717).

    module: the TorchScript of Skorokhodov et al. 2022 (StyleGAN-V, arXiv:2112.14683), i3d_torchscript.pt, which takes
    (B, 3, T, H, W) in [0, 255] and resizes to 224x224 itself. At least 10 frames. Raises ValueError for fewer, and for
    a module that does not answer with (B, 400).
    """

    dim = 400

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module.eval()

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        _check(videos)
        if videos.shape[2] < I3D_MIN_FRAMES:
            raise ValueError(f"I3D needs clips of at least {I3D_MIN_FRAMES} frames, got {videos.shape[2]}")
        pixels = (videos.float().clamp(-1, 1) + 1) * 127.5
        try:
            features = self.module(pixels, rescale=True, resize=True, return_features=True)
        except (RuntimeError, TypeError) as error:  # the second for arguments that a module does not know
            raise ValueError(f"the I3D module failed: {error}") from None
        if features.shape != (len(videos), self.dim):
            raise ValueError(f"the I3D module must answer with {(len(videos), self.dim)}, not {tuple(features.shape)}")
        return features.float()


def _resize(videos: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, T, H, W) -> (B, 3, T, height, width), smoothed where it shrinks."""
    frames = videos.transpose(1, 2)
    resized = F.interpolate(frames.flatten(0, 1), (height, width), mode="bilinear", antialias=True)
    return resized.unflatten(0, frames.shape[:2]).transpose(1, 2)
