"""VideoAutoencoder: the autoencoders of diffusers as one kind of thing, from clips to latents and back.

Latent diffusion (Rombach et al. 2022, arXiv:2112.10752) learns in the space of a frozen autoencoder. Those for images
take a frame at a time, Stable Video Diffusion's decodes several together, those for videos fold time as well; causal
ones keep the first frame by itself. What differs is here; whoever uses one sees clips (B, 3, T, H, W) in [-1, 1] and
latents (B, C, t, h, w) of mean 0 and deviation 1 in each channel.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import diffusers
import torch
from torch import Tensor, nn

from models.patch_autoencoder import PatchAutoencoder
from models.windows import ramp, window_starts

CLASSES = (
    "AutoencoderKL",
    "AutoencoderTiny",
    "AutoencoderDC",
    "AutoencoderKLTemporalDecoder",
    "AutoencoderKLLTXVideo",
    "AutoencoderKLWan",
    "AutoencoderKLCogVideoX",
    "PatchAutoencoder",
)
DECODE_BYTES = 4 * 2**30
LIVE_ACTIVATIONS = 8  # as large as the largest one, that a decoder has at once
LEAST_TILE = 16  # latents
TILE_OVERLAP = 4  # of its side: a quarter


class Layout(NamedTuple):
    """What an autoencoder makes of a clip; latent_frames: how many it makes of T frames, None if it takes no T."""

    channels: int
    space: int  # sides of a frame to those of a latent frame
    latent_frames: Callable[[int], int | None]
    by_frame: bool = False  # it encodes each frame by itself
    still: int = 1  # frames that a single picture is shown as

    @property
    def time(self) -> int:
        """Frames of a long clip to its latent frames."""
        num_frames = next(n for n in (257, 256) if self.latent_frames(n))
        return round(num_frames / self.latent_frames(num_frames))


def _each_frame(num_frames: int) -> int | None:
    return num_frames


def _causal(fold: int) -> Callable[[int], int | None]:
    """The first frame, then `fold` of them together."""
    return lambda num_frames: None if (num_frames - 1) % fold else 1 + (num_frames - 1) // fold


def _folded(fold: int) -> Callable[[int], int | None]:
    """`fold` frames together; a single picture stands still for so long."""
    return lambda num_frames: 1 if num_frames == 1 else None if num_frames % fold else num_frames // fold


def _cogvideox(num_frames: int) -> int | None:
    """Two latent frames at a time, an odd one in front (see its decoder)."""
    return None if num_frames % 8 > 1 else num_frames // 4 + num_frames % 8


def class_of(name: str) -> type[nn.Module]:
    """Raises ValueError for a name that is not among CLASSES."""
    if name not in CLASSES:
        raise ValueError(f"{name} is none of {', '.join(CLASSES)}")
    return PatchAutoencoder if name == "PatchAutoencoder" else getattr(diffusers, name)


def layout_of(vae: nn.Module) -> Layout:
    """Raises ValueError for a class that is not among CLASSES, and for one that does not take RGB."""
    name, config = type(vae).__name__, vae.config
    class_of(name)
    if config.in_channels != 3:
        raise ValueError(f"it takes {config.in_channels} channels, and a frame has 3")
    if name == "AutoencoderKLWan":
        space = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        return Layout(config.z_dim, space, _causal(2 ** sum(config.temperal_downsample)))
    if name == "PatchAutoencoder":
        fold, space = config.patch_size
        return Layout(config.latent_channels, space, _folded(fold), still=fold)
    if name == "AutoencoderKLLTXVideo":
        if config.patch_size_t != 1:
            raise ValueError("diffusers has no decoder for an LTX autoencoder with patches in time (patch_size_t)")
        fold, space = vae.temporal_compression_ratio, vae.spatial_compression_ratio
        return Layout(config.latent_channels, space, _causal(fold))
    if name == "AutoencoderKLCogVideoX":
        return Layout(config.latent_channels, 2 ** (len(config.block_out_channels) - 1), _cogvideox)
    if name == "AutoencoderDC":
        return Layout(config.latent_channels, vae.spatial_compression_ratio, _each_frame, True)
    stages = config.encoder_block_out_channels if name == "AutoencoderTiny" else config.block_out_channels
    return Layout(config.latent_channels, 2 ** (len(stages) - 1), _each_frame, True)


class VideoAutoencoder(nn.Module):
    """An autoencoder of one of CLASSES, which nothing here trains: it stays in the mode in which it is given.

    mean, std: (C,) of its latents, by default those that its own configuration knows; see `measure`.
    load: gives the model itself when it is first needed; `vae` then says only what it is, without weights (on torch's
    meta device), and `unload` lets it go again.
    memory_limit: bytes that decoding may take beside weights and result: frames are decoded so many at a time, and in
    tiles where even that is too much. Raises ValueError, see `layout_of`.
    """

    def __init__(
        self,
        vae: nn.Module,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        memory_limit: int = DECODE_BYTES,
        load: Callable[[], nn.Module] | None = None,
    ):
        super().__init__()
        self.layout, self.memory_limit, self.load = layout_of(vae), memory_limit, load
        self.kind, self.config, self.dtype = type(vae).__name__, vae.config, vae.dtype
        self.vae = None if load else vae
        own_mean, own_std = statistics_of(vae)
        self.register_buffer("mean", own_mean if mean is None else mean.float(), persistent=False)
        self.register_buffer("std", own_std if std is None else std.float(), persistent=False)
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels")
        self.largest_activation = largest_activation(vae)

    def train(self, mode: bool = True) -> "VideoAutoencoder":
        """Nothing: it stays as it is."""
        return self

    @property
    def channels(self) -> int:
        return self.layout.channels

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, t, h, w) of a clip's latents. Raises ValueError that says what would fit."""
        space = self.layout.space
        if height % space or width % space:
            raise ValueError(f"frames of {width}x{height}: the autoencoder needs sides that divide by {space}")
        frames = self.layout.latent_frames(num_frames)
        if frames is None:
            near = [n for n in range(1, num_frames + 17) if self.layout.latent_frames(n) is not None]
            below, above = max(n for n in near if n < num_frames), min(n for n in near if n > num_frames)
            raise ValueError(f"{num_frames} frames: the autoencoder takes {below} or {above}")
        return self.channels, frames, height // space, width // space

    def encode(self, videos: Tensor) -> Tensor:
        """Normalised latents (B, C, t, h, w), float32, of clips (B, 3, T, H, W) in [-1, 1]: the mode of what an
        encoder with a distribution answers, so that the same clip is the same latents."""
        return self.normalised(self.encode_raw(videos))

    def normalised(self, raw: Tensor) -> Tensor:
        """Latents (B, C, t, h, w) as encode_raw gives them, with mean 0 and deviation 1."""
        return (raw - self._per_channel(self.mean)) / self._per_channel(self.std)

    @torch.no_grad()
    def encode_raw(self, videos: Tensor) -> Tensor:
        """The same before they are normalised."""
        self._weights()
        _, frames, height, width = self.latent_shape(*videos.shape[2:])
        if videos.shape[2] == 1:
            videos = videos.repeat_interleave(self.layout.still, dim=2)
        pixels = videos.to(self.dtype)
        with torch.autocast(videos.device.type, enabled=False):  # a cache holds what training would encode, to the bit
            if self.layout.by_frame:
                pictures = pixels.transpose(1, 2).flatten(0, 1)
                at_once, side = self._parts(*pictures.shape[2:])
                parts = [self._in_tiles(self._encode, part, side, False) for part in pictures.split(at_once)]
                latents = torch.cat(parts).unflatten(0, (len(videos), frames)).transpose(1, 2)
            else:
                side = self._parts(*pixels.shape[3:], frames=pixels.shape[2])[1]
                latents = torch.cat([self._in_tiles(self._encode, clip, side, False) for clip in pixels.split(1)])
        return latents.float()

    @torch.no_grad()
    def decode(self, latents: Tensor, num_frames: int | None = None) -> Tensor:
        """Clips (B, 3, T, H, W) in [-1, 1], float32, of normalised latents (B, C, t, h, w); at most num_frames."""
        self._weights()
        latents = latents.float() * self._per_channel(self.std) + self._per_channel(self.mean)
        latents = latents.to(self.dtype)
        with self._precision(latents.device):
            clips = [self._decoded_clip(clip[None]) for clip in latents]
        return torch.cat(clips)[:, :, :num_frames].float().clamp(-1, 1)

    def _decoded_clip(self, latents: Tensor) -> Tensor:
        space = self.layout.space
        height, width = (side * space for side in latents.shape[3:])
        if self.layout.by_frame:
            at_once, side = self._parts(height, width)
            pictures = latents[0].transpose(0, 1).split(at_once)
            frames = torch.cat([self._in_tiles(self._decode, part, side, True) for part in pictures])
            return frames.transpose(0, 1)[None]
        frames = next(n for n in range(1, 10**6) if self.layout.latent_frames(n) == latents.shape[2])
        return self._in_tiles(self._decode, latents, self._parts(height, width, frames)[1], True)

    @torch.no_grad()
    def measure(self, latents: Iterable[Tensor]) -> None:
        """Take mean and deviation of each channel from latents (C, t, h, w) of encode_raw. Raises ValueError if there
        are none, or if a channel never changes."""
        count, total, squares = 0, 0.0, 0.0
        for each in latents:
            values = each.to(self.mean.device).flatten(1).double()
            count, total, squares = count + values.shape[1], total + values.sum(1), squares + values.square().sum(1)
        if not count:
            raise ValueError("there are no latents to be measured")
        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        if not (std > 1e-6).all():
            raise ValueError(f"channel {int(std.argmin())} of the autoencoder's latents is the same in all clips")
        self.mean, self.std = mean.float(), std.float()

    # ------------------------------------------------------------------------------------------------- how it is done

    def _weights(self) -> None:
        if self.vae is None:
            self.vae = self.load().requires_grad_(False).eval().to(self.mean.device)

    def unload(self) -> None:
        """Let go what was loaded; it can be loaded again."""
        if self.load is not None:
            self.vae = None

    def _per_channel(self, values: Tensor) -> Tensor:
        return values.reshape(-1, 1, 1, 1)

    def _encode(self, pixels: Tensor) -> Tensor:
        found = self.vae.encode(pixels)
        if hasattr(found, "latent_dist"):
            return found.latent_dist.mode()
        return found.latents if hasattr(found, "latents") else found.latent

    def _decode(self, latents: Tensor) -> Tensor:
        return _decode(self.vae, latents)

    def _precision(self, device: torch.device) -> AbstractContextManager:
        """Without autocast where an autoencoder asks for its own precision: Stable Diffusion's overflows in float16."""
        if getattr(self.config, "force_upcast", False):
            return torch.autocast(device.type, enabled=False)
        return nullcontext()

    def _parts(self, height: int, width: int, frames: int = 1) -> tuple[int, int]:
        """(groups of `frames` frames to be taken at once, side in latents of the tiles that keep to the limit)."""
        space = self.layout.space
        per_pixel = self.largest_activation * LIVE_ACTIVATIONS * self.dtype.itemsize
        at_once = int(self.memory_limit / (per_pixel * frames * height * width))
        if at_once:
            return at_once, max(height, width) // space
        return 1, max(LEAST_TILE, int((self.memory_limit / (per_pixel * frames)) ** 0.5) // space)

    def _in_tiles(self, function: Callable[[Tensor], Tensor], x: Tensor, side: int, decoding: bool) -> Tensor:
        """function(x), from overlapping tiles of x (..., H, W) with sides of `side` latents."""
        space = self.layout.space
        given, made = (1, space) if decoding else (space, 1)
        rows, columns = (window_starts(length // given, side, side // TILE_OVERLAP) for length in x.shape[-2:])
        if len(rows) == len(columns) == 1:
            return function(x)
        total = weights = None
        for top in rows:
            for left in columns:
                part = function(x[..., top * given : (top + side) * given, left * given : (left + side) * given])
                ramps = [ramp(length, side // TILE_OVERLAP * made, part) for length in part.shape[-2:]]
                weight = ramps[0][:, None] * ramps[1]
                if total is None:
                    height, width = (length // given * made for length in x.shape[-2:])
                    total, weights = part.new_zeros(*part.shape[:-2], height, width), part.new_zeros(height, width)
                place = ..., slice(top * made, (top + side) * made), slice(left * made, (left + side) * made)
                total[place] += part * weight
                weights[place] += weight
        return total / weights


def _decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Frames of latents as the class has them: (N, C, h, w), or of video (1, C, t, h, w)."""
    if type(vae).__name__ == "AutoencoderKLTemporalDecoder":
        return vae.decode(latents, num_frames=len(latents)).sample
    return vae.decode(latents).sample


def statistics_of(vae: nn.Module) -> tuple[Tensor, Tensor]:
    """(mean, std), (C,) each, of an autoencoder's latents as its own configuration has them."""
    channels = layout_of(vae).channels
    mean, std = (getattr(vae.config, f"latents_{name}", None) for name in ("mean", "std"))
    buffers = dict(vae.named_buffers(recurse=False))
    if "latents_mean" in buffers and not buffers["latents_mean"].is_meta:
        mean, std = buffers["latents_mean"], buffers["latents_std"]
    scale = getattr(vae.config, "scaling_factor", None) or 1.0
    if mean is not None and std is not None:
        return torch.as_tensor(mean).float().clone(), torch.as_tensor(std).float() / scale
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return torch.full((channels,), float(shift)), torch.full((channels,), 1.0 / scale)


def largest_activation(vae: nn.Module) -> float:
    """Numbers in the largest output of a module of the decoder, for each pixel of a frame; nothing is computed."""
    layout, sizes = layout_of(vae), []
    with torch.device("meta"):
        twin = type(vae).from_config(vae.config).eval().to("meta")  # some make their buffers on the CPU
        frames = 2 if layout.by_frame else layout.latent_frames(next(n for n in (17, 16) if layout.latent_frames(n)))
        shape = (1, layout.channels, frames, 8, 8)
        latents = torch.zeros(shape[0] * frames, shape[1], *shape[3:]) if layout.by_frame else torch.zeros(shape)

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        tensors = [output] if isinstance(output, Tensor) else [each for each in output if isinstance(each, Tensor)]
        sizes.extend(each.numel() for each in tensors)

    for module in twin.modules():
        if not list(module.children()):
            module.register_forward_hook(note)
    with torch.no_grad(), torch.device("meta"):
        decoded = _decode(twin, latents)
    return max(sizes) / (decoded.numel() / 3)
