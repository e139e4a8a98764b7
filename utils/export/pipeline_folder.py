"""A trained model as a folder that diffusers loads alone: its parts, and the files of its code."""

import ast
import json
from pathlib import Path

from diffusers import DDPMScheduler

from models.adapters.motion_unet import MotionUNet
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.pipeline import TextToVideoPipeline
from models.text_encoder import BUILTIN
from utils.files import write_text

MODELS = Path(__file__).parents[2] / "models"
# The files of `models` of which each file of code in the folder is made: one that needs no other, since diffusers
# brings the modules of all folders together in one place, where two of a name would be one.
UNET3D = ("layers.py", "conditions.py", "unet3d.py")
MOTION_UNET = ("layers.py", "conditions.py", "adapters/motion_unet.py")
PATCH_AUTOENCODER = ("layers.py", "patch_autoencoder.py")
PIPELINE = (
    *PATCH_AUTOENCODER,
    "windows.py",
    "autoencoder.py",
    "conditions.py",
    "diffusion/noise_schedule.py",
    "diffusion/sampling.py",
    "diffusion/text2video.py",
    "text_encoder.py",
    "diffusion/captioned.py",
    "diffusion/pipeline.py",
)


def save_pipeline(model: CaptionedDiffusion, folder: Path, defaults: dict) -> None:
    """Write unet/, text_encoder/, tokenizer/, scheduler/, of a model of latents vae/, and model_index.json.

    defaults: what the pipeline does where it is not told: num_frames, height, width, guidance_scale, ...
    """
    diffusion, encoder, autoencoder = model.diffusion, model.text_encoder, model.autoencoder
    settings = {"builtin_text": encoder.name == BUILTIN, "max_text_tokens": encoder.max_length}
    if autoencoder is not None:
        settings |= {"latents_mean": autoencoder.mean.tolist(), "latents_std": autoencoder.std.tolist()}
    scheduler = DDPMScheduler.from_config(diffusion.scheduler.config, prediction_type=diffusion.prediction_type)
    pipeline = TextToVideoPipeline(
        diffusion.unet,
        scheduler,
        encoder.model,
        encoder.tokenizer,
        None if autoencoder is None else autoencoder.vae,
        **settings,
        **defaults,
    )
    pipeline.save_pretrained(folder)

    motion = isinstance(diffusion.unet, MotionUNet)
    code = {"pipeline.py": PIPELINE, "unet/unet3d.py": UNET3D}
    code = {"pipeline.py": PIPELINE, "unet/motion_unet.py": MOTION_UNET} if motion else code
    if autoencoder is not None and autoencoder.kind == "PatchAutoencoder":
        code["vae/patch_autoencoder.py"] = PATCH_AUTOENCODER
    index_file = folder / "model_index.json"
    index = json.loads(index_file.read_text(encoding="utf-8"))
    for name, parts in code.items():
        write_text(folder / name, one_file(parts))
        part, _, module = name.removesuffix(".py").rpartition("/")
        entry = part or "_class_name"
        index[entry] = [module, index[entry][1] if part else index[entry]]
    write_text(index_file, json.dumps(index, indent=2) + "\n")
    for path in folder.rglob("*.safetensors"):  # which is written for its owner's eyes alone
        path.chmod(index_file.stat().st_mode)


def one_file(parts: tuple[str, ...]) -> str:
    """The source of several files of `models` as one, without their imports of each other."""
    licence = (MODELS.parent / "LICENSE").read_text(encoding="utf-8").splitlines()
    texts = [f"# {licence[0]}, {licence[2][0].lower()}{licence[2][1:]}. A copy of {', '.join(parts)}, as one file."]
    for part in parts:
        lines = (MODELS / part).read_text(encoding="utf-8").splitlines()
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "models":
                lines[node.lineno - 1 : node.end_lineno] = [None] * (node.end_lineno - node.lineno + 1)
        texts.append("\n".join(line for line in lines if line is not None))
    return "\n\n\n".join(texts) + "\n"
