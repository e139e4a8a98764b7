"""A Stable Video Diffusion small enough for a test: random weights, the real classes, the real pipeline.

    python -m tests.tiny_svd FOLDER

saves it where StableVideoDiffusionPipeline.from_pretrained(FOLDER) finds it.
"""

import argparse
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

TINY_UNET = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (32, 64),  # multiples of 32, the number of groups of every norm
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
    "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    "cross_attention_dim": 32,
    "num_attention_heads": 4,
    "projection_class_embeddings_input_dim": 96,
    "addition_time_embed_dim": 32,
    "num_frames": 8,
}
TINY_VAE = {
    "block_out_channels": [32, 32, 32, 32],  # four, so that it divides height and width by 8 like the real one
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 1,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": 64,
}
TINY_CLIP = {
    "hidden_size": 32,
    "projection_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 224,  # the pipeline resizes to 224 whatever the model says
    "patch_size": 32,
    "intermediate_size": 64,
}
SCHEDULER = {  # that of img2vid-xt
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


def tiny_svd_pipeline(seed: int = 0) -> StableVideoDiffusionPipeline:
    """The pipeline, on the CPU in float32, in eval mode and without a progress bar; seed decides the weights."""
    torch.manual_seed(seed)
    pipeline = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(**TINY_VAE).eval(),
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY_CLIP)).eval(),
        unet=UNetSpatioTemporalConditionModel(**TINY_UNET).eval(),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Save a tiny random Stable Video Diffusion pipeline.")
    parser.add_argument("folder", type=Path, help="where to save it")
    tiny_svd_pipeline().save_pretrained(parser.parse_args().folder)
