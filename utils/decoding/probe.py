"""What a video file really holds: found by decoding it, or by counting its packets where they can be trusted."""

import os
import re
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from utils.decoding.fields import UNMARKED, Combs, Pulldown
from utils.decoding.hdr import TRANSFERS
from utils.decoding.pictures import Pictures, orientation
from utils.decoding.source import MOST_PIXELS, Source, number_of
from utils.decoding.stills import are_stills, probe_stills
from utils.decoding.video_info import Section, VideoError, VideoInfo, part_of, side_by_side

# A packet of these is a picture and carries its time stamp.
COUNTED_CODECS = frozenset(
    "h264 hevc av1 vp9 mpeg4 mjpeg prores dnxhd ffv1 png qtrle rawvideo hap utvideo cfhd".split()  # noqa: SIM905
)
LENIENT = 2  # frames that may be fewer than a duration lets expect
REORDERING_CODECS = ("h264", "hevc", "mpeg4")  # of these, that may be shown in another order than they come in


def probe_video(
    path: str | Path, max_pixels: int = MOST_PIXELS, decode: bool = True, section: Section | None = None
) -> VideoInfo:
    """Describe a video, a folder of pictures or a picture. Raises VideoError with the reason if it is no usable one.

    decode: decode every frame. Otherwise packets are counted where container and codec can be trusted with that; it
    takes a small part of the time, and `verified` is False, for of what does not decode nothing is known then.
    max_pixels limits width * height and is checked against the header, before the first frame is decoded. section:
    where the file lies in another one.
    """
    path = os.path.abspath(path)  # a relative "a:b.mp4" would be taken for a URL
    if are_stills(path):
        return probe_stills(path, max_pixels, decode, section)
    if not decode:
        scan = Scan(path, max_pixels, section, threads=1, decode=False)
        if scan.countable():
            return scan.counted()
    scan = Scan(path, max_pixels, section)
    if scan.bad:  # once more with one thread: then it is known which packet was bad, and what was decoded after it
        scan = Scan(path, max_pixels, section, threads=1)
    return scan.decoded()


def probe_again(info: VideoInfo) -> VideoInfo:
    """What decoding every frame says of a clip whose frames were only counted, of a part that of its own frames.

    Raises VideoError if it is no usable video.
    """
    if info.beside:
        return side_by_side([probe_again(each) for each in info.beside], info.path)
    if info.part:
        return part_of(probe_video(info.part.file), info.path, info.part.first, info.frames)
    return probe_video(info.path, section=info.section)


def unmarked_fields(info: VideoInfo, combs: Combs | None = None) -> list[str]:
    """The remark, if any, that a video whose frames have only been counted looks interlaced.

    combs: have seen its frames from the first on; where they are too few, a few seconds are decoded.
    """
    if info.verified or info.interlaced:
        return []
    if combs and combs.full:
        return [UNMARKED] * combs.found()
    if info.beside:
        return list(dict.fromkeys(remark for each in info.beside for remark in unmarked_fields(each)))
    combs = Combs()
    with (
        closing(Source(info.part.file if info.part else info.path, info.stream, section=info.section)) as source,
        suppress(av.error.FFmpegError),
    ):
        for packet in source.packets():
            for frame in source.decode(packet):
                combs.add(frame)
            if combs.full:
                break
    return [UNMARKED] * combs.found()


