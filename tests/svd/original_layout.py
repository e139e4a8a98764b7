"""Stable Video Diffusion under the names of Stability AI's own files: the way back from diffusers, for tests.

Written from the architecture (blocks counted through all levels, down and up), not from the converter's table.
"""

import re

import torch
from diffusers import UNetSpatioTemporalConditionModel
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from tests.tiny_svd import TINY_CLIP, TINY_UNET, tiny_svd_pipeline

UNET = (
    (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"add_embedding\.linear_(\d)", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"time_pos_embed\.linear_(\d)", lambda m: f"time_pos_embed.{2 * int(m[1]) - 2}"),
    (r"temporal_transformer_blocks", "time_stack"),
)
RESNET = (
    (r"spatial_res_block\.", ""),
    (r"temporal_res_block", "time_stack"),
    (r"norm1", "in_layers.0"),
    (r"conv1", "in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"norm2", "out_layers.0"),
    (r"conv2", "out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
)
VAE = (
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
    (r"conv_norm_out", "norm_out"),
    (r"time_conv_out", "conv_out.time_mix_conv"),
    (r"spatial_res_block\.", ""),
    (r"time_mixer\.", ""),
    (r"conv_shortcut", "nin_shortcut"),
)
IMAGE_ENCODER = (
    (r"vision_model\.(embeddings\.)?", ""),
    (r"position_embedding\.weight", "positional_embedding"),
    (r"patch_embedding", "conv1"),
    (r"pre_layrnorm", "ln_pre"),
    (r"post_layernorm", "ln_post"),
    (r"encoder\.layers", "transformer.resblocks"),
    (r"self_attn\.[qkv]_proj\.", "attn.in_proj_"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"visual_projection\.weight", "proj"),
)


def original_name(part: str, name: str, pipeline) -> str:
    """The name in Stability's files of a tensor of a part (unet, vae, image_encoder) of a pipeline."""
    if part == "image_encoder":
        return f"conditioner.embedders.0.open_clip.model.visual.{_replaced(name, IMAGE_ENCODER)}"
    if part == "vae":
        rules = (*VAE, *RESNET) if "temporal_res_block" in name else VAE
        ours = name.startswith(("encoder", "quant_conv"))  # of the conditioner
        return ("conditioner.embedders.3.encoder." if ours else "first_stage_model.") + _replaced(name, rules)
    per_level = pipeline.unet.config.layers_per_block + 1
    up_block_types = pipeline.unet.config.up_block_types

    def down(m: re.Match) -> str:
        first = int(m[1]) * per_level
        if m[2] == "downsamplers":
            return f"input_blocks.{first + per_level}.0.op"
        return f"input_blocks.{first + 1 + int(m[3])}.{int(m[2] == 'attentions')}"

    def up(m: re.Match) -> str:
        first = int(m[1]) * per_level
        if m[2] == "upsamplers":
            return f"output_blocks.{first + per_level - 1}.{1 + ('CrossAttn' in up_block_types[int(m[1])])}.conv"
        return f"output_blocks.{first + int(m[3])}.{int(m[2] == 'attentions')}"

    rules = [(rf"down_blocks\.(\d)\.{BLOCK}", down), (rf"up_blocks\.(\d)\.{BLOCK}", up), *UNET]
    return "model.diffusion_model." + _replaced(name, [*rules, *RESNET] if "resnets" in name else rules)


BLOCK = r"(resnets|attentions|(?:down|up)samplers)\.(\d)(?:\.conv\b)?"


def _replaced(name: str, rules) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def original_tensors(pipeline) -> dict[str, torch.Tensor]:
    """All tensors of a pipeline as Stability's files have them, beside some of theirs that no pipeline has."""
    tensors = {"conditioner.embedders.0.open_clip.model.logit_scale": torch.zeros(())}
    for part in ("unet", "vae", "image_encoder"):
        for name, tensor in getattr(pipeline, part).state_dict().items():
            old = original_name(part, name, pipeline)
            if ".in_proj_" in old:  # query, key and value, one after the other
                layer, _, leaf = name.rpartition(".self_attn.")
                state = pipeline.image_encoder.state_dict()
                leaf = leaf.split(".")[1]
                tensors[old] = torch.cat([state[f"{layer}.self_attn.{letter}_proj.{leaf}"] for letter in "qkv"])
            elif old.endswith(".proj"):
                tensors[old] = tensor.T.contiguous()
            elif ".attn_1." in old and tensor.ndim == 2:
                tensors[old] = tensor[:, :, None, None].clone()
            else:
                tensors[old] = tensor.clone()
    return tensors


def svd_like_pipeline():
    """A tiny pipeline whose heads are as wide as SVD's, with no two weights alike, neither of norms nor of mixers."""
    pipeline = tiny_svd_pipeline()
    unet = TINY_UNET | {"block_out_channels": (64, 128), "num_attention_heads": (1, 2)}
    clip = TINY_CLIP | {"hidden_size": 160, "num_attention_heads": 2, "hidden_act": "gelu"}
    pipeline.unet = UNetSpatioTemporalConditionModel(**unet).eval()
    pipeline.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip)).eval()
    for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        for parameter in part.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return pipeline


def save_original(pipeline, file) -> None:
    save_file(original_tensors(pipeline), file)
