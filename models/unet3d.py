"""UNet3D: the denoising network, an image U-Net that has learnt about time.

Ho et al. 2022, "Video Diffusion Models" (arXiv:2204.03458) inflated the image U-Net: convolutions over space and time,
attention to the text in each residual block, attention along time after it. Here the spatial half also keeps the
structure and the names of diffusers' UNet2DConditionModel, see UNet3D.from_unet2d.
"""

import functools
import inspect

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn
from torch.nn.functional import silu

from models.conditions import ConditionEncoder, ConditionSettings
from models.layers import (
    POSITION_DIM,
    Downsample3D,
    FrameGroupNorm,
    PixelHead,
    ResnetBlock3D,
    SpatialTransformer,
    TemporalAttention,
    TextPooling,
    Upsample3D,
    fourier_features,
    patchify,
    spatial_conv,
    unit_init,
    unpatchify,
    zero_init,
)

TEXT_QUERIES = 16


class UNet3D(ModelMixin, ConfigMixin):
    """Predicts noise, velocity or the clean clip from a noisy clip, its timestep and a text.

    sample: (B, in_channels, T, H, W); H and W divisible by `size_multiple`, T any.
    timesteps: (B,) in [0, num_timesteps). encoder_hidden_states: (B, L, cross_attention_dim), the text;
    encoder_attention_mask: (B, L) bool, True for real tokens, or None. conditions: see models/conditions.py, of a
    network with `add_conditions`. Returns (B, out_channels, T, H, W).

    model_channels: channels of the first level, those of level i are model_channels * channel_mult[i].
    layers_per_block: residual blocks per level on the way down, one more on the way up.
    cross_attention_levels, self_attention_levels, temporal_attention_levels: one bool per level. None means every level
        for text and time; and for self-attention inside a frame, whose cost grows with the fourth power of the size,
        the last level. The middle block always has all three.
    temporal_window: attention over time is within groups of so many frames and to the groups beside, see
        TemporalAttention; None: all frames see each other.
    joint_attention: in the last level and in the middle, attention over time also sees all places of a frame.
    feed_forward: whether transformers have their feed-forward layer, two thirds of their multiplications.
    conv_type: "full" (3x3x3) or "factorised" (1x3x3, then 3x1x1), see ResnetBlock3D.
    patch_size: folds p x p pixels into channels before the first layer and back after the last: 1/p^2 of the tokens.
    pixel_channels: of a PixelHead behind the last layer, which sees single pixels; 0 for none.
    position_features: tell the network where and when. Without them words such as "left" are hardly learnt, because at
        high noise the right answer to them is a picture of x, y and t that convolution alone cannot draw.
    image_path: whether a single frame goes through what it has in common with an image model alone; with factorised
        convolutions, and all the rest frozen, it is then drawn as the image model draws it, however much is learnt.
    resnet_time_scale_shift: "scale_shift" or "default" (addition, as in Stable Diffusion).

    Raises ValueError for sizes that do not divide and for level lists of a wrong length.
    """

    _supports_gradient_checkpointing = True
    most_frames: int | None = None  # no limit

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        model_channels: int = 128,
        channel_mult: tuple[float, ...] = (1, 2, 4),
        layers_per_block: int = 2,
        cross_attention_dim: int = 768,
        cross_attention_levels: tuple[bool, ...] | None = None,
        self_attention_levels: tuple[bool, ...] | None = None,
        temporal_attention_levels: tuple[bool, ...] | None = None,
        joint_attention: bool = True,
        num_attention_heads: int | tuple[int, ...] = 8,
        transformer_layers_per_block: int = 1,
        feed_forward: bool = True,
        conv_type: str = "full",
        patch_size: int = 1,
        position_features: bool = True,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "scale_shift",
        use_linear_projection: bool = False,
        image_path: bool = False,
        temporal_window: int | None = None,
        pixel_channels: int = 0,
    ):
        super().__init__()
        levels = len(channel_mult)
        channels = [round(model_channels * mult) for mult in channel_mult]
        heads = [num_attention_heads] * levels if isinstance(num_attention_heads, int) else list(num_attention_heads)
        cross = _per_level("cross_attention_levels", cross_attention_levels, [True] * levels)
        inside = _per_level("self_attention_levels", self_attention_levels, [False] * (levels - 1) + [True])
        temporal = _per_level("temporal_attention_levels", temporal_attention_levels, [True] * levels)
        if conv_type not in ("full", "factorised"):
            raise ValueError(f"conv_type must be 'full' or 'factorised', not {conv_type!r}")

        self.model_channels = model_channels
        self.size_multiple = patch_size * 2 ** (levels - 1)
        emb_channels = 4 * channels[0]
        position_dim = POSITION_DIM if position_features else 0

        # Timestep, text and frame: one embedding per frame, (B, T, emb_channels), that steers every residual block.
        self.time_proj = Timesteps(channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels[0], emb_channels)
        self.text_pooling = TextPooling(cross_attention_dim, TEXT_QUERIES)
        self.text_embedding = unit_init(TimestepEmbedding(TEXT_QUERIES * cross_attention_dim, emb_channels))
        self.condition_norm = nn.LayerNorm(emb_channels)
        self.condition_out = zero_init(nn.Linear(emb_channels, emb_channels))
        if position_features:
            position_channels = 4 * channels[0]
            self.frame_embedding = unit_init(TimestepEmbedding(POSITION_DIM, emb_channels))
            self.position_in = unit_init(nn.Linear(POSITION_DIM, position_channels))
            self.position_gate = unit_init(nn.Linear(emb_channels, position_channels))
            self.position_out = zero_init(nn.Linear(position_channels, channels[0]))

        def resnet(in_channels, out_channels):
            scale_shift = resnet_time_scale_shift == "scale_shift"
            return ResnetBlock3D(
                in_channels, out_channels, emb_channels, norm_num_groups, norm_eps, scale_shift, conv_type
            )

        def transformer(level, cross_attention=True, self_attention=True):
            if not cross_attention:
                return None
            return SpatialTransformer(
                channels[level],
                heads[level],
                cross_attention_dim,
                position_dim,
                norm_num_groups,
                transformer_layers_per_block,
                use_linear_projection,
                self_attention,
                feed_forward,
            )

        def temporal_attention(level, present=True, joint=False):
            if not present:
                return None
            return TemporalAttention(channels[level], heads[level], position_dim, joint, temporal_window)

        self.conv_in = spatial_conv(in_channels * patch_size**2, channels[0])
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [channels[0]]
        for i in range(levels):
            block = Block3D()
            for j in range(layers_per_block):
                block.add_layer(
                    resnet(channels[max(i - 1, 0)] if j == 0 else channels[i], channels[i]),
                    transformer(i, cross[i], inside[i]),
                    temporal_attention(i, temporal[i], joint=joint_attention and i == levels - 1),
                )
            skips += [channels[i]] * layers_per_block
            if i < levels - 1:
                block.downsamplers = nn.ModuleList([Downsample3D(channels[i])])
                skips.append(channels[i])
            self.down_blocks.append(block)

        self.mid_block = Block3D()
        for _ in range(2):
            self.mid_block.add_layer(
                resnet(channels[-1], channels[-1]), transformer(-1), temporal_attention(-1, joint=joint_attention)
            )
        zero_init(self.mid_block.attentions[1].proj_out)  # the image model has one; the second starts as the identity

        for i in reversed(range(levels)):
            block = Block3D()
            for j in range(layers_per_block + 1):
                below = channels[min(i + 1, levels - 1)] if j == 0 else channels[i]
                block.add_layer(
                    resnet(below + skips.pop(), channels[i]),
                    transformer(i, cross[i], inside[i]),
                    temporal_attention(i, temporal[i], joint=joint_attention and i == levels - 1),
                )
            if i > 0:
                block.upsamplers = nn.ModuleList([Upsample3D(channels[i])])
            self.up_blocks.append(block)

        self.conv_norm_out = FrameGroupNorm(norm_num_groups, channels[0], norm_eps)
        self.conv_out = spatial_conv(channels[0], out_channels * patch_size**2)
        sizes = channels[0], pixel_channels, in_channels, out_channels, emb_channels, patch_size
        self.pixel_head = PixelHead(*sizes) if pixel_channels else None

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
    ) -> Tensor:
        if sample.shape[-2] % self.size_multiple or sample.shape[-1] % self.size_multiple:
            raise ValueError(f"frames of {tuple(sample.shape[-2:])} pixels: sides must divide by {self.size_multiple}")
        context, mask = encoder_hidden_states.to(sample.dtype), encoder_attention_mask
        x = self.conv_in(patchify(sample, self.config.patch_size))
        on_grid, on_frames = self.conditions(conditions) if conditions else (None, None)
        if on_grid is not None:
            x = x + on_grid
        time = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))
        image = self.config.image_path and sample.shape[2] == 1
        if image:
            positions, emb = [None] * len(self.down_blocks), time[:, None]
        else:
            positions = [
                fourier_features(x.shape[2], x.shape[3] >> i, x.shape[4] >> i, x.device).to(sample.dtype)
                for i in range(len(self.down_blocks))
            ]
            more = () if on_frames is None else (on_frames,)  # which a subclass may know nothing of
            condition = self.condition(time, context, mask, positions[-1], *more)
            emb = time[:, None] + self.condition_out(condition)
        if self.config.position_features and not image:  # where and when, gated by what the text wants there
            gate = self.position_gate(condition)[:, :, None, None]  # (B, T, 1, 1, C)
            x = x + self.position_out(gate * self.position_in(positions[0])).permute(0, 4, 1, 2, 3)

        skips = [x]
        for i, block in enumerate(self.down_blocks):
            for layer in block.layers():
                x = block.run(layer, x, emb, context, mask, positions[i])
                skips.append(x)
            if block.downsamplers is not None:
                x = block.downsamplers[0](x)
                skips.append(x)
        for n, layer in enumerate(self.mid_block.layers()):
            layer = (layer[0], None, None) if image and n else layer  # the image model has one transformer there
            x = self.mid_block.run(layer, x, emb, context, mask, positions[-1])
        for i, block in zip(reversed(range(len(self.up_blocks))), self.up_blocks, strict=True):
            for layer in block.layers():
                x = block.run(layer, torch.cat([x, skips.pop()], dim=1), emb, context, mask, positions[i])
            if block.upsamplers is not None:
                x = block.upsamplers[0](x)
        x = silu(self.conv_norm_out(x))
        out = unpatchify(self.conv_out(x), self.config.patch_size)
        return out if self.pixel_head is None else out + self.pixel_head(x, sample, emb)

    def add_conditions(self, settings: ConditionSettings) -> None:
        """Take these conditions from now on; nothing changes until the new layers are trained."""
        width = self.conv_in.out_channels
        self.conditions = ConditionEncoder(
            settings, self.config.in_channels, self.config.patch_size, width, self.condition_norm.normalized_shape[0]
        )

    def condition(
        self, time: Tensor, context: Tensor, mask: Tensor | None, positions: Tensor, on_frames: Tensor | None = None
    ) -> Tensor:
        """What each frame is to become: timestep, mean of the text tokens, place in time and what the conditions add to
        each frame, (B, T, emb_channels)."""
        condition = (time + self.text_embedding(self.text_pooling(context, mask)))[:, None]
        if on_frames is not None:
            condition = condition + on_frames
        if self.config.position_features:
            condition = condition + self.frame_embedding(positions.mean(dim=(1, 2)))
        return silu(self.condition_norm(condition)).expand(-1, len(positions), -1)

    @classmethod
    def from_unet2d(cls, unet: UNet2DConditionModel, **video_settings) -> "UNet3D":
        """A UNet3D that does to every frame what `unet` does to an image, to be trained on video from there.

        2-D kernels become the centre tap of 3-D ones (Ho et al. 2022, sec. 3; Singer et al. 2022, arXiv:2209.14792).
        video_settings: conv_type, temporal_attention_levels, joint_attention, temporal_window, position_features,
        image_path; and in_channels, out_channels, patch_size, for which the first and the last convolution start
        afresh where they differ: a latent image model then begins to speak pixels.
        `taken` of the result: the names of the parameters that come from the image model.
        Raises ValueError if the image model has parts that UNet3D has not (class or pooled-text embeddings, say).
        """
        config = unet.config
        first = config.block_out_channels[0]
        attention = [kind == "CrossAttnDownBlock2D" for kind in config.down_block_types]
        heads = config.num_attention_heads or config.attention_head_dim  # diffusers calls the number of heads a dim
        settings = {"in_channels": config.in_channels, "out_channels": config.out_channels} | video_settings
        model = cls(
            model_channels=first,
            channel_mult=tuple(c / first for c in config.block_out_channels),
            layers_per_block=config.layers_per_block,
            cross_attention_dim=config.cross_attention_dim,
            cross_attention_levels=tuple(attention),
            self_attention_levels=tuple(attention),
            num_attention_heads=heads if isinstance(heads, int) else tuple(heads),
            transformer_layers_per_block=config.transformer_layers_per_block,
            norm_num_groups=config.norm_num_groups,
            norm_eps=config.norm_eps,
            resnet_time_scale_shift=config.resnet_time_scale_shift,
            use_linear_projection=config.use_linear_projection,
            **settings,
        )
        own, taken = model.state_dict(), set()
        for name, value in unet.state_dict().items():
            if name not in own:
                raise ValueError(f"UNet3D has no place for the image model's parameter {name}")
            if name.startswith(("conv_in.", "conv_out.")) and own[name].shape[:2] != value.shape[:2]:
                continue
            taken.add(name)
            if own[name].dim() == value.dim():
                own[name].copy_(value)
            else:  # (O, I, h, w) -> the centre of (O, I, t, h, w)
                own[name].zero_()[:, :, own[name].shape[2] // 2].copy_(
                    value.reshape(*value.shape[:2], *own[name].shape[3:])
                )
        model.taken = frozenset(taken)
        return model

    # A subclass that takes its own arguments and passes **kwargs on is saved and reloaded like UNet3D itself: its own
    # arguments are added to the config, and loading looks for arguments along the chain of constructors. ConfigMixin
    # alone saves such a class without complaint and then builds it with default sizes.

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        init = cls.__init__
        signature = inspect.signature(init)
        named = [n for n, p in signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)][1:]

        @functools.wraps(init)
        def registering_init(self, *args, **kwargs):
            init(self, *args, **kwargs)
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            self.register_to_config(**{name: bound.arguments[name] for name in named})

        cls.__init__ = registering_init

    @staticmethod
    def _get_init_keys(input_class):
        keys = set()
        for cls in input_class.__mro__:
            parameters = inspect.signature(cls.__init__).parameters
            keys |= parameters.keys()
            if all(p.kind != p.VAR_KEYWORD for p in parameters.values()):
                break
        return keys - {"args", "kwargs"} | {"self"}


