"""Trained weights without their base: a part of the U-Net in a file of ours, adapters in peft's format."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.cli import UserError, printable
from utils.files import explain_full_disk, whole_file, write_text
from utils.runs.checkpoint import sha256
from utils.tensors import require_numbers, tensor_bytes

TRAINED, TRAINED_INFO = "trained.safetensors", "trained.json"
ADAPTERS, ADAPTERS_CONFIG = "adapter_model.safetensors", "adapter_config.json"  # as peft names them


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


def _add_adapters(unet, lora: dict):
    """A PeftModel around `unet`, which then holds adapters in its temporal attention."""
    from peft import LoraConfig, get_peft_model

    from models.svd.memory import lora_target_modules

    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora_target_modules(unet))
    return get_peft_model(unet, config)


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


def save_adapters(tensors: dict[str, torch.Tensor], lora: dict, base_model: str, output_dir: Path) -> None:
    """Write adapters in peft's own format, which plain peft loads: PeftModel.from_pretrained(pipeline.unet, folder)."""
    from peft import LoraConfig

    targets = sorted({name.partition(".lora_")[0] for name in tensors})
    tensors = {f"base_model.model.{name.replace('.default', '')}": tensor for name, tensor in tensors.items()}
    path = output_dir / ADAPTERS
    with explain_full_disk(path, tensor_bytes(tensors)), whole_file(path, sync=True) as partial:
        save_file(tensors, partial)
    config = LoraConfig(r=lora["rank"], lora_alpha=lora["alpha"], target_modules=targets, inference_mode=True)
    config.base_model_name_or_path = str(base_model)
    config.save_pretrained(output_dir)


def add_adapters(unet, folder: Path, flag: str = "--lora"):
    """The U-Net with the adapters in a folder of peft's format, ours or others', merged into its weights.

    Raises UserError if they are not there, no LoRA in safetensors, or belong to another network.
    """
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    try:
        tensors = load_file(folder / ADAPTERS)  # and never the pickle that peft would look for next
        require_numbers(tensors)
        config = PeftConfig.from_pretrained(folder)
        if config.peft_type != "LORA":
            raise ValueError(f"it is no LoRA but {config.peft_type}")
        wrapped = get_peft_model(unet, config)
        result = set_peft_model_state_dict(wrapped, tensors)
        if result.unexpected_keys:
            raise ValueError(f"the U-Net has no {result.unexpected_keys[0]}")
        if lacking := [name for name in result.missing_keys if "lora_" in name]:
            raise ValueError(f"{ADAPTERS} lacks {lacking[0]} and {len(lacking) - 1} more")
        return wrapped.merge_and_unload()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{flag}: the adapters in {printable(folder)} cannot be used ({reason}); {ADAPTERS} and {ADAPTERS_CONFIG} "
            "should be LoRA for this model's U-Net"
        ) from None


def adapted_model(folder: Path) -> str | None:
    """The base model that the adapters in a folder are for; None without adapters or if they do not say."""
    try:
        return json.loads((folder / ADAPTERS_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
