"""A Stable Video Diffusion pipeline on disk: read from a folder, one file or the hub in one precision, written part by
part."""

import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from utils.cli import UserError, out_of_memory, printable
from utils.files import explain_full_disk, partial_path
from utils.hub import resolve_model
from utils.pretrained.model_folder import load_whole, missing_weights, weights_variant
from utils.svd.single_file import SINGLE_FILES, find_single_file, read_single_file
from utils.tensors import computable, refuse_scales, require_numbers, tensor_bytes

DEFAULT_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"
PARTS = ("unet", "vae", "image_encoder", "scheduler", "feature_extractor")
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}
FILES = (
    "model_index.json, scheduler/scheduler_config.json, feature_extractor/preprocessor_config.json, and config.json "
    "with *.safetensors (or *.fp16.safetensors) in unet/, vae/ and image_encoder/"
)
PATTERNS = ("model_index.json", *(f"{part}/*.json" for part in PARTS), *(f"{part}/*.safetensors" for part in PARTS))


def load_pipeline(name: str, revision: str | None = None, flag: str = "--pretrained_model_name", dtype=None):
    """A StableVideoDiffusionPipeline from a folder, one file, the local cache or the hub, all of it in dtype.

    dtype: by default that in which its U-Net is stored. Weights in shards, or in half precision alone
    (*.fp16.safetensors), will do. Raises UserError that names the flag and what is missing.
    """
    from transformers.utils import logging

    if file := find_single_file(name, flag):
        source, read, wanted = file, read_single_file, f"be {SINGLE_FILES}, or a folder with {FILES}"
    else:
        source = resolve_model(name, revision, PATTERNS, flag, FILES, _missing_files)
        read, wanted = _read_folder, f"hold {FILES}"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # without torchvision an image processor is announced that is not used
    try:
        pipeline = read(source, dtype)
        for part in STEMS:
            require_numbers({f"{part}: {n}": t for n, t in getattr(pipeline, part).state_dict().items()})
        return pipeline
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: {printable(source)} cannot be used ({reason}); it should {wanted}") from None
    finally:
        logging.set_verbosity(verbosity)


def _read_folder(folder: Path, dtype: torch.dtype | None):
    """The pipeline in a folder."""
    from diffusers import StableVideoDiffusionPipeline
    from transformers import CLIPVisionModelWithProjection

    precision = dtype or stored_dtype(folder)
    variant = weights_variant(folder / "image_encoder", STEMS["image_encoder"]) or None
    encoder = load_whole(
        CLIPVisionModelWithProjection, folder / "image_encoder", dtype=precision, variant=variant, local_files_only=True
    )
    return StableVideoDiffusionPipeline.from_pretrained(
        folder,
        image_encoder=encoder,
        # left alone, diffusers makes its parts float32 and transformers does not
        torch_dtype=precision,
        variant=weights_variant(folder / "unet", STEMS["unet"]) or None,
        use_safetensors=True,
        local_files_only=True,
    )


def stored_dtype(folder: Path) -> torch.dtype:
    """The precision of the U-Net's weights that a pipeline's folder is read from, at least 16 bits; float32 if that
    cannot be told. Raises ValueError for 8-bit weights with scales."""
    variant = weights_variant(folder / "unet", STEMS["unet"])
    stem = ".".join(filter(None, (STEMS["unet"], variant)))
    files = [folder / "unet" / f"{stem}.safetensors", *sorted((folder / "unet").glob(f"{stem}-*.safetensors"))]
    try:
        with safe_open(next(file for file in files if file.exists()), framework="pt") as file:
            refuse_scales(file.keys())
            return computable(file.get_tensor(next(iter(file.keys()))).dtype)
    except (OSError, StopIteration, SafetensorError):
        return torch.float32


def _missing_files(folder: Path) -> list[str]:
    """What a pipeline's folder lacks."""
    plain = ("model_index.json", "scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json")
    lacking = [name for name in plain if not (folder / name).is_file()]
    return lacking + [f"{part}/{name}" for part, stem in STEMS.items() for name in missing_weights(folder / part, stem)]


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
