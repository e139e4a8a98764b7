"""Frames have the shape in which they are displayed: square pixels, upright, not mirrored, no fields."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import damage, encode, moving_clip
from tests.decoding.making import write, yuv_frame
from tests.decoding.reading import assert_looks_like, read_all
from utils.decoding.fields import UNMARKED
from utils.decoding.probe import probe_video, unmarked_fields
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError

BRIGHT, DARK = 235, 16  # limited range


def bar(left: int, width: int = 16, height: int = 96, length: int = 128) -> np.ndarray:
    """Luma of a bright upright bar on black."""
    luma = np.full((height, length), DARK, np.uint8)
    luma[:, left : left + width] = BRIGHT
    return luma


# Pixels that are not square -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.mpg"])
@pytest.mark.parametrize(
    ("aspect", "shown"), [("2/1", (128, 96)), ("8/9", (57, 96)), ("12/11", (70, 96)), ("1/1", (64, 96))]
)
def test_what_is_stored_narrow_is_shown_wide(tmp_path, name, aspect, shown):
    codec = {"a.avi": "mpeg4", "a.mpg": "mpeg2video"}.get(name, "libx264")
    if codec == "mpeg2video":  # MPEG-2 says the shape of the whole picture, of which it knows three
        aspect, shown = ("2/1", (128, 96)) if aspect == "2/1" else ("1/1", (64, 96))
    frames = [yuv_frame("yuv420p", [bar(24, 16, length=64), 128, 128])] * 4
    path = write(tmp_path / name, frames, codec, {}, fps=25, sample_aspect_ratio=Fraction(aspect))
    info, pixels = read_all(path)
    assert (info.width, info.height) == shown
    assert any("not square" in note for note in info.notes) == (shown != (64, 96))
    lit = pixels[2, 48, :, 0] > 128
    assert abs(lit.sum() - 16 * shown[0] / 64) <= 2 and abs(lit.argmax() - 24 * shown[0] / 64) <= 2


def test_an_aspect_that_no_picture_has_is_not_applied(tmp_path):
    path = write(
        tmp_path / "a.mp4", [yuv_frame("yuv420p", [bar(8), 128, 128])], "libx264", sample_aspect_ratio=Fraction(1, 90)
    )
    info = probe_video(path)
    assert (info.width, info.height) == (128, 96) and any("not believed" in note for note in info.notes)


# Rotation and mirrors -------------------------------------------------------------------------------------------------


def with_matrix(path, clip, matrix: tuple[int, int, int, int]):
    """An MP4 whose display matrix is (a b; c d): x' = a x + c y, y' = b x + d y (ISO 14496-12)."""
    encode(path, clip)
    data = bytearray(path.read_bytes())
    track = data.index(b"tkhd") + 4
    for n, value in zip((0, 1, 3, 4), matrix, strict=True):
        data[track + 40 + 4 * n :][:4] = b""
        data[track + 40 + 4 * n : track + 44 + 4 * n] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("matrix", "upright", "note"),
    [
        ((1, 0, 0, 1), lambda clip: clip, ()),
        ((0, 1, -1, 0), lambda clip: np.rot90(clip, -1, (1, 2)), ("turned by 270 degrees counter-clockwise",)),
        ((-1, 0, 0, -1), lambda clip: clip[:, ::-1, ::-1], ("turned by 180 degrees counter-clockwise",)),
        ((0, -1, 1, 0), lambda clip: np.rot90(clip, 1, (1, 2)), ("turned by 90 degrees counter-clockwise",)),
        ((-1, 0, 0, 1), lambda clip: clip[:, :, ::-1], ("mirrored",)),
        ((1, 0, 0, -1), lambda clip: clip[:, ::-1], ("turned by 180 degrees counter-clockwise", "mirrored")),
        ((0, 1, 1, 0), lambda clip: clip.swapaxes(1, 2), ("turned by 90 degrees counter-clockwise", "mirrored")),
        (
            (0, -1, -1, 0),
            lambda clip: clip[:, ::-1, ::-1].swapaxes(1, 2),
            ("turned by 270 degrees counter-clockwise", "mirrored"),
        ),
    ],
    ids="as-it-is clockwise half-turn counter-clockwise mirrored upside-down transposed transverse".split(),  # noqa: SIM905
)
def test_the_display_matrix_is_obeyed(tmp_path, matrix, upright, note):
    clip = moving_clip(6, 48, 64)
    info, frames = read_all(with_matrix(tmp_path / "a.mp4", clip, matrix))
    assert_looks_like(frames, upright(clip), 14)
    assert info.notes == note


# Fields ---------------------------------------------------------------------------------------------------------------


def interlaced(count: int, top_first: bool, pixel_format: str = "yuv420p", step: int = 8) -> list[av.VideoFrame]:
    """A bright bar that moves by `step` px a frame, half of it between the two fields of a frame."""
    frames = []
    for n in range(count):
        first, second = bar(4 + n * step % 96), bar(4 + n * step % 96 + step // 2)
        luma = first.copy()
        luma[1 if top_first else 0 :: 2] = second[1 if top_first else 0 :: 2]
        frames.append(yuv_frame("yuv420p", [luma, 128, 128]).reformat(format=pixel_format))
    return [marked(frame, "tff" if top_first else "bff") for frame in frames]


def marked(frame: av.VideoFrame, order: str) -> av.VideoFrame:
    """The frame with a flag that says which field comes first; encoders ask it."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("setfield", order), graph.add("buffersink")).configure()
    graph.vpush(frame)
    return graph.vpull()


