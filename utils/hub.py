"""Pretrained models: a local folder, the local cache, a hub or its mirror, in this order and within seconds."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from utils.cli import UserError

PROBE_SECONDS = 3
MODEL_FILES = ("config.json", "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "spiece.model")
WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")


def resolve_model(name: str, revision: str | None, patterns: tuple[str, ...], flag: str, files: str) -> Path:
    """The folder that holds model `name`, downloaded if need be.

    name: a folder, or a hub name such as openai/clip-vit-large-patch14. patterns: the files that are wanted.
    flag and files go into the message of the UserError: the flag that chose the model, the files a folder must hold.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"{flag}: there is no folder {name}; it should hold {files}")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns), local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        pass  # not in the cache
    unreachable = _unreachable_hub()
    if not unreachable:
        try:
            return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
        except GatedRepoError:
            raise UserError(
                f"{flag}: {name} wants a login: accept its licence on the hub, then `hf auth login`"
            ) from None
        except RepositoryNotFoundError:
            raise UserError(f"{flag}: the hub has no model {name} (or `hf auth login` is missing)") from None
        except (HfHubHTTPError, OSError, ValueError) as error:
            unreachable = str(error).splitlines()[0]
    raise UserError(
        f"{flag}: {name} is not on this machine and the hub did not answer ({unreachable}). Three ways out: "
        f"{flag} FOLDER with a local copy ({files}); a mirror, export HF_ENDPOINT=https://hf-mirror.com; "
        "or, for text to video, --text_encoder builtin, which needs no download "
        f"| 本机没有 {name}，也连不上模型站：{flag} 指定本地文件夹，或设置镜像 HF_ENDPOINT，或 --text_encoder builtin"
    )


def _unreachable_hub() -> str:
    """Why the hub cannot be reached, found out in at most PROBE_SECONDS; "" if it answers.

    The libraries retry every file for half a minute each before they give up, so they are asked only if this passes.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    proxy = next((os.environ[key] for key in ("HTTPS_PROXY", "https_proxy") if os.environ.get(key)), None)
    url = urlsplit(proxy or endpoint)
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname or "", port), timeout=PROBE_SECONDS).close()
        return ""
    except OSError as error:
        return f"{proxy or endpoint}: {error}"


def load_text_encoder(name: str, revision: str | None = None, max_length: int | None = None):
    """A frozen TextEncoder from a folder or the hub: CLIP, T5 and whatever AutoModelForTextEncoding knows.

    Raises UserError if it cannot be had, or if its tokenizer is not whole.
    """
    flag, files = "--text_encoder", "config.json, model.safetensors, tokenizer.json"
    folder = resolve_model(name, revision, MODEL_FILES + WEIGHT_FILES, flag, files)

    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForTextEncoding, AutoTokenizer, CLIPTextModel
    from transformers.utils import logging

    from models.text_encoder import TextEncoder

    try:
        config = AutoConfig.from_pretrained(folder)
        # A CLIP folder holds an image tower as well: only the text tower is loaded, and what is left over is no news.
        model_class = CLIPTextModel if config.model_type == "clip" else AutoModelForTextEncoding
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        model = model_class.from_pretrained(folder, use_safetensors=True)
        logging.set_verbosity(verbosity)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TextEncoder(name, tokenizer, model, trainable=False, max_length=max_length, revision=revision)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: {folder} cannot be used ({reason}); it should hold {files}") from None
