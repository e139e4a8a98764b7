"""Maps made from the frames of clips: depth by a model, edges and flow by OpenCV, in folders that training reads."""

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np

from utils.cli import UserError, printable
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.files import whole_file, whole_folder
from utils.video.encode import write_image

FLOW_SCALE = 8.0  # an eighth of the frame's longer side per frame is 1
CANNY = 0.66, 1.33  # of the median grey: thresholds that suit dark and light frames


def edges_of(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) -> (T, H, W), 255 on the edges that Canny finds (1986)."""
    found = []
    for frame in frames:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        middle = max(float(np.median(grey)), 32.0)
        found.append(cv2.Canny(grey, CANNY[0] * middle, CANNY[1] * middle))
    return np.stack(found)


def flow_of(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) -> float16 (T, H, W, 2), motion (dx, dy) to the next frame by DIS (Kroeger et al. 2016), in
    eighths of the longer side, cut to [-1, 1]; the last frame has that of the one before."""
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [method.calc(a, b, None) for a, b in zip(grey, grey[1:], strict=False)]
    flows = flows or [np.zeros((*frames.shape[1:3], 2), np.float32)]
    while len(flows) < len(frames):
        flows.append(flows[-1])
    return np.clip(np.stack(flows) * (FLOW_SCALE / max(frames.shape[1:3])), -1, 1).astype(np.float16)


class DepthModel:
    """A depth-estimation model of transformers in a local folder, or of the hub. Raises UserError for what is none."""

    def __init__(self, name: str):
        import torch
        from transformers import pipeline

        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        try:
            safe = {"use_safetensors": True}  # a pickle could run code
            self.pipeline = pipeline(
                "depth-estimation", model=name, device=device, model_kwargs=safe, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"--depth: {printable(name)} is no model of transformers' depth estimation ({reason})"
            ) from None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) -> (T, H, W), black to white over all that the clip shows."""
        from PIL import Image

        found = self.pipeline([Image.fromarray(frame) for frame in frames])
        depth = np.stack([np.squeeze(each["predicted_depth"].float().cpu().numpy()) for each in found])
        depth = np.stack([cv2.resize(each, frames.shape[2:0:-1], interpolation=cv2.INTER_LINEAR) for each in depth])
        low, high = float(depth.min()), float(depth.max())
        spread = high - low if high - low > 1e-6 * abs(high) else 1.0  # of a wall there is none
        return np.rint((depth - low) * (255 / spread)).astype(np.uint8)


def write_maps(output_dir: Path, clips: Iterable[Path], makers: dict[str, Callable[[np.ndarray], np.ndarray]]) -> int:
    """For each clip, a folder of pictures, and each maker a map: <output_dir>/<name>/<clip>, pictures or .npy of what
    is no whole number. Those that are there are left alone; returns how many were made."""
    from tqdm import tqdm

    jobs = [(name, clip) for clip in clips for name in makers]
    missing = [(name, clip) for name, clip in jobs if not _is_there(output_dir / name, clip.name)]
    for name, clip in tqdm(missing, desc="making maps", unit="map", disable=None if missing else True):
        info = probe_video(clip)
        found = makers[name](read_frames(info, range(info.frames)))
        (output_dir / name).mkdir(exist_ok=True)
        if found.dtype == np.uint8:
            with whole_folder(output_dir / name / clip.name, found.nbytes) as folder:
                for n, frame in enumerate(found):
                    write_image(folder / f"{n:05d}.png", frame[..., None].repeat(3, axis=-1))
        else:
            with whole_file(output_dir / name / f"{clip.name}.npy") as partial, open(partial, "wb") as file:
                np.save(file, found)
    return len(missing)


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or (folder / f"{name}.npy").is_file()
