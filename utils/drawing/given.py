"""What is known of videos to be drawn, from files: frames, maps, vectors, sound, for a model that takes them."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.conditions import KNOWN, ConditionSettings
from models.diffusion.captioned import CaptionedDiffusion
from utils.arguments.conditions import pairs
from utils.cli import UserError, printable
from utils.conditions.clip_conditions import AUDIO
from utils.conditions.known_clips import placed
from utils.conditions.maps import ConditionError, MapFile, as_floats, map_indices, probe_map, read_map
from utils.conditions.sound import bands_of, power_of, read_sound
from utils.conditions.vectors import at_times, chosen_columns, read_vectors
from utils.decoding.images import ImageError, decode_image
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import STILL_SUFFIXES, STILLS, VideoError, VideoInfo
from utils.runs.checkpoint import sha256
from utils.runs.conditions import given_of
from utils.video.frame_windows import sample_segment
from utils.video.frames import resize_frames


@dataclass
class Known:
    """What is known of one video of num_frames of height x width, before it is put on the network's grid.

    video: (1, 3, T, H, W) in [-1, 1], mask (1, 1, T, H, W), 1 where it holds; None if nothing of it is known. values:
    {name: (1, C, T, H, W) or (1, T, D)}. files: {flag: digest}, which tells one from another.
    """

    video: Tensor | None = None
    mask: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def on_grid(self, model: CaptionedDiffusion, settings: ConditionSettings, device) -> dict[str, Tensor]:
        """Conditions of one sample for CaptionedDiffusion.sample."""
        batch = {"conditions": self.values, "present": {name: torch.ones(1) for name in self.values}}
        if self.video is None:
            settings = ConditionSettings(False, settings.maps, settings.vectors, settings.fold)
        batch["video"] = self.video
        return given_of(batch, settings, model.autoencoder, device, mask=self.mask)


def read_known(
    args: argparse.Namespace,
    settings: ConditionSettings,
    shape: tuple[int, int, int],
    fps: float,
    rate: float | None,
    of: tuple[VideoInfo, np.ndarray] | None = None,
) -> Known:
    """What the flags of add_given_args name, for videos of `shape` (frames, height, width).

    fps: frames per second of the videos' own time, for vectors, sound and maps with a rate; of what lasts longer than
    they do the beginning counts. rate: at which a video that is gone on from is read, None for all of its frames.
    of: (a video, frames of it) to which maps and vectors belong, where one is changed. Raises UserError that names the
    flag, for what the model does not know, what cannot be read, and what does not fit.
    """
    known, (num_frames, height, width) = Known(), shape
    frames = {}
    for flag, n in (("first_frame", 0), ("last_frame", num_frames - 1)):
        if path := getattr(args, flag):
            frames[n] = _picture(flag, path, height, width)
            known.files[flag] = digest(path)
    if args.continue_from:
        before = _end_of(args.continue_from, num_frames, height, width, rate)
        frames |= dict(enumerate(before))
        known.files["continue_from"] = digest(args.continue_from)
    if args.known_frames:
        frames |= _numbered(args.known_frames, num_frames, height, width)
        known.files["known_frames"] = digest(args.known_frames)
    if frames:
        known.video, known.mask = torch.zeros(1, 3, *shape), torch.zeros(1, 1, *shape)
        for n, frame in frames.items():
            known.video[0, :, n] = torch.from_numpy(frame).permute(2, 0, 1) / 127.5 - 1
            known.mask[:, :, n] = 1

    maps = pairs(args.maps) | ({"depth": str(args.depth)} if args.depth else {})
    vectors = vectors_of(args, settings) | ({AUDIO: str(args.audio)} if args.audio else {})
    if frames:
        check_known(KNOWN, settings.known, settings, next(iter(known.files)))
    for name in maps:
        check_known(name, name in settings.maps, settings, "depth" if name == "depth" and args.depth else "maps")
    for name in vectors:
        check_known(name, name in settings.vectors, settings, AUDIO if name == AUDIO and args.audio else "vectors")
    clip, indices = of or (VideoInfo("", num_frames, fps, width, height, ""), np.arange(num_frames))
    times = indices / clip.fps if clip.times is None else np.array(clip.times)[indices]
    for name, file in (maps | vectors).items():
        flag = f"maps {name}" if name in maps else AUDIO if name == AUDIO else "vectors"
        try:
            if name in maps:
                found, channels = probe_map(Path(file)), settings.maps[name]
                wanted = map_indices(found, clip if of else as_long(clip, found), indices)
                values = as_floats(read_map(found, wanted, channels))
                values = placed(values, height, width, "crop", (0.5, 0.5)).transpose(3, 0, 1, 2)
            elif name == AUDIO:
                values = bands_of(power_of(read_sound(Path(file))), times, 1 / fps)
            else:
                chosen = chosen_columns(read_vectors(Path(file)), settings.vectors[name]["names"])
                values = at_times(chosen, times, clip.frames / clip.fps)
        except ConditionError as error:
            raise UserError(f"--{flag}: {printable(file)} {error}") from None
        known.values[name] = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None]
        known.files[name] = digest(Path(file))
    return known


def as_long(clip: VideoInfo, found: MapFile) -> VideoInfo:
    """A clip that lasts as long as a map that is longer than it."""
    own = found.info.fps if found.info and found.info.codec != STILLS else clip.fps
    return replace(clip, frames=max(clip.frames, round(found.frames / own * clip.fps)))


def check_known(name: str, is_known: bool, settings: ConditionSettings, flag: str) -> None:
    """Raises UserError for a condition that the model was not trained with."""
    if not is_known:
        what, knows = "known frames" if name == KNOWN else name, ", ".join(settings.names) or "none"
        raise UserError(f"--{flag}: this model was not trained with {what}; conditions that it knows: {knows}")


def vectors_of(args: argparse.Namespace, settings: ConditionSettings) -> dict[str, str]:
    """{name: file} of --vectors; without a name the only one that the model knows."""
    if args.vectors is None:
        return {}
    name, _, file = args.vectors.rpartition("=")
    others = [each for each in settings.vectors if each != AUDIO]
    if not name and len(others) > 1:
        raise UserError(f"--vectors: this model knows {', '.join(others)}; give NAME={file}")
    return {name or (others[0] if others else "vectors"): file}


def _picture(flag: str, path: Path, height: int, width: int) -> np.ndarray:
    try:
        return resize_frames(decode_image(path)[None], height, width)[0]
    except ImageError as error:
        raise UserError(f"--{flag}: {printable(path)} {error}") from None


def _end_of(path: Path, num_frames: int, height: int, width: int, rate: float | None) -> np.ndarray:
    """The last frames of a video, up to half of what is to be drawn."""
    try:
        info = probe_video(path)
        indices, _ = sample_segment(info, max([0, *info.gaps]), info.frames, rate, 1)
        return resize_frames(read_frames(info, indices[-max(1, num_frames // 2) :]), height, width)
    except (VideoError, OSError) as error:
        raise UserError(f"--continue_from: {printable(path)} {error}") from None


def _numbered(folder: Path, num_frames: int, height: int, width: int) -> dict[int, np.ndarray]:
    """{frame: picture} of a folder whose pictures are called by the number of their frame."""
    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in STILL_SUFFIXES]
    wrong = [path.name for path in files if not path.stem.isdecimal() or int(path.stem) >= num_frames]
    if wrong or not files:
        what = f"{printable(wrong[0])} is no number of a frame" if wrong else "there is no picture"
        raise UserError(f"--known_frames: {printable(folder)}: {what}; call them 0.png to {num_frames - 1}.png")
    return {int(path.stem): _picture("known_frames", path, height, width) for path in files}


def digest(path: Path) -> str:
    """Of a file, or of the files in a folder: tells what was given from what else could have been."""
    if path.is_dir():
        return " ".join(f"{each.name}:{sha256(each)[:16]}" for each in sorted(path.iterdir()) if each.is_file())
    return sha256(path)[:16]
