"""Stable Video Diffusion on disk: a pipeline folder and its parts, trained weights alone, the folder that is left."""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.cli import UserError, out_of_memory, printable, without_secrets
from utils.files import explain_full_disk, partial_path, whole_file, write_text
from utils.runs.checkpoint import require_numbers, sha256, tensor_bytes
from utils.runs.hub import missing_weights, resolve_model

DEFAULT_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"
PARTS = ("unet", "vae", "image_encoder", "scheduler", "feature_extractor")
FILES = (
    "model_index.json, scheduler/scheduler_config.json, feature_extractor/preprocessor_config.json, and config.json "
    "with *.safetensors (or *.fp16.safetensors) in unet/, vae/ and image_encoder/"
)
PATTERNS = ("model_index.json", *(f"{part}/*.json" for part in PARTS), *(f"{part}/*.safetensors" for part in PARTS))
TRAINED, TRAINED_INFO = "trained.safetensors", "trained.json"


def load_pipeline(name: str, revision: str | None = None, flag: str = "--pretrained_model_name", dtype=None):
    """A StableVideoDiffusionPipeline from a folder, the local cache or the hub; weights as stored, or cast to dtype.

    A folder that holds only half-precision files (*.fp16.safetensors) will do. Raises UserError that names the flag and
    what is missing.
    """
    from diffusers import StableVideoDiffusionPipeline
    from transformers.utils import logging

    folder = resolve_model(name, revision, PATTERNS, flag, FILES, _missing_files)
    whole = any(".fp16." not in path.name for path in (folder / "unet").glob("*.safetensors"))
    variant = "fp16" if not whole and list((folder / "unet").glob("*.fp16.safetensors")) else None
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # without torchvision an image processor is announced that is not used
    try:
        pipeline = StableVideoDiffusionPipeline.from_pretrained(
            folder, torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True
        )
        for part in ("unet", "vae", "image_encoder"):
            require_numbers({f"{part}: {n}": t for n, t in getattr(pipeline, part).state_dict().items()})
        return pipeline
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: {printable(folder)} cannot be used ({reason}); it should hold {FILES}") from None
    finally:
        logging.set_verbosity(verbosity)


def _missing_files(folder: Path) -> list[str]:
    """What a pipeline's folder lacks."""
    plain = ("model_index.json", "scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json")
    stems = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
    lacking = [name for name in plain if not (folder / name).is_file()]
    return lacking + [f"{part}/{name}" for part, stem in stems.items() for name in missing_weights(folder / part, stem)]


def save_pipeline(pipeline, output_dir: Path) -> None:
    """Write a pipeline into output_dir, part by part under another name first; what else is there stays."""
    partial = partial_path(output_dir / "pipeline")
    try:
        with explain_full_disk(output_dir, pipeline_bytes(pipeline)):
            pipeline.save_pretrained(partial, safe_serialization=True)
        (output_dir / "model_index.json").unlink(missing_ok=True)  # it comes last: with it the folder is a pipeline
        for part in PARTS:
            shutil.rmtree(output_dir / part, ignore_errors=True)
            os.rename(partial / part, output_dir / part)
        os.rename(partial / "model_index.json", output_dir / "model_index.json")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def pipeline_bytes(pipeline) -> int:
    """The size of a pipeline's weights."""
    return sum(tensor_bytes(part.state_dict()) for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder))


def save_trained(tensors: dict[str, torch.Tensor], info: dict, output_dir: Path) -> None:
    """Write the trained weights alone, with what they belong to: the name and the revision of the base model."""
    path = output_dir / TRAINED
    with explain_full_disk(path, tensor_bytes(tensors)), whole_file(path, sync=True) as partial:
        save_file(tensors, partial)
        info = {**info, "sha256": sha256(partial)}
    write_text(output_dir / TRAINED_INFO, json.dumps(info, indent=2) + "\n")


def load_trained(folder: Path, flag: str = "--model_dir") -> tuple[dict[str, torch.Tensor], dict]:
    """(tensors, info) of save_trained. Raises UserError if they are not there or not what was saved."""
    try:
        info = json.loads((folder / TRAINED_INFO).read_text(encoding="utf-8"))
        if sha256(folder / TRAINED) != info["sha256"]:
            raise ValueError("its SHA-256 is not the one that was saved")
        tensors = load_file(folder / TRAINED)
        require_numbers(tensors)
        return tensors, info
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{flag}: {printable(folder / TRAINED)} cannot be used ({error}); train_svd.py writes it"
        ) from None


