"""A video file that is open: which files are opened at all, which stream is the video, and its decoder.

FFmpeg decodes everything, through PyAV. Headers are not believed: a frame exists when it decodes.
"""

import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import av
from av.codec.context import Flags
from av.stream import Disposition

from utils.decoding.video_info import Section, VideoError

MOST_PIXELS = 8192 * 4320
SMALL_FILE = 2**17  # bytes; below it, threads take longer to start than they save
MOST_STRETCHED = 8  # pixels, in either direction
MOST_FAILURES = 10  # reads that fail in a row: then we call it the end of the file
PEEKED_PACKETS = 500  # that are looked at to tell a video from a picture among several streams
# How containers begin. Only in the named ones does an index make seeking exact.
_MAGIC = re.compile(
    rb"(?P<mp4>.{4}(?:ftyp|moov|mdat|wide|free|skip|styp|pnot))|(?P<matroska>\x1aE\xdf\xa3)"
    rb"|RIFF.{4}AVI[ X]|GIF8[79]a|FLV\x01|OggS|\x00\x00\x01[\xb3\xba]|\x06\x0e\x2b\x34|0&\xb2u\x8ef\xcf\x11"
    rb"|G.{187}G.{187}G|.{4}G.{191}G.{191}G|\x1f\x07\x00|YUV4MPEG2 ",
    re.DOTALL,
)
# Playlists (ffconcat, m3u8, SDP) name other files and hosts: deny every protocol but "file", every demuxer but these.
_SAFE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,webm,avi,gif,flv,ogg,mpeg,mpegvideo,mpegts,mxf,asf,dv,yuv4mpegpipe",
}
# An mp4 tells of its streams in its index; FFmpeg need not decode one of each to open it.
_BY_INDEX = {"skip_frame": "all", "probesize": "32"}
# No videos of their own: cover pictures, chapter thumbnails, layers of another stream.
_EXTRAS = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
# Codecs whose packets tell whether other pictures lean on theirs. (In HEVC those of a higher temporal layer may.)
_SKIPPING_CODECS = ("h264", "mpeg4", "mpeg2video")
# Decoders that are told to stop at an error, as all are whose pictures stand alone: some leave what they cannot decode
# as it was in memory. Those with checksums look at them only then.
_CHECKED_CODECS = ("ffv1", "png", "apng", "qtrle", "huffyuv", "ffvhuff", "cfhd")
_decoder_threads = 0  # in this process, where a Source is not told; 0 leaves their number to FFmpeg
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own ones drop the alpha that WebM keeps apart


