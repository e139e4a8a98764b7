"""How one's own autoencoder learns: to give back what it was given, and as a latent space that diffusion can use.

The terms are those of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, sec. 3.1 and appendix G): absolute and
squared error, a perceptual distance, a discriminator's opinion, and a weak pull of the latents towards a normal
distribution. Noise on the latents, of which the decoder must not depend, stands in for the last where diffusion's own
errors matter more than its shape.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import avg_pool3d, conv2d, leaky_relu, normalize, relu

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class AutoencoderTraining(nn.Module):
    """An autoencoder with all that its loss needs, as the one module that a trainer wraps.

    autoencoder: encode(videos).latent_dist and decode(latents).sample, see PatchAutoencoder; a single picture stands
    still for `still` frames. mse_weight: of the squared error, beside the absolute one. latent_noise: standard
    deviation of noise on the latents, in deviations of their channel. kl_weight: of the divergence from a standard
    normal distribution, mean over the numbers of the latents. perceptual, discriminator: modules or None, with weights;
    the discriminator's opinion counts from step adversarial_start on.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        still: int = 1,
        mse_weight: float = 4.0,
        latent_noise: float = 0.0,
        kl_weight: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.0,
        discriminator: nn.Module | None = None,
        adversarial_weight: float = 0.0,
    ):
        super().__init__()
        self.autoencoder, self.still, self.mse_weight = autoencoder, still, mse_weight
        self.latent_noise, self.kl_weight = latent_noise, kl_weight
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.discriminator, self.adversarial_weight = discriminator, adversarial_weight

    def forward(self, videos: Tensor, adversarial: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, its terms before they are weighted) of clips (B, 3, T, H, W) in [-1, 1].

        adversarial: whether the autoencoder listens to the discriminator yet, which learns from the start.
        """
        if videos.shape[2] == 1:
            videos = videos.repeat_interleave(self.still, dim=2)
        distribution = self.autoencoder.encode(videos).latent_dist
        latents = distribution.sample() if self.kl_weight else distribution.mode()
        if self.latent_noise:
            spread = latents.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
            latents = latents + self.latent_noise * spread * torch.randn_like(latents)
        decoded = self.autoencoder.decode(latents).sample.float()
        error = decoded - videos
        terms = {"l1": error.abs().mean(), "mse": error.square().mean()}
        loss = terms["l1"] + self.mse_weight * terms["mse"]
        if self.kl_weight:
            mean, logvar = distribution.mean.float(), distribution.logvar.float()
            terms["kl"] = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
            loss = loss + self.kl_weight * terms["kl"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(decoded, videos)
            loss = loss + self.perceptual_weight * terms["perceptual"]
        if self.discriminator is not None:
            terms["discriminator"] = hinge_loss(self.discriminator, videos, decoded.detach())
            terms["adversarial"] = -frozen(self.discriminator, decoded).mean()
            loss = loss + terms["discriminator"] + self.adversarial_weight * adversarial * terms["adversarial"]
        return loss, terms


def random_crops(videos: Tensor, size: int | None, per_clip: int = 1, choices: int = 1) -> Tensor:
    """`per_clip` times size x size pixels of each clip (B, C, T, H, W), clip after clip, or whole sides where these are
    no longer; None: all of it. Each is the most detailed of so many (`choices`): most of a frame is soon learnt."""
    if size is None:
        return videos
    sides = [min(size, side) for side in videos.shape[3:]]
    parts = []
    for video in videos:
        for _ in range(per_clip):
            found = [random_crop(video, sides) for _ in range(choices)]
            parts.append(max(found, key=detail) if choices > 1 else found[0])
    return torch.stack(parts)


def random_crop(video: Tensor, sides: list[int]) -> Tensor:
    """(height, width) pixels of a clip (C, T, H, W), wherever."""
    top, left = (int(torch.randint(side - part + 1, ())) for side, part in zip(video.shape[2:], sides, strict=True))
    return video[..., top : top + sides[0], left : left + sides[1]]


def detail(video: Tensor) -> float:
    """How much pixels of a clip (C, T, H, W) differ from those 4 to the right and 4 below, of every fourth one."""
    video = video[..., ::4, ::4]
    return sum(float(video.diff(dim=dim).abs().sum()) for dim in (2, 3))


def hinge_loss(discriminator: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """What a discriminator learns by: mean of max(0, 1 - D(real)) + max(0, 1 + D(made)) (Lim and Ye 2017)."""
    return relu(1 - discriminator(real)).mean() + relu(1 + discriminator(made)).mean()


def frozen(module: nn.Module, x: Tensor) -> Tensor:
    """module(x), whose gradient reaches x alone."""
    weights = {name: tensor.detach() for name, tensor in module.state_dict(keep_vars=True).items()}
    return functional_call(module, weights, (x,))


class PatchDiscriminator(nn.Module):
    """Says of each part of a clip (B, 3, T, H, W) whether it is real: above 0, or made: below (Isola et al. 2017,
    arXiv:1611.07004, with kernels over time as well). Returns (B, 1, T', H/8, W/8)."""

    def __init__(self, width: int = 32):
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(
            nn.Conv3d(before, after, (3, 4, 4), stride=(1, 2, 2), padding=1)
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.out = nn.Conv3d(sizes[-1], 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, videos: Tensor) -> Tensor:
        hidden = videos
        for layer in self.layers:
            hidden = leaky_relu(layer(hidden), 0.2)
            if hidden.shape[2] > 1:
                hidden = avg_pool3d(hidden, (2, 1, 1))
        return self.out(hidden)


class PerceptualDistance(nn.Module):
    """How unlike frames look to a frozen network for pictures (Zhang et al. 2018, arXiv:1801.03924, without learnt
    weights): mean over its feature maps of the squared distance of features of length 1.

    backbone: answers with .feature_maps of pictures (N, 3, H, W), as transformers' backbones do. most_frames: of a
    batch that are compared, evenly chosen.
    """

    def __init__(self, backbone: nn.Module, most_frames: int = 8):
        super().__init__()
        self.backbone, self.most_frames = backbone.requires_grad_(False).eval(), most_frames
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PerceptualDistance":
        """Nothing: it is frozen."""
        return self

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """A scalar, for clips (B, 3, T, H, W) in [-1, 1]."""
        total = 0.0
        maps = [self.backbone(self._frames(clips)).feature_maps for clips in (made, real)]
        for one, other in zip(*maps, strict=True):
            total = total + (normalize(one, dim=1) - normalize(other, dim=1)).square().sum(dim=1).mean()
        return total / len(maps[0])

    def _frames(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)
        frames = frames[:: -(-len(frames) // self.most_frames)]
        return ((frames + 1) / 2 - self.mean) / self.std


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip (B, 3, T, H, W) in [-1, 1]: -10 log10 of the mean squared error of
    values in [0, 1]; (B,)."""
    return -10 * ((made - real).float().square().flatten(1).mean(dim=1) / 4).log10()


def ssim(made: Tensor, real: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity (Wang et al. 2004, doi 10.1109/TIP.2003.819861) of each clip (B, 3, T, H, W) in [-1, 1]:
    1 for equal ones; mean over channels, frames and places where a Gaussian window of 11 px and deviation 1.5 fits."""
    places = torch.arange(window, dtype=torch.float32, device=made.device) - window // 2
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()

    def local(x: Tensor) -> Tensor:
        return conv2d(conv2d(x, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))

    x, y = ((clips.float().transpose(1, 2).flatten(0, 2)[:, None] + 1) / 2 for clips in (made, real))
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity.reshape(len(made), -1).mean(dim=1)
