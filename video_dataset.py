"""Video-caption pairs: the dataset class that training reads, a demo dataset of moving shapes, and a data check.

    python video_dataset.py                            # writes ./demo_video_data: 1500 clips of moving shapes
    python video_dataset.py --check my_videos          # reports what is wrong with your own folder
    python video_dataset.py --from_lerobot owner/name  # downloads a dataset of robots, and reports

A data folder holds videos/<stem>.<any video extension> and captions/<stem>.txt; or clip.mp4 beside clip.txt; or videos
and a table, metadata.jsonl, .csv or .parquet.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.arguments.buckets import Bucket
from utils.arguments.conditions import folders_of
from utils.arguments.data import (
    DEMO,
    MISSING_CAPTION,
    RESIZE_MODES,
    SHORT_CLIPS,
    add_dataset_args,
    buckets_of,
    reading_args,
)
from utils.cli import Parser, UserError, printable, run
from utils.data.captions import swap_left_right
from utils.data.clip_index import bucket_counts, clip_digests, print_report, usable_clips, validation_clips
from utils.data.data_check import check_dataset, print_check, save_contact_sheet
from utils.data.errors import CaptionError, DataError
from utils.data.find_clips import FolderFormat
from utils.data.readable import ReadableClips, UnreadableClip
from utils.decoding.video_info import is_picture
from utils.video.frame_windows import choose_bucket, window, window_starts

if TYPE_CHECKING:
    from utils.decoding.video_info import VideoInfo

# torch, OpenCV and PyAV are imported where they are used: --help answers at once, and a Dataset needs no base class.

DECODE_BYTES = 32 * 2**30  # frames of this size in all take some 20 s to decode: longer clips are never kept


class TextVideoDataset(ReadableClips):
    """Clips and captions for training: dataset[i] or dataset[(epoch, i)] is a dict of

    video: float32 tensor (3, T, H, W) in [-1, 1], or [0, 1] if not `normalize`; black and white map to the ends exactly
    text:  caption
    index: i
    path:  the video file

    A window of `num_frames` frames is chosen by time: every frame, or with `target_fps` the frames nearest to
    start + k / target_fps (of a slow clip some repeat). It never crosses a gap left by damaged packets. Clips that are
    shorter follow `short_clips`: "skip", "pad" (repeat the last frame) or "loop".

    augment: random window, random crop along the longer side (resize_mode "crop"), and, with probability 1/2, a
    horizontal flip that also exchanges left and right in the caption (see `swap_left_right`). The "val" split, and
    augment=False, take the middle window and the centre. Every choice comes from `self.rng`, seeded with (seed, epoch,
    index): neither order nor worker processes matter. Override the two hooks for your own augmentation and draw from
    `self.rng` there.

    frame_size: height and width, or (height, width); `width` overrides the width. buckets: (height, width, frames) of
    samples, which take the place of both and of num_frames: a clip is used in the longest that it fills, then the
    nearest in aspect ratio; `groups` says which clips may share a batch. max_samples: use only the first usable clips,
    before the split. min_frames: that a clip needs, by default those of the shortest bucket. cache_bytes: resized clips
    kept in memory, per process; changes speed alone. max_bad_fraction: None raises DataError for a clip that has become
    unreadable; a number lets other clips take the places of so many, see `ReadableClips`.
    image_share: share of the samples that are captioned pictures, clips of one frame; 0 leaves pictures out, and they
    validate only where there is no video. frames_fps: of clips that are folders of pictures, where no manifest says.
    video_column, caption_column: of a table of captions, if there is one. Of several captions of a clip one is drawn in
    each epoch, when augmenting; else it is the first. trigger_word: put in front of every caption.
    cameras: of episodes of a LeRobot dataset, side by side; by default the only one.
    `report` says what was skipped: {"ok": n, "skipped": {reason: [file names]}, ...}.

    Raises MissingData (a FileNotFoundError) or DataError (a ValueError) with a one-line remedy if the folder or an
    argument cannot be used.
    """

    def __init__(
        self,
        data_dir: str | Path,
        num_frames: int = 16,
        frame_size: int | tuple[int, int] = 64,
        normalize: bool = True,
        augment: bool = True,
        max_samples: int | None = None,
        *,
        split: str = "all",
        val_fraction: float = 0.05,
        target_fps: float | None = None,
        resize_mode: str = "crop",
        short_clips: str = "skip",
        missing_caption: str = "error",
        caption_encoding: str = "utf-8-sig",
        seed: int = 0,
        cache_bytes: int = 512 * 2**20,
        width: int | None = None,
        max_bad_fraction: float | None = None,
        video_column: str | None = None,
        caption_column: str | None = None,
        trigger_word: str | None = None,
        buckets: Sequence[tuple[int, int, int]] | None = None,
        image_share: float = 0.0,
        frames_fps: float = 8.0,
        cameras: Sequence[str] | None = None,
        min_frames: int | None = None,
    ):
        super().__init__(seed, None)
        self.data_dir = Path(data_dir)
        self.num_frames, self.normalize, self.augment = num_frames, normalize, augment
        self.height, self.width = (frame_size, frame_size) if isinstance(frame_size, int) else frame_size
        self.width = width or self.width
        self.split, self.target_fps = split, target_fps
        self.resize_mode, self.short_clips, self.missing_caption = resize_mode, short_clips, missing_caption
        self.caption_encoding = "utf-8-sig" if caption_encoding.lower() in ("utf-8", "utf8") else caption_encoding
        self.cache_bytes, self.cached_bytes, self.cache = cache_bytes, 0, {}
        self.decoded, self.unkept = {}, set()  # of clips that were only counted: what decoding says; damaged ones
        self.rng = np.random.default_rng(seed)
        self.coin = random.Random(seed)  # of _frames: it must not draw from what decides the samples
        self.image_share, self.may_mirror = image_share, True
        self.buckets = [Bucket(*each) for each in buckets or [(self.height, self.width, num_frames)]]
        self._check_arguments(val_fraction, max_samples)

        how = self.caption_encoding, video_column, caption_column, image_share > 0, frames_fps, cameras
        shortest = min_frames or min(bucket.frames for bucket in self.buckets)
        self.items, sources, self.report = usable_clips(
            self.data_dir, FolderFormat(*how), shortest, target_fps, short_clips, missing_caption, max_samples
        )
        if image_share and not any(is_picture(info) for info, _ in self.items):
            raise DataError(f"{printable(self.data_dir)}: image_share is {image_share}, and no picture has a caption")
        if trigger_word:
            self.items = [
                (info, tuple(f"{trigger_word}, {text}" if text else trigger_word for text in texts))
                for info, texts in self.items
            ]
        if max_bad_fraction is not None:
            self.max_unreadable = int(max_bad_fraction * len(self.items))
        if split != "all":
            self.items = self._split(sources, val_fraction)
        self.shapes = [choose_bucket(info, self.buckets, target_fps) for info, _ in self.items]
        if len(set(self.shapes)) > 1:
            self.report["buckets"] = bucket_counts((info for info, _ in self.items), self.buckets, target_fps)
        if split != "val":  # the training set has said it already
            print_report(self.data_dir, self.report)

    def _check_arguments(self, val_fraction: float, max_samples: int | None) -> None:
        for name, value in (("num_frames", self.num_frames), ("frame_size", self.height), ("width", self.width)):
            if value < 1:
                raise DataError(f"{name}: got {value}, must be at least 1")
        if not all(min(bucket) >= 1 for bucket in self.buckets):
            raise DataError(f"buckets: got {self.buckets}, must be (height, width, frames) of at least 1 each")
        if max_samples is not None and max_samples < 1:
            raise DataError(f"max_samples: got {max_samples}, must be at least 1 (leave it out to use every clip)")
        if self.target_fps is not None and not 0 < self.target_fps < math.inf:
            raise DataError(f"target_fps: got {self.target_fps}, must be a positive number")
        if not 0 <= val_fraction < 1:
            raise DataError(f"val_fraction: got {val_fraction}, must be in [0, 1)")
        if not 0 <= self.image_share <= 1:
            raise DataError(f"image_share: got {self.image_share}, must be in [0, 1]")
        for name, value, choices in (
            ("split", self.split, ("all", "train", "val")),
            ("resize_mode", self.resize_mode, RESIZE_MODES),
            ("short_clips", self.short_clips, SHORT_CLIPS),
            ("missing_caption", self.missing_caption, MISSING_CAPTION),
        ):
            if value not in choices:
                raise DataError(f"{name}: got {value!r}, must be one of {', '.join(choices)}")

    def _split(self, sources: list[str], val_fraction: float) -> list[tuple]:
        val, only = validation_clips([info for info, _ in self.items], sources, val_fraction, self.seed)
        if only and self.split == "val":
            print("warning: there is only one clip, so validation uses the training clip", file=sys.stderr)
        return [
            item
            for n, item in enumerate(self.items)
            if (n in val) == (self.split == "val") or (only and self.split == "train")
        ]

    def _frames(self, index: int, position: float) -> np.ndarray:
        """Resized frames of the window at `position` in [0, 1) of a clip, (T, H', W', 3) uint8.

        Of a clip whose frames were only counted and that turns out damaged there: the window at that position of what
        decodes, whichever process asks.
        """
        info, how = self.items[index][0], (self.shapes[index].frames, self.target_fps)
        try:
            return self._read(index, info, window(info, *how, self.short_clips, position))
        except UnreadableClip:
            info = info if info.verified else self._decoded(index)
            if info is None or info is self.items[index][0] or not len(window_starts(info, *how)):
                raise
            return self._read(index, info, window(info, *how, self.short_clips, position))

    def _decoded(self, index: int) -> "VideoInfo | None":
        """What decoding a whole clip says of it; None if it is no video any more."""
        from utils.decoding.probe import probe_again
        from utils.decoding.video_info import VideoError

        if index not in self.decoded:
            try:
                self.decoded[index] = probe_again(self.items[index][0])
            except (VideoError, OSError):
                self.decoded[index] = None
        return self.decoded[index]

    def _read(self, index: int, info: "VideoInfo", window: np.ndarray) -> np.ndarray:
        """Resized frames of one window, through the cache of whole clips.

        resize_mode "crop" keeps here what the crop will cut off, so that the cut can differ each time.
        """
        import cv2

        from utils.decoding.read import iter_frames
        from utils.video.frames import resize_frames

        known = info is self.items[index][0]
        if known and index in self.cache:
            return self.cache[index][window]
        (height, width, _), mode = self.shapes[index], self.resize_mode
        if mode == "crop":
            scale = max(height / info.height, width / info.width)
            height, width, mode = round(info.height * scale), round(info.width * scale), "stretch"
        size = info.frames * height * width * 3
        # To decode a long clip takes as long as many windows of it. If each clip that fits were kept at its first
        # window, the first pass would stall training; so a window that is 1/n of its clip keeps it once in n times.
        keep = (
            known
            and size <= self.cache_bytes - self.cached_bytes
            and info.frames * info.height * info.width * 3 <= DECODE_BYTES
            and index not in self.unkept
            and self.coin.random() * info.frames < np.ptp(window) + 1
        )
        wanted, position = (np.arange(info.frames), window) if keep else np.unique(window, return_inverse=True)
        try:
            frames = [resize_frames(frame[None], height, width, mode)[0] for frame in iter_frames(info, wanted)]
        except (ValueError, OSError, cv2.error) as error:
            if keep:  # the window itself may be whole, and what is kept must not decide what is seen
                self.unkept.add(index)
                return self._read(index, info, window)
            began = "readable" if info.verified else "counted, not decoded (video_dataset.py --check decodes all),"
            raise UnreadableClip(f"{printable(info.path)}: {error}; it was {began} when training began") from error
        frames = np.stack(frames)
        if keep:
            self.cache[index] = frames
            self.cached_bytes += size
        return frames[position]  # indexing by array copies, here and above: hooks may write into it

    def __len__(self) -> int:
        return len(self.items)

    def path(self, index: int) -> Path:
        return Path(self.items[index][0].path)

    def read(self, key: int | tuple[int, int]) -> dict:
        import torch

        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} clips")
        index = int(index) % len(self)
        position, anchor, mirrored, text = self.choose(epoch, index)
        frames = self._frames(index, position)
        if self.resize_mode == "crop":
            height, width, _ = self.shapes[index]
            slack = np.subtract(frames.shape[1:3], (height, width))
            top, left = np.rint(slack * anchor).astype(int)
            frames = frames[:, top : top + height, left : left + width]
        frames = frames[:, :, ::-1] if mirrored else frames
        if self.augments:
            frames, text = self._call_hooks(np.ascontiguousarray(frames), text)

        video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2).float()
        video = video / 127.5 - 1 if self.normalize else video / 255
        return {"video": video.contiguous(), "text": text, "index": index, "path": self.items[index][0].path}

    @property
    def augments(self) -> bool:
        return self.augment and self.split != "val"

    def choose(self, epoch: int, index: int) -> tuple[float, tuple[float, ...], bool, str]:
        """(position of the window, place of the crop, mirrored, caption) of a sample. `rng` is then for the hooks."""
        self.rng, (text, *more) = np.random.default_rng([self.seed, int(epoch), index]), self.items[index][1]
        if not self.augments:
            return 0.5, (0.5, 0.5), False, text
        if more:
            chosen = np.random.default_rng([self.seed, int(epoch), index, 0xCA9]).integers(1 + len(more))
            text = [text, *more][chosen]
        position, *anchor, coin = self.rng.random(4)
        mirrored = swap_left_right(text) if coin < 0.5 and self.may_mirror else None
        return position, tuple(anchor), mirrored is not None, text if mirrored is None else mirrored

    def _call_hooks(self, frames: np.ndarray, text: str) -> tuple[np.ndarray, str]:
        shape, name = frames.shape, type(self).__name__
        frames, text = self.augment_video(frames), self.augment_text(text)
        if not isinstance(frames, np.ndarray) or frames.shape != shape or frames.dtype != np.uint8:
            got = f"{frames.dtype} {frames.shape}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise DataError(f"{name}.augment_video returned {got}, must return a uint8 array (T, H, W, 3) = {shape}")
        if not isinstance(text, str):
            raise DataError(f"{name}.augment_text returned {type(text).__name__}, must return a str")
        return frames, text

    def augment_text(self, text: str) -> str:
        """Hook: change the caption of one sample. Called only when augmenting."""
        return text

    def augment_video(self, frames: np.ndarray) -> np.ndarray:
        """Hook: change the frames of one sample: uint8 (T, H, W, 3) RGB, same shape out. Only when augmenting."""
        return frames

    def groups(self) -> list[tuple[list[int], float]]:
        """(clips that may share a batch, the share of samples that is to come of them)."""
        clips = defaultdict(list)
        for index, shape in enumerate(self.shapes):
            clips[shape, is_picture(self.items[index][0])].append(index)
        pictures = sum(len(indices) for (_, pictures), indices in clips.items() if pictures)
        share = 1.0 if pictures == len(self) else self.image_share if pictures else 0.0
        return [
            (indices, len(indices) * (share / pictures if of_pictures else (1 - share) / (len(self) - pictures)))
            for (_, of_pictures), indices in clips.items()
        ]

    def captions(self, mirrored: bool = False) -> list[str]:
        """The captions of all clips; with mirrored=True also what a flip makes of it (words a tokenizer must know)."""
        texts = [text for _, texts in self.items for text in texts]
        return texts + [text for text in map(swap_left_right, texts) if text is not None] if mirrored else texts

    def digests(self) -> dict[str, str]:
        """{name: digest of size in bytes, frames and caption} of the clips, in order."""
        return clip_digests(self.data_dir, self.items)

    def fingerprint(self) -> str:
        """One digest of all clips: the same data, the same digest."""
        return hashlib.sha256(json.dumps(list(self.digests().items())).encode()).hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"cache": {}, "cached_bytes": 0}  # a spawned worker fills its own


# ---------------------------------------------------------------------------------------------------------- script


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_dataset_args(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    try:
        if args.from_lerobot:
            from utils.lerobot.download import dataset_folder

            own = None if args.output_dir == DEMO else args.output_dir
            args.check = dataset_folder(args.from_lerobot, args.cameras, own)
        if args.check:
            run_check(args)
        else:
            from utils.demo_data.demo_dataset import write_demo

            write_demo(args)
    except OSError as error:  # a folder without permission, a full disk
        raise UserError(str(error)) from error


def run_check(args: argparse.Namespace) -> None:
    columns, buckets = (args.video_column, args.caption_column), buckets_of(args)
    folder = FolderFormat(args.caption_encoding, *columns, args.image_share > 0, args.frames_fps, args.cameras)
    report = check_dataset(args.check, folder, args.num_frames, args.target_fps, buckets)
    print_check(args.check, report)
    if not report["ok"]:
        raise DataError(f"{printable(args.check)}: no video is usable for training, see above")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the report has been printed
            dataset = TextVideoDataset(args.check, **reading_args(args), augment=False, missing_caption="skip")
    except CaptionError as error:
        print(f"training will stop at {error}")
        return
    sheet = args.check / "dataset_report.png"
    if save_contact_sheet(sheet, dataset):
        print(f"what training sees: {printable(sheet)}")
    if any(folders_of(args).values()):
        from utils.conditions.report import check_conditions

        check_conditions(args.check, [info for info, _ in dataset.items], folders_of(args))


if __name__ == "__main__":
    run(lambda: main(parse_args()))