def combing(frame: np.ndarray) -> int:
    """Columns in which lines alternate between bright and dark."""
    lines = frame[..., 1] > 128
    return int((np.abs(np.diff(lines.astype(int), axis=0)).sum(axis=0) > 20).sum())


INTERLACED = [
    ("a.mp4", "libx264", {"x264-params": "tff=1:bframes=2", "crf": "12"}, True),
    ("a.mkv", "libx264", {"x264-params": "bff=1", "crf": "12"}, False),
    ("a.ts", "libx264", {"x264-params": "tff=1", "crf": "12"}, True),
    ("a.mpg", "mpeg2video", {"flags": "+ildct+ilme", "qmax": "3", "field_order": "tt"}, True),
    ("a.mov", "prores_ks", {"flags": "+ildct", "field_order": "tt"}, True),
]


@pytest.mark.parametrize(("name", "codec", "options", "top_first"), INTERLACED, ids=lambda value: str(value)[:10])
def test_interlaced_frames_become_progressive_ones(tmp_path, name, codec, options, top_first):
    frames = interlaced(12, top_first, "yuv422p10le" if codec == "prores_ks" else "yuv420p")
    path = write(tmp_path / name, frames, codec, options, fps=25)
    info, pixels = read_all(path)
    assert info.interlaced and any(note.startswith("interlaced") for note in info.notes) and info.fps == 25
    assert len(pixels) == 12 and max(map(combing, pixels)) == 0
    for n, frame in enumerate(pixels):
        lit = np.flatnonzero(frame[48, :, 1] > 128)
        assert abs(lit.min() - (4 + n * 8 % 96)) <= 1 and abs(len(lit) - 16) <= 2  # where its first field has it
        assert frame[:, lit[2:-2]].min() > 200 and frame[:, : max(lit.min() - 6, 0)].max(initial=0) < 40


def test_an_interlaced_frame_is_the_same_wherever_reading_begins(tmp_path):
    options = {"x264-params": "tff=1:bframes=2:keyint=12:scenecut=0"}
    path = write(tmp_path / "a.mp4", interlaced(120, True), "libx264", options, fps=25)
    info, frames = read_all(path)
    for first in (0, 1, 63, 64, 71, 72, 73, 84, 119):
        window = range(first, min(first + 3, 120))
        assert np.array_equal(read_frames(info, window), frames[window.start : window.stop]), first


