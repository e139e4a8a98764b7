"""Every kind of pixel becomes the RGB that a display would show.

What is right follows from H.273, BT.2100 and how the file was made, never from the reader."""

import math

import av
import numpy as np
import pytest

from tests.clips import has_encoder, moving_clip
from tests.decoding.making import MATRICES, code_values, write, yuv_frame
from tests.decoding.reading import read_all
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError

COLOURS = [(255, 255, 255), (128, 128, 128), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 80)]


def shown(path) -> np.ndarray:
    """The pixel in the middle of each frame."""
    frames = read_all(path)[1]
    return frames[:, frames.shape[1] // 2, frames.shape[2] // 2].astype(int)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", list(MATRICES))
@pytest.mark.parametrize(
    ("codec", "name", "pixel_format", "bits"),
    [
        ("libx264", "a.mp4", "yuv420p", 8),
        ("libx264", "a.mkv", "yuv422p", 8),
        ("libx264", "a.mov", "yuv444p", 8),
        ("libx264", "a.mp4", "yuv420p10le", 10),
        ("libx265", "a.mp4", "yuv420p", 8),
        ("libx265", "a.mp4", "yuv422p10le", 10),
        ("libx265", "a.mkv", "yuv444p12le", 12),
        ("libvpx-vp9", "a.webm", "yuv420p", 8),
        ("libvpx-vp9", "a.mp4", "yuv444p", 8),
        ("ffv1", "a.mkv", "yuv420p", 8),
        ("ffv1", "a.mkv", "yuv422p10le", 10),
        ("ffv1", "a.mkv", "yuv444p16le", 16),
    ],
    ids=lambda value: str(value),
)
def test_luma_and_chroma_become_the_colours_they_stand_for(tmp_path, codec, name, pixel_format, bits, matrix, full):
    if not has_encoder(codec):
        pytest.skip(f"this PyAV has no {codec}")
    frames = [yuv_frame(pixel_format, code_values(rgb, matrix, full, bits)) for rgb in COLOURS]
    path = write(tmp_path / name, frames, codec, matrix=matrix, color_range=2 if full else 1)
    assert np.abs(shown(path) - COLOURS).max() <= 3


@pytest.mark.parametrize(
    ("pixel_format", "value", "grey"),
    [("gray", 128, 128), ("gray", 255, 255), ("gray10le", 512, 128), ("gray16le", 65535, 255)],
)
def test_grey_is_grey(tmp_path, pixel_format, value, grey):
    path = write(tmp_path / "a.mkv", [yuv_frame(pixel_format, [value])] * 2, color_range=2)
    assert np.abs(shown(path) - grey).max() <= 2


@pytest.mark.parametrize(
    ("codec", "name", "pixel_format"),
    [
        ("ffv1", "a.mkv", "bgr0"),
        ("ffv1", "a.mkv", "rgb48le"),
        ("ffv1", "a.mkv", "gbrp10le"),
        ("libx264rgb", "a.mp4", "rgb24"),
        ("qtrle", "a.mov", "rgb24"),
        ("png", "a.mov", "rgb24"),
        ("png", "a.mov", "rgb48be"),
        ("utvideo", "a.avi", "gbrp"),
        ("rawvideo", "a.avi", "bgr24"),
        ("rawvideo", "a.mov", "rgb24"),
    ],
)
def test_rgb_codecs_give_back_what_went_in(tmp_path, codec, name, pixel_format):
    if not has_encoder(codec):
        pytest.skip(f"this PyAV has no {codec}")
    clip = moving_clip(4, 48, 64)
    frames = [av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format=pixel_format) for frame in clip]
    path = write(tmp_path / name, frames, codec, {"qp": "0"} if codec == "libx264rgb" else {})
    assert np.abs(read_all(path)[1].astype(int) - clip).max() <= 1


def test_a_palette_gives_its_colours(tmp_path):
    frames = [av.VideoFrame.from_ndarray(np.full((32, 32, 3), rgb, np.uint8), "rgb24") for rgb in COLOURS]
    path = write(tmp_path / "a.gif", [frame.reformat(format="rgb8") for frame in frames], "gif", {})
    steps = 255 / np.array([7, 7, 3])  # what 3, 3 and 2 bits can say
    assert (np.abs(shown(path) - COLOURS) <= steps).all()


def transparent_square(pixel_format: str, hidden=(0, 255, 0)) -> list[av.VideoFrame]:
    """An opaque red square on what is fully transparent, with a hidden colour, and a half transparent corner."""
    pixels = np.full((64, 64, 4), (*hidden, 0), np.uint8)
    pixels[16:48, 16:48], pixels[:8, :8] = (255, 0, 0, 255), (0, 0, 255, 128)
    return [av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pixel_format) for _ in range(8)]