def read_about(folder: Path, flag: str = "--model_dir") -> dict:
    """What train_svd.py noted in svd.json about a pipeline; {} for one that it did not write."""
    file = folder / "svd.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{flag}: {printable(file)} is damaged ({error}); remove it or copy it again") from None


def export(args: argparse.Namespace, run_dir: Path, tensors: dict, lora: dict | None, clips: list, step: int) -> None:
    """Leave a pipeline in the run folder, or the trained weights alone; svd.json tells infer_svd.py how it was trained.

    The frozen weights are read again from the base model: the training held them in half precision.
    """
    about = {
        "base_model": args.pretrained_model_name,
        "revision": args.revision,
        "trainable": args.trainable,
        "lora": lora,
        "step": step,
        "num_frames": args.num_frames,
        "width": args.width,
        "height": args.height,
        "fps": sorted(clip.fps / args.frame_stride for clip in clips)[len(clips) // 2],
        "motion_scores": sorted(round(clip.motion_score, 6) for clip in clips),
        "motion_bucket_ids": sorted(clip.motion_bucket_id for clip in clips),
    }
    if args.save_trainable_only or lora is not None:
        save_trained(tensors, about, run_dir)
    if not args.save_trainable_only:
        pipeline = load_pipeline(args.pretrained_model_name, args.revision)
        pipeline.unet = apply_trained(pipeline.unet, tensors, about)
        save_pipeline(pipeline, run_dir)
    write_text(run_dir / "svd.json", json.dumps(about, indent=1) + "\n")
    write_text(run_dir / "README.md", model_card(about, len(clips), without_secrets(vars(args))))


def train_part(unet, scope: str, frozen_dtype: torch.dtype | None, lora: dict | None):
    """The U-Net, of which only `scope` learns (models/svd/memory.py); lora: {"rank", "alpha"} adds adapters to it."""
    from models.svd.memory import set_trainable

    set_trainable(unet, scope, frozen_dtype)
    if lora is None:
        return unet
    unet = _add_adapters(unet, lora).get_base_model()
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return unet


def apply_trained(unet, tensors: dict[str, torch.Tensor], info: dict):
    """The base model's U-Net with trained weights in their places, adapters merged. info: as in save_trained.

    Raises UserError if the weights belong to another network.
    """
    wrapped = _add_adapters(unet, info["lora"]) if info.get("lora") else None
    own = dict((wrapped.get_base_model() if wrapped else unet).named_parameters())
    unknown = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
    if unknown:
        raise UserError(f"the trained weights belong to another network: it has no {unknown[0]} of that shape")
    for name, value in tensors.items():
        own[name].data.copy_(value)
    return wrapped.merge_and_unload() if wrapped else unet


def _add_adapters(unet, lora: dict):
    """A PeftModel around `unet`, which then holds adapters in its temporal attention."""
    from peft import LoraConfig, get_peft_model

    from models.svd.memory import lora_target_modules

    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora_target_modules(unet))
    return get_peft_model(unet, config)


def model_card(about: dict, num_clips: int, settings: dict) -> str:
    """README.md of a fine-tuned model: what it is, what it was trained on, under which licence."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items() if value is not None)
    return f"""---
base_model: {about["base_model"]}
library_name: diffusers
pipeline_tag: image-to-video
---
# Fine-tuned Stable Video Diffusion

Base model: {about["base_model"]}. Trained for {about["step"]} steps on {num_clips} clips of {about["num_frames"]}
frames, {about["width"]}x{about["height"]}, {about["fps"]:g} frames/s; what learnt: {about["trainable"]}.

    python infer_svd.py --model_dir THIS_FOLDER --input_image IMAGE --output_video sample.mp4

Licence: the licence of the base model holds for these weights too (for Stability AI's models their community licence,
see their model card), and so do the rights in the clips they were trained on.

| setting | value |
|---|---|
{rows}
"""