class Block3D(nn.Module):
    """The layers of one level under diffusers' names, and temporal_attentions beside them."""

    def __init__(self):
        super().__init__()
        self.resnets, self.attentions, self.temporal_attentions = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.downsamplers = self.upsamplers = None
        self.gradient_checkpointing = False  # switched by ModelMixin.enable_gradient_checkpointing

    def add_layer(self, resnet, transformer, temporal_attention):
        self.resnets.append(resnet)
        self.attentions.append(transformer)
        self.temporal_attentions.append(temporal_attention)

    def layers(self):
        return zip(self.resnets, self.attentions, self.temporal_attentions, strict=True)

    def run(
        self, layer, x: Tensor, emb: Tensor, context: Tensor, mask: Tensor | None, positions: Tensor | None
    ) -> Tensor:
        """positions: None for a single frame that goes the image model's way."""

        def forward(x, emb, context):
            resnet, transformer, temporal_attention = layer
            x = resnet(x, emb, over_time=positions is not None)
            if transformer is not None:
                x = transformer(x, context, mask, positions)
            if temporal_attention is not None and positions is not None:
                x = temporal_attention(x, positions)
            return x

        if self.gradient_checkpointing and torch.is_grad_enabled():
            return torch.utils.checkpoint.checkpoint(forward, x, emb, context, use_reentrant=False)
        return forward(x, emb, context)


def _per_level(name: str, given, default: list[bool]) -> list[bool]:
    if given is not None and len(given) != len(default):
        raise ValueError(f"{name} has {len(given)} entries for {len(default)} levels")
    return default if given is None else list(given)
