"""Features of clips by name, CLIP score and FVD. Everything is read from local files; nothing is downloaded."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from operator import length_hint
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.metrics.distances import Distance, frechet_distance
from models.metrics.video_features import CLIPFeatures, I3DFeatures, Random3DFeatures, VAEFeatures, as_video
from models.text_encoder import check_tokenizer
from utils.cli import UserError, printable
from utils.motion.score import flow_histogram
from utils.pretrained.model_folder import load_whole

FEATURES = ("random3d", "flow", "clip", "vae")
CLIP_FILES = "config.json, model.safetensors and the tokenizer of a CLIP model such as openai/clip-vit-base-patch32"
CLIP_VISION_FILES = "config.json and model.safetensors of a CLIP model, or of SVD's image_encoder"
VAE_FILES = "config.json and diffusion_pytorch_model.safetensors of an AutoencoderKL, such as SVD's vae"

Extract = Callable[[Iterable[np.ndarray], float], Tensor]


def load_features(
    name: str,
    folder: Path | None = None,
    flag: str = "--features_dir",
    device: torch.device | str = "cpu",
    batch_size: int = 8,
) -> Extract:
    """`extract(clips, fps)`: uint8 clips (T, H, W, 3) and their rate -> features (N, D), float32, on the CPU.

    name: "random3d", fixed random convolutions, or "flow", the histogram of optical flow, which need no files; "clip"
    or "vae" with a local folder. Only "flow" looks at fps. "flow" is the root of D times the histogram, so that the
    argument x.y / D of the kernel distance is the Bhattacharyya coefficient. clips are read one batch at a time and
    may be any iterable. flag goes into the messages: the flag that gave the folder. Raises UserError.
    """
    if name not in FEATURES:
        raise UserError(f"--features: got {name}, must be one of {', '.join(FEATURES)}")
    if name == "flow":

        def extract(clips: Iterable[np.ndarray], fps: float) -> Tensor:
            bar = tqdm(clips, desc="flow features", unit="clip", leave=False)
            histograms = np.array([flow_histogram(clip, fps) for clip in bar]).reshape(-1, 49)
            return torch.from_numpy(np.sqrt(histograms * histograms.shape[1])).float()

        return extract
    if name == "random3d":
        module = Random3DFeatures()
    elif folder is None:
        files = CLIP_VISION_FILES if name == "clip" else VAE_FILES
        raise UserError(f"{flag}: --features {name} needs a local folder with {files}")
    else:
        module = _load_clip_vision(folder, flag) if name == "clip" else VAEFeatures(_load_vae(folder, flag))
    module.to(device)
    return lambda clips, fps: _extract(module, clips, f"--features {name}", device, batch_size)


def clip_score(
    clips: Iterable[np.ndarray],
    prompts: Sequence[str],
    folder: Path,
    flag: str = "--clip_dir",
    num_frames: int = 8,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
) -> np.ndarray:
    """100 max(cos(frame, prompt), 0), averaged over even frames: (N,), one number per clip (Hessel et al. 2021,
    arXiv:2104.08718, with 100 for their 2.5, as torchmetrics has it).

    clips: uint8 (T, H, W, 3), one per prompt; folder: a CLIP model on this machine. Prompts beyond CLIP's 77 tokens are
    cut. Raises UserError for a folder that is not whole, ValueError if there are more or fewer clips than prompts.
    """
    vision = _load_clip_vision(folder, flag, num_frames).to(device)
    texts = _embed_texts(folder, flag, prompts, device)
    frames = _extract(vision, clips, flag, device, batch_size, vision.embed_frames)
    if len(frames) != len(texts):
        raise ValueError(f"{len(frames)} clips for {len(texts)} prompts")
    pairs = zip(frames, texts, strict=True)
    return np.array([100 * (own @ text).clamp(min=0).mean().item() for own, text in pairs])


def fvd(
    generated: Iterable[np.ndarray],
    real: Iterable[np.ndarray],
    weights: Path,
    flag: str = "--fvd_weights",
    device: torch.device | str = "cpu",
    batch_size: int = 8,
) -> Distance:
    """FVD: the Frechet distance of I3D's logits (Unterthiner et al. 2018, arXiv:1812.01717).

    clips: uint8 (T, H, W, 3), at least 10 frames; papers take 16 frames of 2048 clips, and only numbers of the same
    counts compare. weights: i3d_torchscript.pt of Skorokhodov et al. (StyleGAN-V, arXiv:2112.14683). A TorchScript
    file is a program: loading it runs what its author wrote, so take it from where its authors put it. Raises
    UserError for a file that is not that network.
    """
    if not weights.is_file():
        raise UserError(f"{flag}: there is no file {printable(weights)}; it should be i3d_torchscript.pt")
    try:
        module = I3DFeatures(torch.jit.load(weights, map_location=device))
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{flag}: {printable(weights)} is no TorchScript file ({_reason(error)})") from None
    sets = [_extract(module, clips, flag, device, batch_size) for clips in (generated, real)]
    try:
        return replace(frechet_distance(*sets), kind="FVD")
    except ValueError as error:
        raise UserError(f"FVD: {error}") from None


def _extract(
    module: nn.Module, clips: Iterable[np.ndarray], source: str, device, batch_size: int, function=None
) -> Tensor | list[Tensor]:
    """What module, or function, answers for each clip; source: what to blame in the UserError."""
    rows = []
    with tqdm(total=length_hint(clips) or None, desc=source, unit="clip", leave=False) as bar:
        for batch in _batches(clips, batch_size):
            try:
                rows += (function or module)(as_video(np.stack(batch)).to(device)).cpu()
            except ValueError as error:
                raise UserError(f"{source}: {_reason(error)}") from None
            bar.update(len(batch))
    return rows if function else torch.stack(rows) if rows else torch.zeros(0, 0)


def _batches(clips: Iterable[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
    """Successive clips of one shape, at most batch_size at a time."""
    batch = []
    for clip in clips:
        if batch and (len(batch) == batch_size or clip.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(clip)
    if batch:
        yield batch


# Models in local folders ----------------------------------------------------------------------------------------------


def _load_clip_vision(folder: Path, flag: str, num_frames: int = 8) -> CLIPFeatures:
    from transformers import CLIPVisionModelWithProjection

    model = _load(CLIPVisionModelWithProjection, folder, flag, CLIP_VISION_FILES)
    try:
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        colours = {name: tuple(settings[name]) for name in ("image_mean", "image_std")}
    except FileNotFoundError:
        colours = {}  # CLIP's own
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{flag}: {printable(folder)}/preprocessor_config.json: {_reason(error)}") from None
    return CLIPFeatures(model, num_frames, **colours)


def _embed_texts(folder: Path, flag: str, prompts: Sequence[str], device) -> Tensor:
    """(N, D), each of length 1, on the CPU."""
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    model = _load(CLIPTextModelWithProjection, folder, flag, CLIP_FILES).to(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        check_tokenizer(tokenizer, model.config.vocab_size, str(folder))
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise UserError(f"{flag}: {printable(folder)}: {_reason(error)}; it should hold {CLIP_FILES}") from None
    embeddings = []
    for start in range(0, len(prompts), 64):
        limit = model.config.max_position_embeddings
        tokens = tokenizer(
            list(prompts[start : start + 64]), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(device)
        with torch.no_grad():
            output = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        embeddings.append(nn.functional.normalize(output.text_embeds.float(), dim=-1).cpu())
    return torch.cat(embeddings) if embeddings else torch.zeros(0, model.config.projection_dim)


def _load_vae(folder: Path, flag: str) -> nn.Module:
    import diffusers

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{flag}: {printable(folder)} lacks a config.json that can be read ({_reason(error)}); "
            f"it should hold {VAE_FILES}"
        ) from None
    if name not in ("AutoencoderKL", "AutoencoderKLTemporalDecoder"):
        raise UserError(f"{flag}: {printable(folder)} holds {printable(name)}; it should hold {VAE_FILES}")
    return _load(getattr(diffusers, name), folder, flag, VAE_FILES)


def _load(model_class, folder: Path, flag: str, files: str) -> nn.Module:
    """A model from a local folder, every weight of it from the file. Raises UserError."""
    from transformers.utils import logging

    if not folder.is_dir():
        raise UserError(f"{flag}: there is no folder {printable(folder)}; it should hold {files}")
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # a CLIP folder holds two towers, and what is left over is no news
    logging.disable_progress_bar()
    try:
        model = load_whole(model_class, folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{flag}: {printable(folder)} cannot be used ({_reason(error)}); it should hold {files}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    return model.float().eval()


def _reason(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:300])