class Scan:
    """One pass over a file: its packets, and the frames that come of them (without `decode` the first one only)."""

    def __init__(
        self, path: str, max_pixels: int, section: Section | None = None, threads: int = 0, decode: bool = True
    ):
        self.packets, self.shown = {}, 0  # {number: (time stamp, is it a key frame)}; how many are to be shown
        self.numbers, self.ticks, self.keys = [], [], []  # of each frame: its packet, time stamp, is it a key frame
        self.bad: set[int] = set()  # numbers of packets that cannot be decoded
        self.sizes, self.interlaced, self.pulldown, self.combs = set(), 0, Pulldown(), Combs()
        with closing(Source(path, None, threads, max_pixels, section, counting=not decode)) as source:
            self.source = source
            if decode:
                for number, packet in enumerate(source.packets()):
                    self._note(number, packet)
                    self._decode(packet)
            else:
                self._count(enumerate(source.demuxed()))
            self._describe()

    def _note(self, number: int, packet: av.Packet) -> None:
        if packet.size:
            self.packets[number] = packet.pts, packet.is_keyframe
            self.shown += not packet.is_discard

    def _count(self, packets: Iterator[tuple[int, av.Packet]]) -> None:
        """All packets; the picture of the first says what all look like."""
        for number, packet in packets:
            self._note(number, packet)
            if packet.size:
                packet.opaque = [number]
                self._decode(packet)
                self._decode(None)
                break
        rest = [(number, (p.pts, p.is_keyframe), p.is_discard) for number, p in packets if p.size]
        self.packets.update((number, what) for number, what, _ in rest)
        self.shown += sum(not discarded for *_, discarded in rest)

    def _decode(self, packet: av.Packet | None) -> None:
        """None: the frames that are held back, and then no more."""
        try:
            frames = self.source.decode(packet) if packet else self.source.rest()
        except av.error.FFmpegError:
            self.bad.add(number_of(packet) if packet else max(self.packets))
            return
        for frame in frames:
            if not self.numbers:
                self._first(frame)
            number = number_of(frame)
            if frame.is_corrupt:
                self.bad.add(number)
            self.numbers.append(number)
            self.ticks.append(frame.pts)
            self.keys.append(frame.key_frame)
            self.sizes.add((frame.width, frame.height))
            if frame.interlaced_frame:
                self.interlaced += 1
                self.pulldown.add(frame)
            else:
                self.combs.add(frame)

    def _first(self, frame: av.VideoFrame) -> None:
        """What every frame has: size, and what is done to make it a picture."""
        notes, source = [], self.source
        width, height = frame.width, frame.height
        if source.pixel_aspect != 1:
            width = max(1, round(width * source.pixel_aspect))
            notes.append(f"its pixels are not square: {frame.width}x{height} is shown as {width}x{height}")
        turns, mirrored = orientation(frame)
        notes += [f"turned by {90 * turns} degrees counter-clockwise"] * (turns > 0) + ["mirrored"] * mirrored
        self.width, self.height = (width, height) if turns % 2 == 0 else (height, width)
        picture = Pictures(self.width, self.height)
        picture(frame)  # can it be converted at all?
        if frame.color_trc in TRANSFERS:
            notes.append(f"HDR ({TRANSFERS[frame.color_trc]}), mapped to SDR: 203 cd/m2 and more are white")
        if picture.transparent:
            notes.append("what is transparent becomes white")
        self.notes = [*source.notes, *notes]

    def _describe(self) -> None:
        """What the header says, while the file is open."""
        source, stream = self.source, self.source.stream
        self.path, self.codec, self.indexed, self.failed = source.path, source.codec, source.indexed, source.failed
        self.bytes, self.number, self.time_base = source.bytes, stream.index, source.time_base
        rate = stream.average_rate or stream.guessed_rate
        self.rate = float(rate) if rate else 0.0
        self.keyed = [number for number, (_, key) in self.packets.items() if key]
        discarded = len(self.packets) - self.shown
        self.promised = stream.frames - discarded if stream.frames else round(_seconds(stream) * self.rate)
        self.exact = stream.frames > 0  # and not guessed from a duration, which may be that of the sound
        if not self.numbers:
            promised = max(self.promised, len(self.packets))
            raise VideoError(f"truncated: the header says {promised} frames, 0 can be decoded")

    # ------------------------------------------------------------------------------------------------ by counting

    def countable(self) -> bool:
        """Whether the packets of this file tell how many frames it has, and when."""
        stamps = [pts for pts, _ in self.packets.values()]
        return (
            self.indexed
            and self.codec in COUNTED_CODECS
            and not (self.bad or self.failed or self.interlaced)  # fields may have packets of their own
            and self.shown == len(self.packets)  # edit lists
            and self.promised in (0, self.shown)
            and None not in stamps
            and len(set(stamps)) == len(stamps)
            and (self.codec in REORDERING_CODECS or sorted(stamps) == stamps)
            and self.keyed[:1] == [0]
            and stamps[0] == min(stamps) == self.ticks[0]  # nothing is shown before the first key frame
        )

    def counted(self) -> VideoInfo:
        times = np.sort([pts for pts, _ in self.packets.values()]) * self.time_base
        fps, constant = _frame_rate(np.diff(times), self.rate)
        return self._info(len(times), fps, times[0], None if constant else times, by_time=True, verified=False)

    # ----------------------------------------------------------------------------------------------- by decoding

    def decoded(self) -> VideoInfo:
        seconds = np.array([np.nan if pts is None else pts * self.time_base for pts in self.ticks])
        ascending = bool((np.diff(seconds) > 0).all()) and not np.isnan(seconds[:1]).any()
        missing = max(self.promised, self.shown) - len(seconds)
        lost = _lost_frames(np.diff(seconds), max(missing, len(self.bad))) if ascending else np.zeros(len(seconds))
        leaning = self._leaning() | self._behind(lost)
        kept = np.array([n for n in range(len(seconds)) if n not in leaning], int)
        if not len(kept):
            raise VideoError("damaged: no frame is whole")

        damaged = bool(self.bad or lost.any())
        gaps = [g for g, (a, b) in enumerate(pairwise(kept), 1) if damaged and self._torn(a, b, lost)]
        times = seconds[kept]
        fps, constant = _frame_rate(np.delete(np.diff(times), np.array(gaps, int) - 1), self.rate)
        notes, count = [], max(len(self.bad), int(lost.sum()))
        if count:
            notes.append(f"{count} undecodable packet{'s' * (count > 1)}")
        if leaning:
            notes.append(f"{len(leaning)} damaged frame{'s' * (len(leaning) > 1)} left out")
        if self.promised and (len(kept) != self.promised if self.exact else len(kept) < self.promised - LENIENT):
            notes.append(f"header says {self.promised} frames, {len(kept)} decode")
        if len(self.sizes) > 1:
            notes.append("size changes inside the stream; every frame is scaled to the size of the first")
        if self.interlaced:
            notes.append("interlaced: made progressive (bwdif), one frame of two fields")
        if self.combs.found():
            notes.append(UNMARKED)
        if self.pulldown.found():
            notes.append(
                "telecined film (2:3 pulldown): it repeats fields; --target_fps 24 takes frames at its own rate"
            )
        return self._info(
            len(kept),
            fps,
            float(times[0]) if ascending else 0.0,
            None if constant else times,
            notes,
            by_time=self.indexed and ascending and not damaged,
            interlaced=self.interlaced > 0,
            damaged=damaged,
            left_out=tuple(sorted(leaning)),
            gaps=tuple(gaps),
        )

    def _info(self, frames: int, fps: float, start: float, times: np.ndarray | None, notes=(), **more) -> VideoInfo:
        return VideoInfo(
            self.path,
            frames,
            fps,
            self.width,
            self.height,
            self.codec,
            self.number,
            self.bytes,
            float(start),
            times=None if times is None else tuple((times - times[0]).tolist()),
            notes=(*self.notes, *notes),
            section=self.source.section,
            **more,
        )

    def _leaning(self) -> set[int]:
        """The frames that are bad or were decoded after a bad packet and before the next key frame."""
        bad, keys = np.array(sorted(self.bad)), np.array(self.keyed)
        leaning = set()
        for n, number in enumerate(self.numbers if len(bad) else ()):
            key = int(np.searchsorted(keys, number, "right")) - 1
            if key > 0 and _before(self.packets[number][0], self.packets[keys[key]][0]):
                key -= 1  # shown before the key frame that it was sent after: it may lean on both
            since = keys[key] if key >= 0 else 0
            if ((since <= bad) & (bad <= number)).any():
                leaning.add(n)
        return leaning

    def _behind(self, lost: np.ndarray) -> set[int]:
        """The frames behind a hole, up to the next key frame."""
        behind = set()
        for n in np.flatnonzero(lost).tolist():
            while n < len(self.keys) and not self.keys[n]:
                behind.add(n)
                n += 1
        return behind

    def _torn(self, a: int, b: int, lost: np.ndarray) -> bool:
        """Whether something is missing between the frames a and b, which are kept."""
        between = any(self.numbers[a] < number < self.numbers[b] for number in self.bad)
        return b > a + 1 or bool(lost[b]) or between


