"""Folders of pretrained models: what they have to hold, and those of transformers as networks."""

import json
from pathlib import Path

from utils.cli import UserError
from utils.hub import resolve_model

MODEL_FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "spiece.model")
WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


def weights_variant(folder: Path, stem: str = "model") -> str | None:
    """Which weights of a model's folder are read: "" for <stem>.safetensors or an index of shards, else "fp16" for
    the same in half precision (<stem>.fp16.safetensors, <stem>.safetensors.index.fp16.json); None without any."""
    for variant in ("", "fp16"):
        if any((folder / name).is_file() for name in _with_variant(stem, variant)):
            return variant
    return None


def _with_variant(stem: str, variant: str) -> tuple[str, str]:
    """The names of a model's weights and of their index."""
    middle = f".{variant}" if variant else ""
    return f"{stem}{middle}.safetensors", f"{stem}.safetensors.index{middle}.json"


def missing_weights(folder: Path, stem: str = "model") -> list[str]:
    """What a model's folder lacks of config.json and its weights, whole or an index and all its shards."""
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    variant = weights_variant(folder, stem)
    if variant is None:
        return [*lacking, f"{stem}.safetensors"]
    weights, index = _with_variant(stem, variant)
    if (folder / weights).is_file():
        return lacking
    try:
        shards = sorted(set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [*lacking, f"a whole {index}"]
    return lacking + [shard for shard in shards if not (folder / shard).is_file()]


def text_folders(folder: Path) -> tuple[Path, Path]:
    """(the folder of a text model, that of its tokenizer): the same, or two parts of a pipeline."""
    if (folder / "text_encoder").is_dir():
        return folder / "text_encoder", folder / "tokenizer"
    return folder, folder


def missing_text_files(folder: Path) -> list[str]:
    """What a text encoder's folder lacks: configuration, weights, or a tokenizer in one of its three forms."""
    model, tokenizer = text_folders(folder)
    lacking = missing_weights(model)
    if not any((tokenizer / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        pair = [name for name in ("vocab.json", "merges.txt") if not (tokenizer / name).is_file()]
        lacking += pair if len(pair) == 1 else ["tokenizer.json"] * bool(pair)
    return lacking


def load_whole(model_class, folder: Path, **settings):
    """model_class.from_pretrained of transformers, but what the files lack is not made up: it raises ValueError."""
    model, info = model_class.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **settings)
    if missing := info["missing_keys"]:
        raise ValueError(f"it lacks {min(missing)}")
    return model


def load_text_encoder(name: str, revision: str | None = None, max_length: int | None = None):
    """A frozen TextEncoder from a folder or the hub: CLIP, T5 and whatever AutoModelForTextEncoding knows.

    Raises UserError if it cannot be had, or if its tokenizer is not whole.
    """
    flag, files = "--text_encoder", "config.json, model.safetensors, tokenizer.json"
    patterns = MODEL_FILES + WEIGHT_FILES + ("text_encoder/*.json", "text_encoder/*.safetensors", "tokenizer/*")
    folder = resolve_model(name, revision, patterns, flag, files, missing_text_files)
    folder, tokenizer_folder = text_folders(folder)

    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForTextEncoding, AutoTokenizer, CLIPTextModel
    from transformers.utils import logging

    from models.text_encoder import TextEncoder
    from utils.tensors import require_numbers

    try:
        # Said, not left to the default: that asks at the terminal, and whoever types y runs the folder's code.
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # A CLIP folder holds an image tower as well: only the text tower is loaded, and what is left over is no news.
        model_class = CLIPTextModel if config.model_type == "clip" else AutoModelForTextEncoding
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        variant = {"variant": found} if (found := weights_variant(folder)) else {}
        try:
            model = load_whole(model_class, folder, trust_remote_code=False, **variant).float()
        finally:
            logging.set_verbosity(verbosity)
        require_numbers(model.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
        return TextEncoder(name, tokenizer, model, trainable=False, max_length=max_length, revision=revision)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: {folder} cannot be used ({reason}); it should hold {files}") from None


def load_backbone(name: str, flag: str):
    """A frozen vision network from a folder or the hub, which gives the feature maps of all its stages: what
    transformers knows as a backbone (ResNet, ConvNeXt, Swin, DINOv2, ...). Raises UserError if it cannot be had."""
    files = "config.json and model.safetensors of a vision backbone of transformers"
    folder = resolve_model(name, None, MODEL_FILES + WEIGHT_FILES, flag, files, missing_weights)

    from safetensors import SafetensorError
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    from utils.tensors import require_numbers

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # AutoBackbone.from_pretrained of transformers 5.23 asks the hub, whatever folder it is given.
        network = MODEL_FOR_BACKBONE_MAPPING[type(config)].from_pretrained(
            folder, out_features=config.stage_names[1:], use_safetensors=True
        )
        require_numbers(network.state_dict())
        return network
    except (OSError, ValueError, KeyError, AttributeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: {folder} cannot be used ({reason}); it should hold {files}") from None
