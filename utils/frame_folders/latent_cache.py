"""Latents and image embeddings of every frame, computed once: the encoders cost more than the U-Net's forward pass.

One safetensors file a clip, named by the SHA-256 of all that its content follows from: the files of the frames (name,
size, time), how they are resized, and the weights of the encoders. So a stale file is never read, and two trainings
share what they have in common.
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from models.svd.conditioning import encode_latents, image_embeddings
from utils.files import explain_full_disk, whole_file
from utils.frame_folders.frame_clips import TrainingClip, to_tensor


class LatentCache:
    """The cache in cache_dir for frames of width x height, resized by resize_mode, and for these encoders."""

    def __init__(self, cache_dir: Path, width: int, height: int, resize_mode: str, vae: nn.Module, image_encoder):
        self.cache_dir, self.size = cache_dir, (width, height, resize_mode)
        self.encoders = fingerprint(vae, image_encoder)
        self.paths: dict[Path, Path] = {}

    def path(self, clip: TrainingClip) -> Path:
        if clip.folder not in self.paths:
            self.paths[clip.folder] = self._path(clip)
        return self.paths[clip.folder]

    def _path(self, clip: TrainingClip) -> Path:
        key = json.dumps([str(clip.folder.resolve()), clip.stamps(), self.size, self.encoders])
        return self.cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def fill(
        self,
        clips: list[TrainingClip],
        vae: nn.Module,
        image_encoder: nn.Module,
        feature_extractor,
        chunk: int = 8,
    ) -> None:
        """Compute what is missing. Each file is written under another name first, so none is ever half there.

        chunk: frames that are encoded at once. Raises UserError for an unreadable frame and for a full disk.
        """
        missing = [clip for clip in clips if not self.path(clip).exists()]
        device = vae.device
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        bar = tqdm(missing, desc="encoding clips", unit="clip", disable=None if missing else True)
        for number, clip in enumerate(bar):
            latents, embeddings = [], []
            for start in range(0, clip.frames, chunk):
                frames = range(start, min(start + chunk, clip.frames))
                pixels = to_tensor(clip.read(frames, *self.size)).to(device)
                latents.append(encode_latents(vae, pixels[None], chunk)[0].cpu())
                embeddings.append(image_embeddings(image_encoder, feature_extractor, pixels)[:, 0].float().cpu())
            path = self.path(clip)
            cached = {"latents": torch.cat(latents), "image_embeddings": torch.cat(embeddings)}
            needed = sum(tensor.nbytes for tensor in cached.values()) * (len(missing) - number)
            remedy = "make room, give a --cache_dir on another disk, or --no_cache"
            with explain_full_disk(path, needed, remedy), whole_file(path) as partial:
                save_file({name: tensor.contiguous() for name, tensor in cached.items()}, partial)

    def load(self, clip: TrainingClip, window: range) -> dict[str, Tensor]:
        """ "latents" (T, 4, H/8, W/8) of the frames in `window` and "image_embeddings" (1, D) of its first."""
        with safe_open(self.path(clip), framework="pt") as file:
            latents = file.get_slice("latents")[window.start : window.stop]
            embeddings = file.get_slice("image_embeddings")[window.start : window.start + 1]
        return {"latents": latents[:: window.step], "image_embeddings": embeddings}


def fingerprint(*modules: nn.Module) -> str:
    """SHA-256 of the weights of modules."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
