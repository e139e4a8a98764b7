"""An image model in one file, as Stability AI and the sites of its users have them: unpacked once, into a pipeline's
folder beside it. diffusers knows the names in such files; what they lack is their configuration and the tokenizer."""

import json
from pathlib import Path

from utils.cli import UserError, printable

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
FLAG, CONFIG_FLAG = "--init_from_2d", "--init_from_2d_config"
CONFIG_FILES = "model_index.json, the config.json of unet, vae and text_encoder, scheduler/, tokenizer/; no weights"
CONFIGS = ("model_index.json", "*/config.json", "scheduler/scheduler_config.json", "tokenizer/*")
# What diffusers calls the kinds that fit, and where their configuration lies.
KINDS = ("v1", "v2")
UNPACKED = "-unpacked"  # behind the name of the file
NOTE = "unpacked.json"


def unpacked(file: Path, config: str | None) -> Path:
    """The folder of the pipeline in a file, unpacked there unless it has been. config: folder or hub name of a pipeline
    of the same kind, by default Stable Diffusion's own on the hub. Raises UserError for a pickle, a file of another
    kind or a damaged one, and where no configuration can be had."""
    if file.suffix.lower() in PICKLES:
        raise UserError(
            f"{FLAG}: {printable(file)} may be a pickle, which can run code, and is not read; give safetensors"
        )
    folder = file.with_name(f"{file.stem}{UNPACKED}")
    note = {"file": file.name, "bytes": file.stat().st_size, "changed": file.stat().st_mtime_ns, "config": config}
    try:
        if json.loads((folder / NOTE).read_text(encoding="utf-8")) == note:
            return folder
    except (OSError, ValueError):
        pass

    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type
    from safetensors import SafetensorError, safe_open

    from utils.files import whole_folder, write_text
    from utils.hub import resolve_model
    from utils.tensors import refuse_scales, require_numbers

    try:
        with safe_open(file, framework="pt") as tensors:
            names = set(tensors.keys())
            refuse_scales(names)
            kind = infer_diffusers_model_type({name: _Shape(tensors, name) for name in names})
            half = "model.diffusion_model.out.2.weight" in names and (
                tensors.get_tensor("model.diffusion_model.out.2.weight").dtype == torch.float16
            )
    except ValueError as error:
        raise UserError(f"{FLAG}: {printable(file)}: {error}") from None
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{FLAG}: {printable(file)} is damaged or no safetensors file ({error})") from None
    if not kind.startswith(KINDS) or "model.diffusion_model.out.2.weight" not in names:
        raise UserError(f"{FLAG}: {printable(file)} is no whole Stable Diffusion 1 or 2 (it looks like {kind!r})")
    default = DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
    configured = resolve_model(config or default, None, CONFIGS, CONFIG_FLAG, CONFIG_FILES, _missing_configs)
    print(f"unpacking {printable(file)} into {printable(folder)}, once")
    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(file),
            config=str(configured),
            local_files_only=True,
            torch_dtype=torch.float16 if half else torch.float32,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            require_numbers(part.state_dict())
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{FLAG}: {printable(file)} does not fit {printable(configured)} ({reason})") from None
    try:
        with whole_folder(folder, file.stat().st_size) as partial:
            pipeline.save_pretrained(partial)
            write_text(partial / NOTE, json.dumps(note, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"{FLAG}: {printable(folder)} cannot be written ({error.strerror}); copy the file to where it can"
        ) from None
    return folder


class _Shape:
    """What infer_diffusers_model_type looks at in a tensor."""

    def __init__(self, tensors, name: str):
        self.tensors, self.name = tensors, name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensors.get_slice(self.name).get_shape())


def _missing_configs(folder: Path) -> list[str]:
    needed = ["model_index.json", *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder"))]
    needed += ["scheduler/scheduler_config.json"]
    lacking = [name for name in needed if not (folder / name).is_file()]
    return lacking + ["tokenizer/"] * (not (folder / "tokenizer").is_dir())
