"""HDR to SDR: one documented mapping for every codec.

It is the inverse of the display-referred mapping of SDR into HDR of ITU-R BT.2408: reference white, 203 cd/m2, which is
75 % of the HLG and 58 % of the PQ signal, becomes white, and all that is brighter becomes white too; primaries go from
BT.2020 to BT.709; the result is meant for a display of gamma 2.4 (BT.1886). HLG is seen on a display of 1000 cd/m2.
"""

from functools import cache

import cv2
import numpy as np
from av.video.reformatter import ColorTrc

REFERENCE_WHITE = 203.0  # cd/m2
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # cd/m2; of the display's system gamma (BT.2100, table 5)
TRANSFERS = {ColorTrc.SMPTE2084.value: "PQ", ColorTrc.ARIB_STD_B67.value: "HLG"}
WHITE = 0xFF00  # what FFmpeg makes of the signal 1 in 16 bits
ROOTS = 2**12  # of light, for which the signal is tabulated
BT2020_TO_BT709 = np.array(  # ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)
LUMINANCE = np.array([0.2627, 0.6780, 0.0593])  # of BT.2020


def pq_to_linear(signal: np.ndarray) -> np.ndarray:
    """The PQ signal in [0, 1] as light of the display, 1 is reference white (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = np.asarray(signal, float) ** (1 / m2)
    return 10_000 / REFERENCE_WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_to_scene(signal: np.ndarray) -> np.ndarray:
    """The HLG signal in [0, 1] as light of the scene in [0, 1] (BT.2100, inverse OETF)."""
    a, signal = 0.17883277, np.asarray(signal, float)
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def to_sdr(pixels: np.ndarray, transfer: str) -> np.ndarray:
    """uint16 (H, W, 3), RGB signals of BT.2020 in PQ or HLG up to WHITE -> uint8 (H, W, 3), RGB signals of BT.709."""
    light = _light(transfer)[np.minimum(pixels, WHITE)]
    if transfer == "HLG":  # the OOTF: what a display of 1000 cd/m2 makes of the light of the scene
        luminance = cv2.transform(light, LUMINANCE[None])
        light *= HLG_PEAK / REFERENCE_WHITE * cv2.pow(luminance, HLG_GAMMA - 1)[..., None]
    light = np.clip(cv2.transform(light, BT2020_TO_BT709), 0, 1)
    return _signals()[np.rint(np.sqrt(light) * (ROOTS - 1)).astype(np.uint16)]


@cache
def _light(transfer: str) -> np.ndarray:
    """float32 (WHITE + 1,): the light of each signal."""
    signal = np.linspace(0, 1, WHITE + 1)
    return (pq_to_linear if transfer == "PQ" else hlg_to_scene)(signal).astype(np.float32)


@cache
def _signals() -> np.ndarray:
    """uint8 (ROOTS,): the signals of SDR for roots of light, which are finer where it is dark."""
    return np.rint(255 * np.linspace(0, 1, ROOTS) ** (2 / 2.4)).astype(np.uint8)
