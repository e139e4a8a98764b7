"""A fine-tuned Stable Video Diffusion, however it was left: a pipeline, trained weights alone, adapters to be added."""

from pathlib import Path

import torch

from models.svd.memory import cast
from utils.svd.export import read_about
from utils.svd.pipeline import load_pipeline
from utils.svd.weights import TRAINED, adapted_model, add_adapters, apply_trained, load_trained


def load_finetuned(
    model_dir: str, revision: str | None, base_model: str | None, lora: Path | None, dtype: torch.dtype
) -> tuple:
    """(StableVideoDiffusionPipeline in dtype, what train_svd.py noted about its training).

    model_dir: a pipeline's folder or name, or a folder with trained weights or adapters alone, whose base model it
    names, unless base_model says where that lies now. lora: a folder of adapters to add. Weights are added in float32.
    Raises UserError that names the flag.
    """
    folder = Path(model_dir)
    alone = folder.is_dir() and not (folder / "model_index.json").exists()
    if alone and (base := adapted_model(folder)):
        about = read_about(folder)
        pipeline = load_pipeline(base_model or base, about.get("revision"), "--base_model", torch.float32)
        pipeline.unet = add_adapters(pipeline.unet, folder, "--model_dir")
    elif alone and (folder / TRAINED).exists():
        tensors, about = load_trained(folder)
        base = base_model or about["base_model"]
        pipeline = load_pipeline(base, about["revision"], "--base_model", torch.float32)
        pipeline.unet = apply_trained(pipeline.unet, tensors, about)
    else:
        pipeline = load_pipeline(model_dir, revision, "--model_dir", dtype if lora is None else torch.float32)
        about = read_about(folder)
    if lora is not None and (lora / TRAINED).exists():  # of a train_svd.py before it wrote peft's format
        tensors, about = load_trained(lora, "--lora")
        pipeline.unet = apply_trained(pipeline.unet, tensors, about)
    elif lora is not None:
        pipeline.unet = add_adapters(pipeline.unet, lora)
        about = about | read_about(lora, "--lora")
    for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        cast(part, dtype)
    return pipeline, about