def share_cores(processes: int) -> None:
    """In one of so many processes that read videos: decoders have its share of the cores from now on, for the threads
    of all would get in each other's way. (OpenCV is left alone: to change its threads in a forked process may hang.)"""
    global _decoder_threads
    _decoder_threads = max(1, (os.cpu_count() or 1) // processes)


def check_file(path: str, section: Section | None = None) -> str | None:
    """Refuse, before any demuxer opens it, what is no regular file in a video container; "mp4", "matroska" or None.

    section: where the file lies in another one. Raises VideoError.
    """
    path = section.file if section else path
    try:
        if not stat.S_ISREG(mode := os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise VideoError("a directory" if stat.S_ISDIR(mode) else "not a regular file: a FIFO, socket or device")
        with open(path, "rb") as file:
            if section:
                file.seek(section.start)
            head = file.read(min(1024, section.size) if section else 1024)
    except OSError as error:
        raise VideoError("broken link" if os.path.islink(path) else f"cannot be read: {error.strerror}") from None
    if not head:
        raise VideoError("empty file")
    if not (match := _MAGIC.match(head)):
        raise VideoError("not a video")
    return match.lastgroup


class Source:
    """The video stream of a file: packets in their order, numbered from 0, and the frames that a decoder makes of them.

    stream: its number, if it is known. section: where the file lies in another one. threads: of the decoder; 0 means
    as many as there are cores for. counting: only packets are wanted, and at most the first frame: opens faster.
    `failed`: whether a packet could not be read. `wanted_from`: a time stamp before which nobody needs to see a frame,
    of a file that is known to be whole: a packet that damage has made look as if nothing leaned on it would be skipped.
    Raises VideoError with the reason if the file cannot be opened.
    """

    def __init__(
        self,
        path: str,
        stream: int | None = None,
        threads: int = 0,
        max_pixels: int = MOST_PIXELS,
        section: Section | None = None,
        counting: bool = False,
    ):
        container = check_file(path, section)
        self.indexed, self.counting = container is not None, counting
        self.options = _SAFE | _BY_INDEX if counting and container == "mp4" else _SAFE
        self.bytes, self.section = section.size if section else os.path.getsize(path), section
        self.path, self.notes, self.failed, self.wanted_from = path, [], False, None
        self.latest = [-math.inf]  # [n]: the latest time stamp of the n packets that were decoded first
        self.container = self._open()
        try:
            self._choose(stream, threads, max_pixels)
        except BaseException:
            self.container.close()
            raise

    def _choose(self, number: int | None, threads: int, max_pixels: int) -> None:
        if number is None:
            number, self.notes = _shown_stream(self.container)
            if self.notes:  # it has been looked into
                self.container.close()
                self.container = self._open()
        if number >= len(self.container.streams) or self.container.streams[number].type != "video":
            raise VideoError("it has other streams than when it was probed: the file has changed")
        self.stream = self.container.streams[number]
        self.decoder = self.stream.codec_context
        self.size = self.decoder.width, self.decoder.height
        if self.size[0] * self.size[1] > max_pixels:
            raise VideoError(f"{self.size[0]}x{self.size[1]} is more than the limit of {max_pixels} pixels")
        _check_layers(self.stream)
        self.codec = self.decoder.codec.canonical_name
        if self.stream.metadata.get("alpha_mode") == "1" and self.codec in _ALPHA_DECODERS:
            extradata = self.decoder.extradata
            self.decoder = av.CodecContext.create(_ALPHA_DECODERS[self.codec], "r")
            self.decoder.extradata = extradata
        self.decoder.options = {"max_pixels": str(max_pixels)}  # sizes may change inside the stream
        if self.counting:  # nobody sees the frame
            self.decoder.options |= {"skip_loop_filter": "all"}
        if self.decoder.codec.intra_only or self.codec in _CHECKED_CODECS:
            self.decoder.options |= {"err_detect": "crccheck+bitstream+buffer+explode"}
        self.decoder.flags |= Flags.copy_opaque  # a frame knows its packet
        self.decoder.thread_type = "AUTO"
        self.decoder.thread_count = 1 if self.bytes < SMALL_FILE else threads or _decoder_threads
        aspect = float(self.stream.sample_aspect_ratio or 1)
        self.pixel_aspect = aspect if 1 / MOST_STRETCHED <= aspect <= MOST_STRETCHED else 1.0
        if aspect != self.pixel_aspect:
            self.notes.append(f"pixels {aspect:.3g} times as wide as high are not believed: shown as squares")
        self.time_base = float(self.stream.time_base)

    def _open(self) -> av.container.InputContainer:
        name, options = self.path, self.options
        if self.section:
            file, start, size = self.section
            name = f"subfile,,start,{start},end,{start + size},,:{file}"
            options = options | {"protocol_whitelist": "subfile,file"}
        try:
            return av.open(name, options=options)
        except (av.error.FFmpegError, OSError, ValueError):
            truncated = check_file(self.path, self.section) == "mp4"
            raise VideoError(
                "truncated: no index (moov) can be read" if truncated else "damaged: it cannot be opened"
            ) from None

    def packets(self) -> Iterator[av.Packet]:
        """The packets from here on; the last is empty and makes the decoder give up the frames it holds back."""
        self.latest = self.latest[:1]
        for number, packet in enumerate(self.demuxed()):
            packet.opaque = [number]  # an object of its own: PyAV tells them apart by their addresses
            yield packet

    def demuxed(self) -> Iterator[av.Packet]:
        """The same packets without their numbers, which only a decoder needs."""
        packets, failures = self.container.demux(self.stream), 0
        while failures <= MOST_FAILURES:  # in a row
            try:
                for packet in packets:
                    failures = 0
                    yield packet
                return
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, IndexError):  # an index: of a stream that turned up on the way
                failures, self.failed = failures + 1, True
                packets = self.container.demux(self.stream)

    def decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        """Raises av.error.FFmpegError for a packet that cannot be decoded."""
        self.latest.append(max(self.latest[-1], packet.pts or 0))
        if self.wanted_from is not None and self.codec in _SKIPPING_CODECS:
            unseen = packet.pts is not None and packet.pts < self.wanted_from
            self.decoder.skip_frame = "NONREF" if unseen else "DEFAULT"
        return self.decoder.decode(packet)

    def rest(self) -> list[av.VideoFrame]:
        """The frames that the decoder holds back, after which it takes no more packets."""
        return self.decoder.decode(None)

    def seek(self, ticks: int) -> None:
        """Go to a key frame at or before this time stamp, in units of the stream's time base, as far as it can be
        found. Raises VideoError."""
        try:
            self.container.seek(ticks, stream=self.stream)
        except av.error.FFmpegError:
            raise VideoError("its index is damaged") from None
        self.decoder.flush_buffers()

    def close(self) -> None:
        self.container.close()


def number_of(thing: av.Packet | av.VideoFrame) -> int:
    """The number of a packet of Source.packets, or of the packet that a frame came with."""
    return thing.opaque[0]


def _shown_stream(container: av.container.InputContainer) -> tuple[int, list[str]]:
    """(number of the video stream that a player shows, notes).

    No cover picture, no thumbnails; not what has one frame when another has more; what is marked as the default; the
    largest. Raises VideoError without any.
    """
    videos = [stream for stream in container.streams.video if stream.codec_context is not None]
    if not videos:
        raise VideoError("no decoder for this codec" if container.streams.video else "no video stream")
    if len(videos) == 1:
        return videos[0].index, []
    packets = Counter()
    with suppress(av.error.FFmpegError, IndexError):  # an index: of a stream that turns up on the way
        for n, packet in enumerate(container.demux(videos)):
            packets[packet.stream_index] += packet.size > 0
            if n >= PEEKED_PACKETS:
                break

    def rank(stream: av.VideoStream) -> tuple:
        context, disposition = stream.codec_context, stream.disposition
        return (
            not disposition & _EXTRAS,
            packets[stream.index] > 1,
            bool(disposition & Disposition.default),
            context.width * context.height,
            -stream.index,
        )

    best = max(videos, key=rank)
    others = len(videos) - 1
    size = f"{best.codec_context.width}x{best.codec_context.height}"
    return best.index, [f"{others} more video stream{'s' * (others > 1)}; what a player shows is read ({size})"]


def _check_layers(stream: av.VideoStream) -> None:
    """Refuse Dolby Vision of which only a Dolby decoder makes a picture; to others it is green and violet."""
    context = stream.codec_context
    if context.codec_tag in ("dvh1", "dvhe", "dav1", "dva1", "dvav") and context.color_trc not in (1, 14, 15, 16, 18):
        raise VideoError("Dolby Vision without a layer that others can show (profile 5); re-encode it to HDR10 or SDR")
