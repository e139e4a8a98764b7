"""Autoencoders small enough for a test: random weights, the real classes, one of each that `--vae` takes."""

import torch
from torch import nn

from models.autoencoder import class_of

KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "block_out_channels": [32, 32, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
TINY_AUTOENCODERS: dict[str, dict] = {
    "AutoencoderKL": KL | {"up_block_types": ["UpDecoderBlock2D"] * 3},
    "AutoencoderTiny": {
        "encoder_block_out_channels": [16, 16, 16],
        "decoder_block_out_channels": [16, 16, 16],
        "num_encoder_blocks": [1, 1, 1],
        "num_decoder_blocks": [1, 1, 1],
    },
    "AutoencoderDC": {
        "latent_channels": 8,
        "attention_head_dim": 8,
        "encoder_block_types": "ResBlock",
        "decoder_block_types": "ResBlock",
        "encoder_block_out_channels": [16, 16, 16],
        "decoder_block_out_channels": [16, 16, 16],
        "encoder_layers_per_block": [1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1],
        "encoder_qkv_multiscales": [[], [], []],
        "decoder_qkv_multiscales": [[], [], []],
        "scaling_factor": 0.4,
    },
    "AutoencoderKLTemporalDecoder": {name: value for name, value in KL.items() if name != "norm_num_groups"},
    "AutoencoderKLLTXVideo": {
        "latent_channels": 8,
        "block_out_channels": [16, 16],
        "decoder_block_out_channels": [16, 16],
        "down_block_types": ["LTXVideoDownBlock3D"] * 2,
        "layers_per_block": [1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1],
        "spatio_temporal_scaling": [True, True],
        "decoder_spatio_temporal_scaling": [True, True],
        "decoder_inject_noise": [False, False, False],
        "downsample_type": ["conv", "conv"],
        "upsample_residual": [False, False],
        "upsample_factor": [1, 1],
        "patch_size": 2,
    },
    "AutoencoderKLWan": {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    | {"latents_mean": [0.5, -0.5, 0.25, 0.0], "latents_std": [2.0, 1.0, 0.5, 1.0]},
    "AutoencoderKLCogVideoX": {
        "block_out_channels": [16, 16, 16, 16],
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_height": 32,
        "sample_width": 32,
    },
    "PatchAutoencoder": {
        "latent_channels": 8,
        "patch_size": [4, 8],
        "width": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
    },
}


def tiny_autoencoder(kind: str, seed: int = 0) -> nn.Module:
    """A model of the class; its weights follow from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return class_of(kind)(**TINY_AUTOENCODERS[kind]).eval()
