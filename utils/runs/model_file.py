"""The model file that training leaves behind and generation reads: best_model.pth, which describes itself.

It holds plain data and tensors alone, so that torch.load(weights_only=True) reads it: the settings of the network and
of the diffusion, their (EMA) weights, the text encoder (its weights and tokenizer if it was trained here, else its
name), the autoencoder of a model of latents, and what generation needs to know about the training: frames, size,
guidance.
"""

import re
from pathlib import Path

import torch

from models.adapters.low_rank import merged
from models.adapters.motion_unet import MotionUNet
from models.conditions import ConditionSettings, settings_of
from models.diffusion.text2video import TextToVideoDiffusion
from models.text_encoder import BUILTIN, TextEncoder, builtin_text_encoder, load_tokenizer
from models.unet3d import UNet3D
from utils.cli import UserError, out_of_memory
from utils.files import explain_full_disk, whole_file
from utils.pretrained.model_folder import load_text_encoder
from utils.runs.checkpoint import whole
from utils.tensors import require_numbers, tensor_bytes

MODEL_FORMAT = 6  # with sums of vectors
# Formats of what older programs read too: UNet3D without and with an autoencoder, the motion network, conditions, a
# head over single pixels.
OF_PIXELS, OF_LATENTS, OF_MOTION, OF_CONDITIONS, OF_HEADS = 1, 2, 3, 4, 5


def pack_model(
    diffusion: TextToVideoDiffusion, text_encoder: TextEncoder, autoencoder: dict | None = None, **about
) -> dict:
    """The model as plain data and tensors. autoencoder: of pack_autoencoder. about: more plain data, such as step,
    num_frames, height, width."""
    config = {name: value for name, value in diffusion.unet.config.items() if not name.startswith("_")}
    encoder = {"name": text_encoder.name, "revision": text_encoder.revision, "max_length": text_encoder.max_length}
    if text_encoder.name == BUILTIN:
        encoder["tokenizer"] = text_encoder.tokenizer.backend_tokenizer.to_str()
        encoder["settings"] = builtin_settings(text_encoder)
        encoder["weights"] = cpu_tensors(text_encoder)
    motion, conditions = isinstance(diffusion.unet, MotionUNet), settings_of(diffusion.unet)
    needed = OF_MOTION if motion else OF_PIXELS if autoencoder is None else OF_LATENTS
    for has, number in (
        (conditions.names, OF_CONDITIONS),
        (config.get("pixel_channels"), OF_HEADS),
        (conditions.sums, MODEL_FORMAT),
    ):
        needed = number if has else needed
    return {
        "format": needed,
        **({"conditions": conditions.plain()} if conditions.names else {}),
        **({"network": "motion"} if motion else {}),
        "unet_config": config,
        "unet": merged(cpu_tensors(diffusion.unet)),
        "diffusion": diffusion.settings,
        "text_encoder": encoder,
        **({} if autoencoder is None else {"autoencoder": autoencoder}),
        **about,
    }


def unpack_model(
    model: dict, text_encoder: str | None = None, unet_class: type[UNet3D] = UNet3D, flag: str = "--checkpoint"
) -> tuple[TextToVideoDiffusion, TextEncoder]:
    """(diffusion, text encoder) in eval mode on the CPU, the inverse of pack_model.

    text_encoder: where a frozen encoder lies now, if not where the training found it. unet_class: the class of a U-Net
    that extends UNet3D. flag: which named the model. Raises UserError if the encoder cannot be had or the weights do
    not fit the network.
    """
    try:
        unet = (MotionUNet if model.get("network") == "motion" else unet_class).from_config(model["unet_config"])
        if "conditions" in model:
            unet.add_conditions(ConditionSettings.from_plain(model["conditions"]))
        unet.load_state_dict(checked_weights(model["unet"]))
        diffusion = TextToVideoDiffusion(unet, **model["diffusion"])
        stored = model["text_encoder"]
        if stored["name"] == BUILTIN:
            tokenizer = load_tokenizer(stored["tokenizer"], stored["max_length"])
            encoder = builtin_text_encoder(tokenizer, **stored["settings"])
            encoder.load_state_dict(checked_weights(stored["weights"]))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        reason = "; ".join(line.strip() for line in str(error).splitlines()[:4])
        raise UserError(f"{flag}: its weights do not fit its own description ({reason})") from None
    if stored["name"] != BUILTIN:
        encoder = load_text_encoder(text_encoder or stored["name"], stored["revision"], stored["max_length"])
        if encoder.dim != unet.config.cross_attention_dim:
            raise UserError(
                f"--text_encoder: {encoder.name} gives {encoder.dim} numbers per token, "
                f"the model was trained with {unet.config.cross_attention_dim}; give the encoder it was trained with"
            )
    return diffusion.eval(), encoder.eval()


def checked_weights(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights for load_state_dict, without the prefixes that torch.compile and wrappers for DDP put before names.

    Raises ValueError that names a tensor with values that are not numbers.
    """
    require_numbers(tensors)
    if others := {str(t.dtype) for t in tensors.values() if t.is_floating_point()} - {"torch.float32"}:
        print(f"note: weights stored as {', '.join(sorted(others))} become float32")
    return {re.sub(r"^(?:module\.|_orig_mod\.)+|_orig_mod\.", "", name): tensor for name, tensor in tensors.items()}


def builtin_settings(text_encoder: TextEncoder) -> dict[str, int]:
    """The arguments that build this built-in encoder again."""
    config = text_encoder.model.config
    return {
        "dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
    }


def cpu_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a module's tensors on the CPU. Where FSDP has spread them over processes, each process has to call."""
    return {name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in module.state_dict().items()}


def save_model(path: Path, model: dict) -> None:
    """Write a self-describing model file: tensors and plain data alone, so that weights_only=True can load it."""
    with (
        explain_full_disk(path, tensor_bytes(model)),
        whole_file(path, sync=True) as partial,
        open(partial, "wb") as file,
    ):
        torch.save(model, file)


def load_model(path: Path, flag: str = "--checkpoint") -> dict:
    """Read a model file; `path` may be the run folder that holds best_model.pth. Raises UserError in one line."""
    if path.is_dir():
        path = path / "best_model.pth"
    if not path.is_file():
        raise UserError(
            f"{flag}: there is no file {path}; train_text2video.py writes best_model.pth into its run folder"
        )
    try:
        model = torch.load(path, map_location="cpu", weights_only=True)
        found, newer = model["format"], model["format"] > MODEL_FORMAT
    except Exception as error:  # an unpickler fails in any way on a foreign file; weights_only keeps it from worse
        if out_of_memory(error):
            raise
        raise UserError(f"{flag}: {path} is not a model that train_text2video.py wrote, or it is damaged") from None
    if newer:
        raise UserError(f"{flag}: {path} has format {found}, this program reads up to {MODEL_FORMAT}: update it")
    return model
