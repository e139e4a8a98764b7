"""The networks that are counted and timed: img2vid-xt without weights, and a tiny one."""

from typing import NamedTuple

VAE = {  # of stable-video-diffusion-img2vid-xt
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}
CLIP = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}


class Networks(NamedTuple):
    """Configurations of the three networks of a pipeline."""

    unet: dict
    vae: dict
    clip: dict


def full_networks() -> Networks:
    from models.svd.ledger import IMG2VID_XT

    return Networks(IMG2VID_XT, VAE, CLIP)


def tiny_networks() -> Networks:
    from tests.tiny_svd import TINY_CLIP, TINY_UNET, TINY_VAE

    return Networks(TINY_UNET, TINY_VAE, TINY_CLIP)


def make_pipeline(networks: Networks, device):
    """A pipeline with random weights in float32, made on the device; on "meta" without weights, to be counted."""
    import torch
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from tests.tiny_svd import SCHEDULER

    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(**networks.unet)
        vae = AutoencoderKLTemporalDecoder(**networks.vae)
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**networks.clip))
    pipeline = StableVideoDiffusionPipeline(
        vae=vae.to(device).eval(),
        image_encoder=clip.to(device).eval(),
        unet=unet.to(device).eval(),  # diffusers builds the mixing factors on the CPU
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
