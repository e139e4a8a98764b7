"""Building blocks of UNet3D: residual blocks, transformers over space and text, attention over time.

The spatial half of every block carries the parameter names of diffusers' UNet2DConditionModel (which is Rombach et al.
2022, arXiv:2112.10752), so that an image model can be loaded into it. What a video needs on top starts as the identity:
temporal convolution taps and temporal attention outputs are zero, and position features enter through zero weights.
Features are (B, C, T, H, W) between blocks. Whatever is not temporal treats the frames as a batch of images.
"""

import math
from functools import cache
from itertools import product

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu


def fold_time(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W): a video as a batch of images."""
    return x.transpose(1, 2).flatten(0, 1)


def unfold_time(x: Tensor, num_frames: int) -> Tensor:
    """(B*T, C, H, W) -> (B, C, T, H, W), the inverse of fold_time."""
    return x.unflatten(0, (-1, num_frames)).transpose(1, 2)


def zero_init(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def unit_init(module: nn.Module) -> nn.Module:
    """Weights that keep the scale of what passes. PyTorch's own shrink it at each layer, and behind a zero layer such
    faint signals take hundreds of steps to be heard."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return module


# The 13 directions of waves in (t, y, x), opposite ones counted once: along an axis, and across two or three of them.
WAVES = [wave for wave in product((0, 1, -1), repeat=3) if wave > (0, 0, 0)]
POSITION_BANDS = 3
POSITION_DIM = 3 + 2 * len(WAVES) * POSITION_BANDS


def fourier_features(num_frames: int, height: int, width: int, device=None) -> Tensor:
    """Where and when each cell is: (T, H, W, POSITION_DIM) features of its normalised (t, y, x) in [-1, 1].

    Cell centres are (2i + 1)/n - 1, so one set of weights serves any number of frames and any size. The features are
    the coordinates and plane waves sin and cos of (pi/2) 2^k w.(t, y, x) (Tancik et al. 2020, arXiv:2006.10739) in the
    directions w of WAVES. Waves across time and space, cos(x - t), travel: a linear map of them is "moving right",
    which takes a product of three things to be learnt, and hundreds of steps more, where each axis has its own waves.
    """
    axes = [(2 * torch.arange(n, device=device) + 1) / n - 1 for n in (num_frames, height, width)]
    coordinates = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (T, H, W, 3)
    waves = coordinates @ _waves(coordinates.dtype, coordinates.device).T
    angles = (waves[..., None] * (math.pi / 2 * 2.0 ** torch.arange(POSITION_BANDS, device=device))).flatten(-2)
    return torch.cat([coordinates, angles.sin(), angles.cos()], dim=-1)


@cache
def _waves(dtype: torch.dtype, device: torch.device) -> Tensor:
    """WAVES as (13, 3). Kept, because a GPU that is sent it in every step has to wait for it."""
    return torch.tensor(WAVES, dtype=dtype, device=device)


class FrameGroupNorm(nn.GroupNorm):
    """Group normalisation of each frame by itself, as in the image model: no frame sees another through it."""

    def forward(self, x: Tensor) -> Tensor:
        return unfold_time(super().forward(fold_time(x)), x.shape[2])


