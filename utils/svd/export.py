"""What a fine-tuning leaves: a pipeline or the trained weights alone, what they were trained on, a model card."""

import argparse
import json
from pathlib import Path

import torch

from models.svd.memory import cast
from models.svd.steering import split_steering
from utils.cli import UserError, printable, without_secrets
from utils.files import write_text
from utils.lerobot.origin import origin_of, said_of
from utils.motion.score import MOTION_MEASURE
from utils.svd.pipeline import load_pipeline, save_pipeline
from utils.svd.vectors import save_vectors
from utils.svd.weights import apply_trained, save_adapters, save_trained


def export(
    args: argparse.Namespace,
    run_dir: Path,
    tensors: dict,
    lora: dict | None,
    clips: list,
    step: int,
    conditions: dict | None = None,
) -> None:
    """Leave a pipeline in the run folder, or the trained weights alone; svd.json tells infer_svd.py how it was trained.

    conditions: plain settings of vectors per frame, whose layers lie beside the pipeline, which is one like any other.
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
        "motion_measure": clips[0].motion_measure,
        "motion_bucket_ids": sorted(clip.motion_bucket_id for clip in clips),
        **({"conditions": conditions} if conditions else {}),
        "origin": origin_of(args.dataset_dir),
        "cameras": args.cameras,
        "resize_mode": args.resize_mode,
    }
    tensors, of_vectors = split_steering(tensors)
    if of_vectors:
        save_vectors(of_vectors, run_dir)
    if lora is not None:
        save_adapters(tensors, lora, args.pretrained_model_name, run_dir)
    elif args.save_trainable_only:
        save_trained(tensors, about, run_dir)
    if not args.save_trainable_only:
        pipeline = load_pipeline(args.pretrained_model_name, args.revision)
        dtype = pipeline.unet.dtype
        cast(pipeline.unet, torch.float32)
        pipeline.unet = apply_trained(pipeline.unet, tensors, about)
        cast(pipeline.unet, dtype)
        about["dtype"] = str(dtype).removeprefix("torch.")
        save_pipeline(pipeline, run_dir)
    write_text(run_dir / "svd.json", json.dumps(about, indent=1) + "\n")
    write_text(run_dir / "README.md", model_card(about, len(clips), without_secrets(vars(args))))


def read_about(folder: Path, flag: str = "--model_dir") -> dict:
    """What train_svd.py noted in svd.json about a pipeline; {} for one that it did not write."""
    file = folder / "svd.json"
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{flag}: {printable(file)} is damaged ({error}); remove it or copy it again") from None


def comparable_scores(about: dict) -> list[float]:
    """The motion scores of the training clips; none if they are of an older measure than those of the videos."""
    scores = about.get("motion_scores", [])
    if scores and about.get("motion_measure", 1) != MOTION_MEASURE:
        print("note: the motion scores of the training clips are of an older measure and do not compare with ours")
        return []
    return scores


def model_card(about: dict, num_clips: int, settings: dict) -> str:
    """README.md of a fine-tuned model: what it is, what it was trained on, under which licence."""
    weights = f"The weights are stored in {about['dtype']}, as the base model's are." if "dtype" in about else ""
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items() if value is not None)
    return f"""---
base_model: {about["base_model"]}
library_name: diffusers
pipeline_tag: image-to-video
---
# Fine-tuned Stable Video Diffusion

Base model: {about["base_model"]}. Trained for {about["step"]} steps on {num_clips} clips of {about["num_frames"]}
frames, {about["width"]}x{about["height"]}, {about["fps"]:g} frames/s; what learnt: {about["trainable"]}.
{weights}

    python infer_svd.py --model_dir THIS_FOLDER --input_image IMAGE --output_video sample.mp4

Licence: the licence of the base model holds for these weights too (for Stability AI's models their community licence,
see their model card), and so do the rights in the clips they were trained on.
{"The clips: " * bool(about["origin"])}{said_of(about["origin"])}

| setting | value |
|---|---|
{rows}
"""
