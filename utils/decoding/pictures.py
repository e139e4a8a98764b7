"""From decoded frames to RGB as it is displayed: progressive, SDR, square pixels, upright, transparent parts white."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from utils.decoding.hdr import TRANSFERS, to_sdr
from utils.decoding.video_info import VideoError

# Matrices of H.273.
UNSPECIFIED, RESERVED = 2, 3  # both mean BT.601 to FFmpeg's own tools
UNKNOWN_MATRICES = {8: "YCgCo", 10: "BT.2020 with constant luminance", 14: "ICtCp", 15: "IPT-C2"}


class Pictures:
    """Frames of one stream as RGB arrays.

    width, height: as displayed, whatever the frames have. `transparent`: whether one had a pixel that is not opaque.
    Raises VideoError if a frame cannot be converted.
    """

    def __init__(self, width: int, height: int):
        self.size, self.to_rgb, self.transparent = (width, height), VideoReformatter(), False
        self.orientation = None  # of the first frame, as of all others

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 RGB (height, width, 3)."""
        turns, mirrored = self.orientation = self.orientation or orientation(frame)
        width, height = self.size if turns % 2 == 0 else self.size[::-1]
        try:
            if frame.colorspace == RESERVED:
                frame.colorspace = UNSPECIFIED
            hdr = TRANSFERS.get(frame.color_trc)
            layout = "rgb48le" if hdr else "rgba" if has_alpha(frame) else "rgb24"
            how = {"interpolation": Interpolation.BICUBIC, "threads": 1}
            pixels = self.to_rgb.reformat(frame, width, height, layout, **how).to_ndarray()
        except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
            what = UNKNOWN_MATRICES.get(frame.colorspace, f"the pixel format {frame.format.name}")
            raise VideoError(f"{what} cannot be converted to RGB ({error}); re-encode it") from None
        if hdr:
            pixels = to_sdr(pixels, hdr)
        elif layout == "rgba":
            self.transparent = self.transparent or bool((pixels[..., 3] < 255).any())
            pixels = on_white(pixels)
        if mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, turns)) if mirrored or turns else pixels


def has_alpha(frame: av.VideoFrame) -> bool:
    return frame.format.has_palette or any(component.is_alpha for component in frame.format.components)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA (H, W, 4), alpha not multiplied in -> uint8 RGB (H, W, 3)."""
    alpha = pixels[..., 3:].astype(np.uint32)
    return ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(quarter turns counter-clockwise, mirrored left to right before that), from the display matrix of a frame.

    A matrix of another angle counts as the nearest quarter.
    """
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return 0, False
    (a, b), (c, d) = np.frombuffer(bytes(matrix), "<i4")[:9].reshape(3, 3)[:2, :2].astype(float)
    mirrored = bool(a * d - b * c < 0)  # x' = a x + c y, y' = b x + d y, and y grows downwards
    if mirrored:
        a, b = -a, -b
    return round(np.arctan2(-b, a) / (np.pi / 2)) % 4, mirrored
