"""A Stable Video Diffusion pipeline on disk: read from a folder or the hub in one precision, written part by part."""

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from utils.cli import UserError, out_of_memory, printable
from utils.files import explain_full_disk, partial_path
from utils.runs.checkpoint import require_numbers, tensor_bytes
from utils.runs.hub import missing_weights, resolve_model

DEFAULT_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"
PARTS = ("unet", "vae", "image_encoder", "scheduler", "feature_extractor")
FILES = (
    "model_index.json, scheduler/scheduler_config.json, feature_extractor/preprocessor_config.json, and config.json "
    "with *.safetensors (or *.fp16.safetensors) in unet/, vae/ and image_encoder/"
)
PATTERNS = ("model_index.json", *(f"{part}/*.json" for part in PARTS), *(f"{part}/*.safetensors" for part in PARTS))


def load_pipeline(name: str, revision: str | None = None, flag: str = "--pretrained_model_name", dtype=None):
    """A StableVideoDiffusionPipeline from a folder, the local cache or the hub, all of it in dtype.

    dtype: by default that in which its U-Net is stored. A folder that holds only half-precision files
    (*.fp16.safetensors) will do. Raises UserError that names the flag and what is missing.
    """
    from diffusers import StableVideoDiffusionPipeline
    from transformers.utils import logging

    folder = resolve_model(name, revision, PATTERNS, flag, FILES, _missing_files)
    whole = any(".fp16." not in path.name for path in (folder / "unet").glob("*.safetensors"))
    variant = "fp16" if not whole and list((folder / "unet").glob("*.fp16.safetensors")) else None
    dtype = dtype or stored_dtype(folder)  # left alone, diffusers makes its parts float32 and transformers does not
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


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision in which a pipeline's folder holds its U-Net; float32 if that cannot be told."""
    try:
        with safe_open(min((folder / "unet").glob("*.safetensors")), framework="pt") as file:
            return file.get_tensor(next(iter(file.keys()))).dtype
    except (OSError, ValueError, StopIteration, SafetensorError):
        return torch.float32


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
