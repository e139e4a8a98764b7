"""MotionUNet: AnimateDiff's network (Guo et al. 2023, arXiv:2307.04725) in place of UNet3D.

diffusers' UNetMotionModel is an image U-Net with transformers over time between its layers, the motion modules. What
these learn leaves as a MotionAdapter, which AnimateDiffPipeline puts between the layers of the image model.
"""

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor

from models.conditions import ConditionEncoder, ConditionSettings, steer_blocks
from models.layers import zero_init

OWN = "motion_modules"  # in the names of what is no part of the image model


class MotionUNet(UNetMotionModel):
    """UNetMotionModel with the inputs and the answer of UNet3D.

    sample: (B, C, T, H, W), T up to motion_max_seq_length; H and W divisible by `size_multiple`. timesteps: (B,).
    encoder_hidden_states: (B, L, D), the text of each clip. conditions: see models/conditions.py, of a network with
    `add_conditions`. Returns (B, C, T, H, W). Raises ValueError for more frames, and for an attention mask, which the
    network has no place for.
    """

    @classmethod
    def from_image_model(
        cls, unet: UNet2DConditionModel, adapter: MotionAdapter | None = None, num_frames: int = 16
    ) -> "MotionUNet":
        """An image model with the motion modules of an adapter, or with new ones, which change nothing at the start.

        num_frames: of the clips that new ones have to take, 32 at least. Raises ValueError if adapter and image model
        do not fit, or if the image model has parts that the network has not.
        """
        if adapter is None:
            config = unet.config
            adapter = MotionAdapter(
                block_out_channels=config.block_out_channels,
                motion_layers_per_block=config.layers_per_block,
                motion_norm_num_groups=config.norm_num_groups,
                motion_max_seq_length=max(32, num_frames),
            )
            for name, module in adapter.named_modules():
                if name.split(".")[-2:-1] == [OWN]:
                    zero_init(module.proj_out)
        if adapter.config.conv_in_channels:
            raise ValueError("it brings a first layer of its own, for pictures beside the noise (PIA's)")
        try:
            model = cls.from_unet2d(unet, adapter)
        except (RuntimeError, IndexError, KeyError) as error:
            raise ValueError(f"motion adapter and image model do not fit ({error})") from None
        if extra := unet.state_dict().keys() - model.state_dict().keys():
            raise ValueError(f"MotionUNet has no place for the image model's parameter {min(extra)}")
        model.taken = frozenset(unet.state_dict())
        return model

    @property
    def most_frames(self) -> int:
        return self.config.motion_max_seq_length

    @property
    def size_multiple(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    def forward(
        self,
        sample: Tensor,
        timesteps: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
    ) -> Tensor:
        num_frames = sample.shape[2]
        if num_frames > self.most_frames:
            raise ValueError(f"{num_frames} frames: the motion modules take at most {self.most_frames}")
        if encoder_attention_mask is not None:
            raise ValueError("the motion network has no place for an attention mask of the text")
        context = encoder_hidden_states.to(sample.dtype).repeat_interleave(num_frames, dim=0)
        if not conditions:
            return super().forward(sample, timesteps, context).sample
        on_grid, on_frames = self.conditions(conditions)
        hooks = []
        if on_grid is not None:
            places = on_grid.transpose(1, 2).flatten(0, 1)  # (B*T, width, H, W), or a 1 for a side
            hooks += [self.conv_in.register_forward_hook(lambda module, inputs, output: output + places)]
        if on_frames is not None:
            hooks += steer_blocks(self, lambda embedding: on_frames.flatten(0, 1))
        try:
            return super().forward(sample, timesteps, context).sample
        finally:
            for hook in hooks:
                hook.remove()

    def add_conditions(self, settings: ConditionSettings) -> None:
        """Take these conditions from now on; nothing changes until the new layers are trained."""
        embedded = self.time_embedding.linear_2.out_features if settings.sums else None
        self.conditions = ConditionEncoder(settings, self.config.in_channels, 1, self.conv_in.out_channels, embedded)


def motion_adapter(config: dict, tensors: dict[str, Tensor]) -> MotionAdapter:
    """The motion modules among the tensors of a MotionUNet of this config, as AnimateDiffPipeline takes them."""
    with torch.device("meta"):
        adapter = MotionAdapter(
            block_out_channels=config["block_out_channels"],
            motion_layers_per_block=config["layers_per_block"],
            motion_transformer_layers_per_block=config["temporal_transformer_layers_per_block"],
            motion_transformer_layers_per_mid_block=config["temporal_transformer_layers_per_mid_block"],
            motion_norm_num_groups=config["norm_num_groups"],
            motion_num_attention_heads=config["motion_num_attention_heads"],
            motion_max_seq_length=config["motion_max_seq_length"],
            use_motion_mid_block=config["use_motion_mid_block"],
        )
    adapter.load_state_dict({name: each for name, each in tensors.items() if OWN in name}, assign=True)
    return adapter