@pytest.mark.parametrize(
    ("codec", "name", "pixel_format", "options", "tolerance"),
    [
        ("libvpx-vp9", "a.webm", "yuva420p", {"lossless": "1"}, 4),
        ("libvpx", "a.webm", "yuva420p", {"crf": "4", "auto-alt-ref": "0"}, 12),
        ("ffv1", "a.mkv", "bgra", {}, 1),
        ("ffv1", "a.mkv", "yuva444p", {}, 4),
        ("qtrle", "a.mov", "argb", {}, 1),
        ("png", "a.mov", "rgba", {}, 1),
        ("prores_ks", "a.mov", "yuva444p10le", {"profile": "4444"}, 8),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_transparent_becomes_white_as_in_pictures(tmp_path, codec, name, pixel_format, options, tolerance):
    if not has_encoder(codec):
        pytest.skip(f"this PyAV has no {codec}")
    path = write(tmp_path / name, transparent_square(pixel_format), codec, options)
    if name.endswith("webm"):
        assert_alpha_is_marked(path)
    info, frames = read_all(path)
    assert info.notes == ("what is transparent becomes white",) and info.frames == 8
    for place, rgb in (((32, 32), (255, 0, 0)), ((60, 60), (255, 255, 255)), ((3, 3), (127, 127, 255))):
        assert np.abs(frames[:, place[0], place[1]].astype(int) - rgb).max() <= tolerance, place


def assert_alpha_is_marked(path) -> None:
    with av.open(str(path)) as container:
        assert container.streams.video[0].metadata["alpha_mode"] == "1"


# HDR ------------------------------------------------------------------------------------------------------------------


def hlg(nits: float) -> float:
    """The HLG signal of a grey that a display of 1000 cd/m2 shows with so many (BT.2100: OOTF and OETF inverted)."""
    scene = (nits / 1000) ** (1 / 1.2)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return math.sqrt(3 * scene) if scene <= 1 / 12 else a * math.log(12 * scene - b) + c


def pq(nits: float) -> float:
    """The PQ signal of so many cd/m2 (ST 2084, EOTF inverted)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (nits / 10_000) ** m1
    return ((c1 + c2 * power) / (1 + c3 * power)) ** m2


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx265", "a.mp4", {"x265-params": "lossless=1:log-level=none"}),
        ("libx265", "a.mkv", {"x265-params": "crf=8:log-level=none"}),
        ("libsvtav1", "a.mp4", {"crf": "5"}),
        ("ffv1", "a.mkv", {}),
        ("prores_ks", "a.mov", {"profile": "3"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize(("transfer", "tag", "signal"), [("PQ", 16, pq), ("HLG", 18, hlg)], ids=["PQ", "HLG"])
def test_hdr_has_reference_white_at_white_in_every_codec(tmp_path, transfer, tag, signal, codec, name, options):
    if not has_encoder(codec):
        pytest.skip(f"this PyAV has no {codec}")
    nits = [203, 1000, 50, 10, 1]
    right = [255 * min(1, light / 203) ** (1 / 2.4) for light in nits]
    chroma = "yuv422p10le" if codec == "prores_ks" else "yuv420p10le"
    for full in (False,) if codec == "prores_ks" else (False, True):  # ProRes knows no full range
        black, top = (0, 1023) if full else (64, 876)
        luma = [round(signal(light) * top) + black for light in nits]
        frames = [yuv_frame(chroma, [value, 512, 512]) for value in luma for _ in range(3)]
        tags = {"color_trc": tag, "color_primaries": 9, "color_range": 2 if full else 1}
        path = write(tmp_path / f"{full}_{name}", frames, codec, options, matrix="bt2020", **tags)
        got = shown(path)[1::3]
        assert got[0].min() >= 253 and np.abs(got - np.array(right)[:, None]).max() <= 3, full
        assert any(note.startswith(f"HDR ({transfer})") for note in probe_video(path).notes)


def test_hdr_colours_go_to_bt709(tmp_path):
    """A red of BT.709 at 100 cd/m2 of luminance factor, sent as PQ of BT.2020, comes back as that red."""
    to_bt2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
    for rgb in ((200, 60, 60), (40, 150, 90), (90, 90, 220)):
        linear = to_bt2020 @ (np.array(rgb) / 255) ** 2.4 * 203
        signal = [255 * pq(light) for light in linear]
        frames = [yuv_frame("yuv444p12le", code_values(signal, "bt2020", False, 12))] * 3
        tags = {"color_trc": 16, "color_primaries": 9, "color_range": 1}
        path = write(tmp_path / f"{rgb[0]}.mkv", frames, "ffv1", matrix="bt2020", **tags)
        assert np.abs(shown(path) - rgb).max() <= 4


def test_dolby_vision_that_only_dolby_shows_is_refused(tmp_path):
    """Profile 5 has no layer that others can show; its tag is dvh1 and its transfer is not said."""
    path = write(tmp_path / "a.mp4", [yuv_frame("yuv420p10le", [500, 512, 512])] * 3, "libx265")
    path.write_bytes(path.read_bytes().replace(b"hev1", b"dvhe").replace(b"hvc1", b"dvh1"))
    with pytest.raises(VideoError, match="Dolby Vision"):
        probe_video(path)


# A conversion that fails ----------------------------------------------------------------------------------------------


def test_a_frame_that_cannot_be_converted_is_an_error_and_never_a_picture(tmp_path, monkeypatch):
    from utils.decoding import pictures

    path = write(tmp_path / "a.mkv", [yuv_frame("yuv420p", [100, 128, 128]) for _ in range(4)])
    info = probe_video(path)

    class Failing:
        def reformat(self, *args, **kwargs):
            raise av.error.FFmpegError(95, "Operation not supported")

    monkeypatch.setattr(pictures, "VideoReformatter", Failing)
    for call in (lambda: read_frames(info, [1]), lambda: probe_video(path)):
        with pytest.raises(VideoError, match=r"pixel format yuv420p cannot be converted to RGB"):
            call()


def test_a_matrix_that_nobody_can_convert_is_an_error(tmp_path):
    """ICtCp (H.273: 14) is no Y'CbCr: with another matrix its colours would be wrong."""
    path = write(tmp_path / "a.mkv", [yuv_frame("yuv420p", [100, 128, 128])] * 2, colorspace=14)
    with pytest.raises(VideoError, match="ICtCp"):
        probe_video(path)
