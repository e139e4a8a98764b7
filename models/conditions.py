"""Conditions: what is known of a clip enters the network beside the noise.

Three kinds: known frames and places with their mask, as for inpainting (Rombach et al. 2022, arXiv:2112.10752); dense
maps per frame (depth, edges, segmentation, flow, a sketch); vectors per frame (actions, sound, camera, speed). Each has
layers of its own whose last begins at zero (Zhang et al. 2023, arXiv:2302.05543), and none has a bias: a network that
gets a condition answers as before, to the bit, until it is trained, and always does so where a condition is absent.

"Given" below is {name: tensor} on the network's own grid, of latents where it has any: "known" and maps
(B, C, t, h, w), vectors (B, t, D). Zeros mean absent.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle, silu
from torch.utils.hooks import RemovableHandle

from models.layers import zero_init

KNOWN = "known"
VECTOR_WAVES = 3  # of each number of a vector: sines and cosines of 1, 2 and 4 times its deviations
FRAMES_OF_A_SUM = 4  # sums are in so many deviations: a step that lasts so long counts as one


@dataclass(frozen=True)
class ConditionSettings:
    """The conditions of a network, as plain data that a model file keeps.

    known: whether it takes known frames and places. maps: {name: channels}. vectors: {name: {"names": of its numbers,
    "mean": [...], "std": [...]}}, by which they are normalised. fold: frames and px that make a place of the grid,
    (1, 1) for pixels. tasks: {task: share} of its training, see models/diffusion/tasks.py. sums: whether vectors come
    with their sums from the first frame on (where steps have led to) and, in the U-Nets of diffusers, steer every
    block; models of before there were sums have vectors join the first layer's output there.
    """

    known: bool = False
    maps: dict[str, int] = field(default_factory=dict)
    vectors: dict[str, dict] = field(default_factory=dict)
    fold: tuple[int, int] = (1, 1)
    tasks: dict[str, float] = field(default_factory=dict)
    sums: bool = False

    @property
    def names(self) -> list[str]:
        return [KNOWN] * self.known + [*self.maps, *self.vectors]

    def channels(self, clip_channels: int) -> dict[str, int]:
        """{name: numbers that one place of its grid, or one step in time, holds}."""
        frames, side = self.fold
        place = frames * side**2
        found = {KNOWN: clip_channels + place} if self.known else {}
        found |= {name: count * place + 1 for name, count in self.maps.items()}
        return found | {name: (len(about["names"]) + 1) * frames for name, about in self.vectors.items()}

    def plain(self) -> dict:
        found = asdict(self) | {"fold": list(self.fold)}
        if not self.sums:
            del found["sums"]  # which older programs do not know
        return found

    @classmethod
    def from_plain(cls, found: dict) -> "ConditionSettings":
        return cls(**found | {"fold": tuple(found["fold"])})


class ConditionEncoder(nn.Module):
    """What a network adds to its first layer's output and to its embedding of each frame.

    clip_channels, patch_size: of the network. width: channels of its first layer. frame_dim: of the embedding that
    steers each frame; None for a network that has one for all frames: vectors then join the first layer's output.
    Raises ValueError for names that are no words.
    """

    def __init__(
        self, settings: ConditionSettings, clip_channels: int, patch_size: int, width: int, frame_dim: int | None = None
    ):
        super().__init__()
        if wrong := [name for name in settings.names if not name.isidentifier()]:
            raise ValueError(f"a condition is called {wrong[0]!r}; use letters, digits and _")
        self.settings, self.patch_size, self.joined = settings, patch_size, frame_dim is None
        self.sizes = settings.channels(clip_channels)
        self.grids = nn.ModuleDict(
            {
                name: GridEncoder(count * patch_size**2, width)
                for name, count in self.sizes.items()
                if name not in settings.vectors
            }
        )
        frames = settings.fold[0]
        self.frames = nn.ModuleDict(
            {
                name: FrameEncoder(self.sizes[name], frames, frame_dim or width, settings.sums)
                for name in settings.vectors
            }
        )

    def forward(self, given: dict[str, Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """(to be added after the first layer (B, width, t, h', w'), to each frame's embedding (B, t, frame_dim)), each
        None where nothing of its kind is given. Raises ValueError for a condition that the network does not know, and
        for one of another width."""
        for name, tensor in given.items():
            if name not in self.sizes:
                raise ValueError(f"no condition {name!r}: this model knows {', '.join(self.sizes)}")
            width = tensor.shape[-1 if name in self.frames else 1]
            if width != self.sizes[name]:
                raise ValueError(
                    f"condition {name!r} has {width} numbers, the model was trained with {self.sizes[name]}"
                )
        grids = [self.grids[name](_in_patches(x, self.patch_size)) for name, x in given.items() if name in self.grids]
        frames = [self.frames[name](x) for name, x in given.items() if name in self.frames]
        if self.joined and frames:
            grids += [each.transpose(1, 2)[..., None, None] for each in frames]
            frames = []
        return sum(grids) if grids else None, sum(frames) if frames else None


class GridEncoder(nn.Module):
    """Places (B, in_channels, t, h, w) -> (B, width, t, h, w); zero at the start, and wherever its input is."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.conv_in = nn.Conv3d(in_channels, width, 1, bias=False)
        self.conv_out = zero_init(nn.Conv3d(in_channels + width, width, (1, 3, 3), padding=(0, 1, 1), bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(torch.cat([x, silu(self.conv_in(x))], dim=1))


class FrameEncoder(nn.Module):
    """Vectors (B, t, frames * (D + 1)), of `frames` frames a step, each with a 1 where it is present, -> (B, t, width);
    zero at the start, and wherever its input is.

    What a number says is often a place, of which a network makes more when it gets waves of it (Tancik et al. 2020,
    arXiv:2006.10739). sums: of the numbers from the first frame on, with waves of their own.
    """

    def __init__(self, in_features: int, frames: int, width: int, sums: bool = False):
        super().__init__()
        self.in_frames, self.sums = frames, sums
        numbers = (in_features - frames) * (2 if sums else 1)
        features = frames + numbers * (1 + 2 * VECTOR_WAVES)
        self.linear_in = nn.Linear(features, width, bias=False)
        self.linear_out = zero_init(nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        values, present = x.unflatten(2, (self.in_frames, -1)).split([x.shape[2] // self.in_frames - 1, 1], dim=3)
        if self.sums:
            sums = values.flatten(1, 2).cumsum(1).unflatten(1, values.shape[1:3]) / FRAMES_OF_A_SUM
            values = torch.cat([values, sums], dim=3)
        angles = torch.cat([values * 2**n for n in range(VECTOR_WAVES)], dim=3)
        features = torch.cat([values, angles.sin() * present, angles.cos() * present, present], dim=3)
        return self.linear_out(silu(self.linear_in(features.flatten(2))))


def steer_blocks(unet: nn.Module, added: Callable[[Tensor], Tensor | None]) -> list[RemovableHandle]:
    """Let each block of a U-Net of diffusers have, in its embedding of every frame (B*T, D), what `added` makes of that
    one besides, None for nothing; until the handles are removed."""

    def steer(block: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict] | None:
        embedding = named["temb"] if "temb" in named else inputs[1]
        more = added(embedding)
        if more is None:
            return None
        if "temb" in named:
            return inputs, named | {"temb": embedding + more}
        return (inputs[0], embedding + more, *inputs[2:]), named

    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [block.register_forward_pre_hook(steer, with_kwargs=True) for block in blocks if block is not None]


def _in_patches(x: Tensor, p: int) -> Tensor:
    """(B, C, t, h, w) -> (B, C*p*p, t, h/p, w/p)."""
    return x if p == 1 else pixel_unshuffle(x.transpose(1, 2), p).transpose(1, 2)


def settings_of(network: nn.Module) -> ConditionSettings:
    """The conditions that a network takes; none without `add_conditions`."""
    encoder = getattr(network, "conditions", None)
    return ConditionSettings() if encoder is None else encoder.settings


def kept_places(given: dict[str, Tensor], channels: int) -> tuple[Tensor, Tensor] | None:
    """(clips (B, C, t, h, w), (B, 1, t, h, w), 1 where all of a place is known) of what is given; None without."""
    if KNOWN not in given:
        return None
    return given[KNOWN][:, :channels], given[KNOWN][:, channels:].amin(dim=1, keepdim=True)


def without(given: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The same with one condition absent."""
    return given | {name: torch.zeros_like(given[name])}


def stacked(branches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Givens with the same names as one batch."""
    branches = list(branches)
    return {name: torch.cat([branch[name] for branch in branches]) for name in branches[0]}


def steps_of(given: Tensor) -> int:
    """In time, of what is given."""
    return given.shape[1 if given.dim() == 3 else 2]


def some_steps(given: dict[str, Tensor], place: slice) -> dict[str, Tensor]:
    """What is given of these steps in time."""
    return {name: x[:, place] if x.dim() == 3 else x[:, :, place] for name, x in given.items()}