def _before(pts: int | None, other: int | None) -> bool:
    return pts is not None and other is not None and pts < other


def _seconds(stream: av.VideoStream) -> float:
    """How long the header says that the stream is; 0 if it does not."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if match := re.match(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")):  # of Matroska
        return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
    alone = len(stream.container.streams) == 1
    return (stream.container.duration or 0) / av.time_base if alone else 0.0


def _lost_frames(steps: np.ndarray, missing: int) -> np.ndarray:
    """How many frames are lost in front of each frame, as far as the time stamps tell; steps: seconds between them.

    A decoder that reorders B-frames reports a bad packet some frames before the hole, and what the container has lost
    is never reported.
    """
    lost = np.zeros(len(steps) + 1)
    if missing > 0 and len(steps):
        lost[1:] = np.maximum(np.rint(steps / np.median(steps)) - 1, 0)
        if lost.sum() > missing or np.count_nonzero(lost) > len(steps) / 10:  # just a variable frame rate
            lost[:] = 0
    return lost


def _frame_rate(steps: np.ndarray, header_fps: float) -> tuple[float, bool]:
    """(fps, constant): constant if every frame lies within a quarter frame of n / fps. 25 if nothing is known."""
    rates = [header_fps] if 0 < header_fps <= 1000 else []
    if not len(steps) or not (steps > 0).all():  # one frame, or no usable time stamps
        return (rates or [25.0])[0], True
    rates.append(1 / float(steps.mean()))
    for fps in rates:
        if np.abs(np.cumsum(steps) * fps - np.arange(1, len(steps) + 1)).max() < 0.25:
            return fps, True
    return rates[-1], False
