"""Pretrained models small enough for a test: random weights, the real classes, the real files."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ["a red circle moving right", "a blue square moving left slowly", "the green triangle goes up"]


def tiny_clip(folder: Path, dim: int = 32, max_shard_size: str = "1GB") -> Path:
    """A CLIP text model of one random layer, with a byte-pair tokenizer of CLIP's own class and files."""
    tokenizer = Tokenizer(BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = list("abcdefghijklmnopqrstuvwxyz0123456789,.")
    trainer = BpeTrainer(special_tokens=special, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    tokenizer.train_from_iterator(WORDS, trainer)
    files = json.loads(tokenizer.to_str())["model"]
    vocab = dict(files["vocab"])
    for letter in alphabet:
        vocab.setdefault(f"{letter}</w>", len(vocab))
    merges = [tuple(merge) for merge in files["merges"]]
    clip_tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)
    clip_tokenizer.save_pretrained(folder)
    config = CLIPTextConfig(
        vocab_size=len(clip_tokenizer),
        hidden_size=dim,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2 if dim < 768 else 12,
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
    )
    CLIPTextModel(config).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def tiny_stable_diffusion(folder: Path, unet: dict | None = None, scheduler: dict | None = None) -> Path:
    """A Stable Diffusion pipeline with random weights, whose U-Net answers something: sides of 8 px to a latent."""
    torch.manual_seed(0)
    model = UNet2DConditionModel(**TINY_SD_UNET | (unet or {}))
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[16, 16, 16, 16],
        norm_num_groups=8,
        sample_size=64,
    )
    text = tiny_clip(folder / "text")
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(text),
        tokenizer=CLIPTokenizer.from_pretrained(text),
        unet=model,
        scheduler=PNDMScheduler.from_config(SD_SCHEDULER | (scheduler or {})),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    shutil.rmtree(text)
    return folder


TINY_SD_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
SD_SCHEDULER = {  # of Stable Diffusion 1.5
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


def tiny_image_model(folder: Path) -> Path:
    """A UNet2DConditionModel that reads text 32 wide."""
    image_unet = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    image_unet.save_pretrained(folder)
    return folder
