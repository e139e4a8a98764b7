"""Stable Video Diffusion in one file: Stability AI's own checkpoints, taken apart into the pipeline of diffusers.

Such a file (svd.safetensors, svd_xt.safetensors, svd_xt_1_1.safetensors, and their *_image_decoder variants, whose
decoder sees one frame at a time) names its tensors after the modules of Stability-AI/generative-models:

    model.diffusion_model                      VideoUNet (sgm/modules/diffusionmodules/video_model.py)
    first_stage_model.decoder                  VideoDecoder (sgm/modules/autoencoding/temporal_ae.py), or Decoder
    conditioner.embedders.3.encoder            the encoder of the picture, with its quant_conv; it encodes clips too
    conditioner.embedders.0.open_clip.model    open_clip's ViT-H/14, of which the image tower is wanted
    first_stage_model.encoder                  the same encoder once more, with quant_conv inside its last layer; what
                                               ComfyUI saves has this one only

diffusers converts single files of many models, not this one. Names are converted by a table of modules that is built
from the file's own names; sizes are read from the shapes. What a file does not say is SVD's: heads of 64 channels (80
in the image encoder), three numbers that condition the U-Net, the noise schedule. Nothing comes from the hub.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from utils.cli import UserError, printable
from utils.tensors import computable, refuse_scales

SINGLE_FILES = "svd.safetensors or svd_xt.safetensors as Stability AI publishes them"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")

UNET, VAE = "model.diffusion_model", "first_stage_model"
VAE_ENCODER = "conditioner.embedders.3.encoder"
IMAGE_ENCODER = "conditioner.embedders.0.open_clip.model.visual"
PARTS = {
    "a U-Net with layers over time (model.diffusion_model)": f"{UNET}.input_blocks.1.0.time_stack.",
    "the decoder (first_stage_model)": f"{VAE}.decoder.",
    "the encoder (conditioner.embedders.3)": f"{VAE_ENCODER}.encoder.",
    "the image encoder (conditioner.embedders.0)": f"{IMAGE_ENCODER}.transformer.",
}

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "use_karras_sigmas": True,
}

# Modules within a block, the file's name -> diffusers'.
UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
TRANSFORMER = {name: name for name in ("norm", "proj_in", "proj_out", "transformer_blocks", "time_mixer")} | {
    "time_stack": "temporal_transformer_blocks",
    "time_pos_embed.0": "time_pos_embed.linear_1",
    "time_pos_embed.2": "time_pos_embed.linear_2",
}
IMAGE_LAYER = {
    "ln_1": "layer_norm1",
    "attn.in_proj_weight": "self_attn.in_proj.weight",  # of query, key and value at once
    "attn.in_proj_bias": "self_attn.in_proj.bias",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def find_single_file(name: str, flag: str) -> Path | None:
    """The file that a model's name stands for: itself, or the only one of this kind in a folder that is no pipeline.

    None if the name is a pipeline's folder or a name on the hub. Raises UserError that names the flag for a pickle, a
    file that is not there, and a folder that holds several.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() in PICKLES:
        raise UserError(
            f"{flag}: {printable(path)} may be a pickle, which can run code, and is not read; give {SINGLE_FILES}"
        )
    if path.is_file():
        return path
    if path.suffix == ".safetensors" and not path.exists():
        raise UserError(f"{flag}: there is no file {printable(path)}; give {SINGLE_FILES}")
    if not path.is_dir() or (path / "model_index.json").exists():
        return None
    files = sorted(file for file in path.glob("*.safetensors") if _is_original(file))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{flag}: {printable(path)} holds {printable(names)}; name one: {flag} {printable(files[0])}")
    return files[0] if files else None