def spatial_conv(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Conv3d:
    """A 2-D convolution applied to each frame; its 5-D weight is the 2-D weight with one temporal tap."""
    return nn.Conv3d(in_channels, out_channels, (1, kernel, kernel), (1, stride, stride), (0, kernel // 2, kernel // 2))


def spacetime_conv(in_channels: int, out_channels: int) -> nn.Conv3d:
    """A 3x3x3 convolution that starts as a 3x3 one: the taps on the previous and the next frame are zero."""
    conv = nn.Conv3d(in_channels, out_channels, 3, padding=1)
    with torch.no_grad():
        conv.weight[:, :, [0, 2]] = 0
        conv.weight[:, :, 1] *= math.sqrt(3)  # the fan-in that counts at the start is 9 taps, not 27
    return conv


def patchify(x: Tensor, p: int) -> Tensor:
    """(B, C, T, H, W) -> (B, C*p*p, T, H/p, W/p)."""
    return x if p == 1 else pixel_unshuffle(x.transpose(1, 2), p).transpose(1, 2)


def unpatchify(x: Tensor, p: int) -> Tensor:
    return x if p == 1 else pixel_shuffle(x.transpose(1, 2), p).transpose(1, 2)


class PixelHead(nn.Module):
    """What a network of patches cannot say of single pixels, added to what it says: convolutions at full resolution
    over features that its last layer unfolds, and over the noisy clip itself. It starts as zero.

    One linear layer from the features of a patch to its pixels leaves errors that no step of sampling takes away, at
    low noise too, where the clip could almost be copied: outlines fray and backgrounds flicker.
    """

    def __init__(
        self, channels: int, hidden: int, in_channels: int, out_channels: int, emb_channels: int, patch_size: int
    ):
        super().__init__()
        self.patch_size = patch_size
        self.proj_in = spatial_conv(channels, hidden * patch_size**2, 1)
        self.conv_in = spatial_conv(hidden + in_channels, hidden)
        self.time_emb_proj = zero_init(nn.Linear(emb_channels, 2 * hidden))
        self.conv = spatial_conv(hidden, hidden)
        self.conv_out = zero_init(spatial_conv(hidden, out_channels))

    def forward(self, x: Tensor, sample: Tensor, emb: Tensor) -> Tensor:
        """x: (B, channels, T, H/p, W/p) features; sample: (B, in_channels, T, H, W); emb: (B, T or 1, emb_channels)."""
        x = self.conv_in(torch.cat([unpatchify(self.proj_in(x), self.patch_size), sample], dim=1))
        scale, shift = self.time_emb_proj(silu(emb)).transpose(1, 2)[..., None, None].chunk(2, dim=1)
        x = silu(x * (1 + scale) + shift)
        return self.conv_out(silu(self.conv(x)))


class TextPooling(nn.Module):
    """A caption as one vector: learned queries each pick what they care about (Lin et al. 2017, arXiv:1703.03130).

    A mean over the tokens would bury the one word that says where to go. context: (B, L, D), mask: (B, L) bool or None;
    returns (B, num_queries * D).
    """

    def __init__(self, dim: int, num_queries: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.scores = nn.Linear(dim, num_queries, bias=False)
        nn.init.normal_(self.scores.weight, std=3 * dim**-0.5)  # decided from the start, each about other tokens

    def forward(self, context: Tensor, mask: Tensor | None) -> Tensor:
        context = self.norm(context)
        scores = self.scores(context).float()  # (B, L, queries)
        if mask is not None:
            scores = scores.masked_fill(~(mask | ~mask.any(dim=1, keepdim=True))[..., None], -torch.inf)
        return (scores.softmax(dim=1).to(context.dtype).transpose(1, 2) @ context).flatten(1)


class ResnetBlock3D(nn.Module):
    """norm, SiLU, convolution, twice, with the embedding of timestep, text and frame added (or as scale and shift).

    conv_type "full" convolves space and time together (3x3x3); "factorised" convolves each frame (1x3x3) and then
    time (3x1x1), about half the multiplications (the (2+1)D of Tran et al. 2018, arXiv:1711.11248).
    x: (B, in_channels, T, H, W), emb: (B, T, emb_channels) -> (B, out_channels, T, H, W).
    """

    def __init__(self, in_channels, out_channels, emb_channels, groups, eps, scale_shift, conv_type):
        super().__init__()
        conv = spacetime_conv if conv_type == "full" else spatial_conv
        self.scale_shift = scale_shift
        self.norm1 = FrameGroupNorm(groups, in_channels, eps)
        self.conv1 = conv(in_channels, out_channels)
        self.time_emb_proj = nn.Linear(emb_channels, out_channels * (2 if scale_shift else 1))
        self.norm2 = FrameGroupNorm(groups, out_channels, eps)
        self.conv2 = conv(out_channels, out_channels)
        self.conv_shortcut = spatial_conv(in_channels, out_channels, 1) if in_channels != out_channels else None
        if conv_type == "factorised":
            self.temporal_norm = FrameGroupNorm(groups, out_channels, eps)
            self.temporal_conv = zero_init(nn.Conv3d(out_channels, out_channels, (3, 1, 1), padding=(1, 0, 0)))
        else:
            self.temporal_conv = None

    def forward(self, x: Tensor, emb: Tensor, over_time: bool = True) -> Tensor:
        emb = self.time_emb_proj(silu(emb)).transpose(1, 2)[..., None, None]  # (B, C or 2C, T, 1, 1)
        hidden = self.conv1(silu(self.norm1(x)))
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + emb)
        hidden = self.conv2(silu(hidden))
        if self.temporal_conv is not None and over_time:
            hidden = hidden + self.temporal_conv(silu(self.temporal_norm(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of x (N, Lq, C) to context (N, Lk, context_dim), or to itself.

    mask: (N, Lk) bool, True where a context token may be seen; a row without any True sees all. block: of itself, a
    token sees the `block` tokens around it alone, see attend_nearby. Returns (N, Lq, C).
    """

    def __init__(self, channels: int, num_heads: int, context_dim: int | None = None):
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels cannot be split over num_attention_heads={num_heads}")
        self.num_heads = num_heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim or channels, channels, bias=False)
        self.to_v = nn.Linear(context_dim or channels, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])  # a list only because diffusers calls it to_out.0

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, block: int | None = None
    ) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, L, C/heads)
            for tokens in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        if mask is not None:
            mask = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]  # (N, 1, 1, Lk)
        nearby = block is not None and block < x.shape[1]
        found = attend_nearby(q, k, v, block) if nearby else attend(q, k, v, mask)
        return self.to_out[0](found.transpose(1, 2).flatten(2))


# What the fused kernels of CUDA take at once: a launch has at most so many blocks along a dimension (pytorch/pytorch
# issue 146704), and the backward pass of flash attention counts its elements, with queries filled up to 128 and heads
# to 32, in 31 bits. Attention over time has a batch of all places of all clips: 65,536 for 4 clips of 256x256.
MOST_BATCH, MOST_ELEMENTS = 2**16 - 1, 2**31 - 1


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, (N, heads, Lq, d). On a CPU in bfloat16 the fused kernel is several times slower than
    its definition; a batch that is too large for those of a GPU is taken in parts."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        N, heads, length, dim = q.shape
        most = max(1, min(MOST_BATCH, MOST_ELEMENTS // (heads * (-(-length // 128) * 128) * max(dim, 32))))
        if most >= N:
            return scaled_dot_product_attention(q, k, v, attn_mask=mask)
        masks = [None] * -(-N // most) if mask is None else mask.split(most)
        parts = zip(q.split(most), k.split(most), v.split(most), masks, strict=True)
        return torch.cat([scaled_dot_product_attention(q, k, v, attn_mask=mask) for q, k, v, mask in parts])
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v


def attend_nearby(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    """Attention of tokens (N, heads, L, d) to those of their own block of `block` tokens and of both neighbours of it:
    what it costs grows linearly with L (Beltagy et al. 2020, arXiv:2004.05150, sec. 3.1, in blocks)."""
    N, _, length, _ = q.shape
    blocks = -(-length // block)
    spare = blocks * block - length
    q = pad(q, (0, 0, 0, spare)).unflatten(2, (blocks, block)).transpose(1, 2).flatten(0, 1)  # (N*blocks, heads, ...)
    k, v = (
        pad(each, (0, 0, block, block + spare)).unfold(2, 3 * block, block).permute(0, 2, 1, 4, 3).flatten(0, 1)
        for each in (k, v)
    )
    first = torch.arange(blocks, device=q.device)[:, None] - 1
    places = first * block + torch.arange(3 * block, device=q.device)  # (blocks, 3 * block)
    mask = ((places >= 0) & (places < length)).repeat(N, 1)[:, None, None]
    found = attend(q, k, v, mask).unflatten(0, (N, blocks)).transpose(1, 2)
    return found.flatten(2, 3)[:, :, :length]


class TransformerBlock(nn.Module):
    """Self-attention inside each frame (optional), cross-attention to text, feed-forward (optional); all residual.

    Positions are added to the queries of the cross-attention, so that "moving right" can mean something else at the
    left of the first frame than at the right of the last one. x: (B, T, H*W, C); positions: (T, H*W, P).
    """

    def __init__(self, channels, num_heads, context_dim, position_dim, self_attention, feed_forward):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels) if self_attention else None
        self.attn1 = Attention(channels, num_heads) if self_attention else None
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, num_heads, context_dim)
        self.position_proj = zero_init(nn.Linear(position_dim, channels, bias=False)) if position_dim else None
        self.norm3 = nn.LayerNorm(channels) if feed_forward else None
        self.ff = FeedForward(channels, activation_fn="geglu") if feed_forward else None

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        B, T = x.shape[:2]
        if self.attn1 is not None:
            x = x + self.attn1(self.norm1(x).flatten(0, 1)).unflatten(0, (B, T))
        queries = self.norm2(x)
        if self.position_proj is not None and positions is not None:
            queries = queries + self.position_proj(positions)
        x = x + self.attn2(queries.flatten(1, 2), context, mask).unflatten(1, (T, -1))
        return x if self.ff is None else x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Features to tokens, transformer blocks on them, and back to be added (diffusers' Transformer2DModel)."""

    def __init__(
        self, channels, num_heads, context_dim, position_dim, groups, num_layers, linear, self_attention, feed_forward
    ):
        super().__init__()
        self.linear = linear
        self.norm = FrameGroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels) if linear else spatial_conv(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, num_heads, context_dim, position_dim, self_attention, feed_forward)
            for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(channels, channels) if linear else spatial_conv(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        H, W = x.shape[-2:]
        hidden = self.norm(x)
        hidden = hidden if self.linear else self.proj_in(hidden)
        tokens = hidden.flatten(3).permute(0, 2, 3, 1)  # (B, T, H*W, C)
        tokens = self.proj_in(tokens) if self.linear else tokens
        for block in self.transformer_blocks:
            tokens = block(tokens, context, mask, None if positions is None else positions.flatten(1, 2))
        tokens = self.proj_out(tokens) if self.linear else tokens
        hidden = tokens.permute(0, 3, 1, 2).unflatten(-1, (H, W))
        return x + (hidden if self.linear else self.proj_out(hidden))


class TemporalAttention(nn.Module):
    """Self-attention along time: each place attends to itself in all frames (Ho et al. 2022, arXiv:2204.03458, sec. 3).

    With joint=True every token attends to every place of every frame, which is cheap where features are small and keeps
    an object one object. Positions added to the tokens tell the order of the frames; they come from normalised
    coordinates, not from a table, so any number of frames will do. x: (B, C, T, H, W); returns the same shape. The
    output projection starts at zero, so that the layer leaves an image model unchanged.

    window: frames are taken in groups of so many, and see those of their own group and of its neighbours alone; up to
    `window` frames that is all of them, and with more the cost grows linearly with their number.
    """

    def __init__(
        self, channels: int, num_heads: int, position_dim: int, joint: bool = False, window: int | None = None
    ):
        super().__init__()
        self.joint, self.window = joint, window
        self.norm = nn.LayerNorm(channels)
        self.position_proj = nn.Linear(position_dim, channels, bias=False) if position_dim else None
        self.attn = Attention(channels, num_heads)
        zero_init(self.attn.to_out[0])

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        B, C, T, H, W = x.shape
        tokens = self.norm(x.permute(0, 2, 3, 4, 1))  # (B, T, H, W, C)
        if self.position_proj is not None:
            tokens = tokens + self.position_proj(positions)
        if self.joint:
            block = self.window and self.window * H * W
            out = self.attn(tokens.reshape(B, T * H * W, C), block=block).reshape(B, T, H, W, C)
        else:
            tokens = tokens.permute(0, 2, 3, 1, 4).reshape(B * H * W, T, C)
            out = self.attn(tokens, block=self.window).reshape(B, H, W, T, C).permute(0, 3, 1, 2, 4)
        return x + out.permute(0, 4, 1, 2, 3)


class Downsample3D(nn.Module):
    """Halves height and width, keeps the frames."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = spatial_conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample3D(nn.Module):
    """Doubles height and width by repetition and smooths with a convolution, keeps the frames."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = spatial_conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))