def test_progressive_frames_stay_as_they_are_beside_interlaced_ones(tmp_path):
    """Where a stream changes over, each frame is what its own flag says."""
    parts = []
    for part, options in (("progressive", {"crf": "12"}), ("fields", {"x264-params": "tff=1", "crf": "12"})):
        still = [yuv_frame("yuv420p", [bar(8 * n), 128, 128]) for n in range(10)]
        frames = still if part == "progressive" else interlaced(10, True)
        parts.append(write(tmp_path / f"{part}.ts", frames, "libx264", options, fps=25).read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    info, frames = read_all(tmp_path / "both.ts")
    assert info.interlaced and len(frames) == 20 and max(map(combing, frames)) == 0
    alone = read_all(tmp_path / "progressive.ts")[1]
    assert np.array_equal(frames[:9], alone[:9])
    plain = np.stack([frame.to_ndarray(format="rgb24") for frame in deinterlaced(tmp_path / "both.ts")])
    assert np.abs(frames.astype(int) - plain).max() <= 2


def deinterlaced(path) -> list[av.VideoFrame]:
    """The frames of a file through bwdif alone, from the first to the last."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    graph = av.filter.Graph()
    source = graph.add_buffer(template=frames[0], time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink")).configure()
    for n, frame in enumerate(frames):
        frame.pts = n
        graph.vpush(frame)
    graph.vpush(None)
    return [graph.vpull() for _ in frames]


def telecined(count: int) -> list[av.VideoFrame]:
    """A bar that moves 4 px a picture, 24 of them a second, as 30 interlaced frames: of 2 and 3 fields in turns."""
    fields = [bar(4 + 4 * n % 100) for n in range(count) for _ in range(2 + n % 2)]
    frames = []
    for top, bottom in zip(fields[::2], fields[1::2], strict=False):
        luma = top.copy()
        luma[1::2] = bottom[1::2]
        frames.append(marked(yuv_frame("yuv420p", [luma, 128, 128]), "tff"))
    return frames


def test_telecined_film_is_named_and_video_is_not(tmp_path):
    still = [marked(yuv_frame("yuv420p", [bar(30), 128, 128]), "tff")] * 30
    for name, frames, film in (
        ("film", telecined(40), True),
        ("video", interlaced(40, True), False),
        ("still", still, False),
    ):
        info = probe_video(write(tmp_path / f"{name}.mp4", frames, "libx264", {"x264-params": "tff=1"}, fps=30))
        assert any(note.startswith("telecined film") for note in info.notes) == film, name


def unmarked(frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
    return [av.VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name) for frame in frames]


def tiled(count: int, top_first: bool, step: int) -> list[av.VideoFrame]:
    """Rows that stay, one dark and one bright, beside a bar that moves by whole frames: no fields at all."""
    frames = []
    for n in range(count):
        luma = bar(4 + n * step % 96)
        luma[::2, :40] = 230
        frames.append(yuv_frame("yuv420p", [luma, 128, 128]))
    return frames


UNMARKED_KINDS = {
    "top first": (unmarked(interlaced(30, True)), True),
    "bottom first, slow": (unmarked(interlaced(30, False, step=2)), True),
    "ten bits": (unmarked(interlaced(30, True, "yuv420p10le")), True),
    "film": (unmarked(telecined(40)), True),
    "progressive": ([yuv_frame("yuv420p", [bar(4 + 4 * n % 96), 128, 128]) for n in range(30)], False),
    "still": (unmarked(interlaced(1, True) * 30), False),
    "rows": (tiled(30, True, 4), False),
    "noise": (
        [yuv_frame("yuv420p", [np.random.default_rng(n).integers(0, 256, (96, 128)), 128, 128]) for n in range(30)],
        False,
    ),
}


@pytest.mark.parametrize("kind", UNMARKED_KINDS)
def test_fields_that_are_not_marked_are_named_and_nothing_else_is(tmp_path, kind):
    frames, fields = UNMARKED_KINDS[kind]
    codec = "libx265" if kind == "ten bits" else "libx264"
    options = {"x265-params": "crf=23:log-level=none"} if kind == "ten bits" else {"crf": "23"}
    path = write(tmp_path / "a.mp4", frames, codec, options, fps=25)
    counted = probe_video(path, decode=False)
    assert not counted.verified and not counted.interlaced
    assert (UNMARKED in probe_video(path).notes) == (unmarked_fields(counted) == [UNMARKED]) == fields


def test_marked_fields_are_not_said_to_be_unmarked(tmp_path):
    path = write(tmp_path / "a.mp4", interlaced(30, True), "libx264", {"x264-params": "tff=1"}, fps=25)
    assert UNMARKED not in probe_video(path).notes and unmarked_fields(probe_video(path)) == []


def test_fields_that_cannot_be_made_progressive_are_an_error_and_never_a_picture(tmp_path):
    """bwdif refuses frames of fewer than three columns."""
    narrow = [marked(yuv_frame("yuv444p", [np.full((16, 2), 90, np.uint8), 128, 128]), "tff") for _ in range(4)]
    path = write(tmp_path / "a.mkv", narrow, "ffv1", {}, fps=25)
    info = probe_video(path)
    assert info.interlaced
    with pytest.raises(VideoError, match="interlaced yuv444p frames of 2x16 cannot be made progressive"):
        read_frames(info, [1])


def test_a_damaged_interlaced_file_keeps_what_is_whole(tmp_path):
    options = {"x264-params": "tff=1:bframes=0:keyint=5:scenecut=0"}
    path = write(tmp_path / "a.mp4", interlaced(20, True), "libx264", options, fps=25)
    whole = read_all(path)[1]
    info, frames = read_all(damage(path, 12))
    assert info.damaged and info.frames == 17 and np.array_equal(frames[:11], whole[:11])