def _is_original(file: Path) -> bool:
    """Whether a file holds SVD's U-Net under its original names."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return any(name.startswith(f"{UNET}.") for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def read_single_file(file: Path, dtype: torch.dtype | None = None):
    """The StableVideoDiffusionPipeline in a file, all of it in dtype, by default that in which its U-Net is stored, or
    float16 where that is a float of 8 bits.

    The file is mapped, and weights that keep their precision are not copied. Raises ValueError or RuntimeError that say
    in what it is not Stable Video Diffusion, SafetensorError if it is damaged.
    """
    from accelerate import init_empty_weights
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
    from transformers import CLIPImageProcessor

    with safe_open(file, framework="pt") as tensors:
        shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        names = original_names(shapes)
        with init_empty_weights():
            parts = build_parts(names, shapes)
        for part, module in parts.items():
            own = {name: old for name, old in names.items() if name.startswith(f"{part}.")}
            state = {name.removeprefix(f"{part}."): _tensor(tensors, old, name) for name, old in own.items()}
            if part == "vae" and "quant_conv.weight" not in state:  # the encoder's last layer has taken it in
                bias = state["encoder.conv_out.bias"]
                state["quant_conv.weight"] = torch.eye(len(bias))[..., None, None].to(bias.dtype)
                state["quant_conv.bias"] = torch.zeros(len(bias)).to(bias.dtype)
            module.load_state_dict(state, assign=True)
    dtype = dtype or computable(parts["unet"].conv_in.weight.dtype)
    for module in parts.values():
        torch.nn.Module.to(module.eval(), dtype)
    return StableVideoDiffusionPipeline(
        **parts, scheduler=EulerDiscreteScheduler(**SCHEDULER), feature_extractor=CLIPImageProcessor()
    )


def original_names(shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """{name in diffusers, after unet, vae or image_encoder: name in the file}; the file's other tensors are left out.

    shapes: of all tensors in the file. Raises ValueError that says which parts of SVD are not there.
    """
    refuse_scales(shapes)
    heads = {part: here.replace(VAE_ENCODER, _vae_encoder(shapes)) for part, here in PARTS.items()}
    lacking = [part for part, here in heads.items() if not any(name.startswith(here) for name in shapes)]
    if lacking:
        hint = "; a LoRA is for infer_svd.py --lora" if any("lora" in name.lower() for name in shapes) else ""
        raise ValueError(f"it lacks {', '.join(lacking)}{hint}")
    table = _unet_table(shapes) | _vae_table(shapes) | _image_encoder_table(shapes)
    names = {}
    for old in shapes:
        words = old.split(".")
        heads = (".".join(words[:length]) for length in range(len(words), 0, -1))
        here = next((head for head in heads if head in table), None)  # the longest that is known
        if here is None:
            continue
        new = table[here] + old.removeprefix(here)
        if ".in_proj." in new:
            names |= {new.replace("in_proj", f"{letter}_proj"): old for letter in "qkv"}
        else:
            names[new] = old
    return names


def _unet_table(shapes: dict) -> dict[str, str]:
    """{module in the file: module in diffusers} of the U-Net, whose blocks are numbered through all levels there."""
    table = {
        f"{UNET}.time_embed.0": "unet.time_embedding.linear_1",
        f"{UNET}.time_embed.2": "unet.time_embedding.linear_2",
        f"{UNET}.label_emb.0.0": "unet.add_embedding.linear_1",
        f"{UNET}.label_emb.0.2": "unet.add_embedding.linear_2",
        f"{UNET}.input_blocks.0.0": "unet.conv_in",
        f"{UNET}.out.0": "unet.conv_norm_out",
        f"{UNET}.out.2": "unet.conv_out",
    }
    resnet = _over_time(UNET_RESNET) | {"time_mixer": "time_mixer"}
    level = layer = layers = 0
    for i in range(1, _count(shapes, f"{UNET}.input_blocks")):
        block, down = f"{UNET}.input_blocks.{i}", f"unet.down_blocks.{level}"
        if f"{block}.0.op.weight" in shapes:
            table[f"{block}.0.op"] = f"{down}.downsamplers.0.conv"
            level, layer = level + 1, 0
        else:
            table |= _inside(f"{block}.0", f"{down}.resnets.{layer}", resnet)
            table |= _inside(f"{block}.1", f"{down}.attentions.{layer}", TRANSFORMER)
            layer += 1
            layers = max(layers, layer)
    for i in range(_count(shapes, f"{UNET}.output_blocks")):
        level, layer = divmod(i, layers + 1)
        block, up = f"{UNET}.output_blocks.{i}", f"unet.up_blocks.{level}"
        table |= _inside(f"{block}.0", f"{up}.resnets.{layer}", resnet)
        table |= _inside(f"{block}.1", f"{up}.attentions.{layer}", TRANSFORMER)
        table |= {
            f"{block}.{j}.conv": f"{up}.upsamplers.0.conv" for j in (1, 2)
        }  # behind the attention if there is one
    for i, here in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        inner = TRANSFORMER if i == 1 else resnet
        table |= _inside(f"{UNET}.middle_block.{i}", f"unet.mid_block.{here}", inner)
    return table


def _vae_table(shapes: dict) -> dict[str, str]:
    """The same of the VAE: its encoder from the conditioner, its decoder, over time or not, from the first stage."""
    encoder = _vae_encoder(shapes)
    table = {f"{encoder}.quant_conv": "vae.quant_conv"}
    if _decodes_over_time(shapes):
        over_time = _over_time(VAE_RESNET | UNET_RESNET) | {"mix_factor": "time_mixer.mix_factor"}
        table[f"{VAE}.decoder.conv_out.time_mix_conv"] = "vae.decoder.time_conv_out"
    else:
        over_time = VAE_RESNET
        table[f"{VAE}.post_quant_conv"] = "vae.post_quant_conv"
    for source, tower, way, resnet in (
        (encoder, "encoder", "down", VAE_RESNET),
        (VAE, "decoder", "up", over_time),
    ):
        here, there = f"{source}.{tower}", f"vae.{tower}"
        ends = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
        table |= _inside(here, there, ends)
        table |= _inside(f"{here}.mid.attn_1", f"{there}.mid_block.attentions.0", VAE_ATTENTION)
        for i in (0, 1):
            table |= _inside(f"{here}.mid.block_{i + 1}", f"{there}.mid_block.resnets.{i}", resnet)
        levels = _count(shapes, f"{here}.{way}")
        for i in range(levels):
            level = i if way == "down" else levels - 1 - i  # here the highest resolution is the first of both
            block = f"{there}.{way}_blocks.{level}"
            table[f"{here}.{way}.{i}.{way}sample.conv"] = f"{block}.{way}samplers.0.conv"
            for j in range(_count(shapes, f"{here}.{way}.{i}.block")):
                table |= _inside(f"{here}.{way}.{i}.block.{j}", f"{block}.resnets.{j}", resnet)
    return table


def _image_encoder_table(shapes: dict) -> dict[str, str]:
    """The same of the image encoder."""
    model = "image_encoder.vision_model"
    table = {
        f"{IMAGE_ENCODER}.class_embedding": f"{model}.embeddings.class_embedding",
        f"{IMAGE_ENCODER}.positional_embedding": f"{model}.embeddings.position_embedding.weight",
        f"{IMAGE_ENCODER}.conv1": f"{model}.embeddings.patch_embedding",
        f"{IMAGE_ENCODER}.ln_pre": f"{model}.pre_layrnorm",  # spelt so
        f"{IMAGE_ENCODER}.ln_post": f"{model}.post_layernorm",
        f"{IMAGE_ENCODER}.proj": "image_encoder.visual_projection.weight",
    }
    for i in range(_count(shapes, f"{IMAGE_ENCODER}.transformer.resblocks")):
        table |= _inside(f"{IMAGE_ENCODER}.transformer.resblocks.{i}", f"{model}.encoder.layers.{i}", IMAGE_LAYER)
    return table


def _inside(here: str, there: str, inner: dict[str, str]) -> dict[str, str]:
    """A table of modules within a block, as one of modules within the file."""
    return {f"{here}.{old}": f"{there}.{new}" for old, new in inner.items()}


def _over_time(resnet: dict[str, str]) -> dict[str, str]:
    """The table of a residual block over space and one over time, whose modules the VAE names as the U-Net does."""
    over_time = {f"time_stack.{old}": f"temporal_res_block.{new}" for old, new in UNET_RESNET.items()}
    return {old: f"spatial_res_block.{new}" for old, new in resnet.items()} | over_time


def _count(names, stem: str) -> int:
    """How many different words follow a stem in names."""
    return len({name.removeprefix(f"{stem}.").split(".")[0] for name in names if name.startswith(f"{stem}.")})


def _vae_encoder(shapes: dict) -> str:
    """Where the encoder is: in the conditioner, or if it is not there beside the decoder."""
    there = any(name.startswith(f"{VAE_ENCODER}.encoder.") for name in shapes)
    beside = any(name.startswith(f"{VAE}.encoder.") for name in shapes)
    return VAE if beside and not there else VAE_ENCODER


def _decodes_over_time(shapes: dict) -> bool:
    return f"{VAE}.decoder.conv_out.time_mix_conv.weight" in shapes


def build_parts(names: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.nn.Module]:
    """The U-Net, the VAE and the image encoder that a file's tensors fit: names as original_names returns them.

    Raises KeyError or ValueError if the shapes are not those of such networks.
    """
    from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    size = {new: shapes[old] for new, old in names.items()}
    vae, image_encoder = AutoencoderKLTemporalDecoder, CLIPVisionConfig(**_image_encoder_config(size, shapes))
    vae_config = _vae_config(size)
    if not _decodes_over_time(shapes):
        vae, vae_config["up_block_types"] = AutoencoderKL, ["UpDecoderBlock2D"] * len(vae_config["down_block_types"])
    return {
        "unet": UNetSpatioTemporalConditionModel(**_unet_config(size)),
        "vae": vae(**vae_config),
        "image_encoder": CLIPVisionModelWithProjection(image_encoder),
    }


def _unet_config(size: dict[str, tuple[int, ...]]) -> dict:
    levels = range(_count(size, "unet.down_blocks"))
    widths = [size[f"unet.down_blocks.{i}.resnets.0.spatial_res_block.conv1.weight"][0] for i in levels]
    attends = [f"unet.down_blocks.{i}.attentions.0.norm.weight" in size for i in levels]
    conditions = size["unet.add_embedding.linear_1.weight"][1]
    if conditions % 3:
        raise ValueError(f"its U-Net embeds conditions in {conditions} channels, no multiple of SVD's three; SV3D?")
    return {
        "sample_size": 96,
        "in_channels": size["unet.conv_in.weight"][1],
        "out_channels": size["unet.conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": _count(size, "unet.down_blocks.0.resnets"),
        "down_block_types": ["CrossAttn" * attend + "DownBlockSpatioTemporal" for attend in attends],
        "up_block_types": ["CrossAttn" * attend + "UpBlockSpatioTemporal" for attend in reversed(attends)],
        "cross_attention_dim": size["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1],
        "num_attention_heads": [width // 64 for width in widths],
        "projection_class_embeddings_input_dim": conditions,
        "addition_time_embed_dim": conditions // 3,
        "num_frames": 25,
    }


def _vae_config(size: dict[str, tuple[int, ...]]) -> dict:
    levels = range(_count(size, "vae.encoder.down_blocks"))
    return {
        "sample_size": 768,
        "in_channels": size["vae.encoder.conv_in.weight"][1],
        "out_channels": size["vae.decoder.conv_out.weight"][0],
        "latent_channels": size["vae.decoder.conv_in.weight"][1],
        "block_out_channels": [size[f"vae.encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels],
        "layers_per_block": _count(size, "vae.encoder.down_blocks.0.resnets"),
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
    }


def _image_encoder_config(size: dict[str, tuple[int, ...]], shapes: dict[str, tuple[int, ...]]) -> dict:
    width, _, patch, _ = size["image_encoder.vision_model.embeddings.patch_embedding.weight"]
    patches = size["image_encoder.vision_model.embeddings.position_embedding.weight"][0] - 1  # beside the class
    return {
        "hidden_size": width,
        "intermediate_size": size["image_encoder.vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        "projection_dim": shapes[f"{IMAGE_ENCODER}.proj"][1],
        "num_hidden_layers": _count(size, "image_encoder.vision_model.encoder.layers"),
        "num_attention_heads": width // 80,
        "image_size": round(patches**0.5) * patch,
        "patch_size": patch,
        "hidden_act": "gelu",
    }


def _tensor(tensors, old: str, new: str) -> torch.Tensor:
    """A tensor of the file in the form that diffusers gives it."""
    tensor = tensors.get_tensor(old)
    if ".in_proj_" in old:
        return tensor.chunk(3)["qkv".index(new.split("_proj.")[0][-1])]
    if old == f"{IMAGE_ENCODER}.proj":
        return tensor.T.contiguous()
    if ".mid.attn_1." in old and tensor.ndim == 4:  # a convolution of one pixel
        return tensor.flatten(1)
    return tensor
