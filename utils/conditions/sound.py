"""The sound of a clip as vectors per frame: how strong each band of pitch is while the frame is shown (mel scale).

It comes from the clip's own track, or from audio/<name>.wav (or any other) beside it.
"""

import os
from pathlib import Path

import av
import numpy as np
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from utils.conditions.maps import ConditionError

BANDS, RATE, HOP, WINDOW, FFT = 32, 16_000, 80, 1024, 1024  # samples; bands from 0 to 8 kHz
SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus")
NAMES = tuple(f"mel{n}" for n in range(BANDS))
BYTES_PER_SECOND = 4 * BANDS * RATE // HOP  # of the power of the bands
# Playlists name other files and hosts: deny every protocol but "file", every demuxer but these.
SAFE = {
    "protocol_whitelist": "file",
    "format_whitelist": "wav,flac,mp3,aac,ogg,mov,matroska,webm,avi,flv,mpeg,mpegts,mxf,asf",
}
LONGEST = 3600  # seconds that are read


def _opened(path: Path) -> av.container.InputContainer:
    """Raises OSError or FFmpegError for what is no regular file of sound or video."""
    if not path.is_file():  # opening a FIFO would wait for ever
        raise OSError(f"{path} is no regular file")
    return av.open(os.path.abspath(path), options=SAFE)  # a relative "a:b.wav" would be taken for a URL


def find_sound(folder: Path, stem: str, clip: Path) -> Path | None:
    """A file of sound beside the clip, or the clip itself where it has a track; None without any."""
    beside = next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)
    if beside is not None or not clip.is_file():
        return beside
    try:
        with _opened(clip) as container:
            return clip if container.streams.audio else None
    except (av.error.FFmpegError, OSError):
        return None


def read_sound(path: Path, start: float = 0.0) -> np.ndarray:
    """Samples in [-1, 1], mono, at RATE, float32, from `start` seconds on. Raises ConditionError for what has none."""
    parts, total, first = [], 0, None
    try:
        with _opened(path) as container:
            if not container.streams.audio:
                raise ConditionError("has no sound")
            resampler = av.AudioResampler(format="fltp", rate=RATE)  # channels are averaged below
            for frame in container.decode(container.streams.audio[0]):
                first = (frame.time or 0.0) if first is None else first
                parts += [each.to_ndarray().mean(axis=0) for each in resampler.resample(frame)]
                total += len(parts[-1]) if parts else 0
                if total > LONGEST * RATE:
                    break
            parts += [each.to_ndarray().mean(axis=0) for each in resampler.resample(None)]
    except (av.error.FFmpegError, OSError) as error:
        raise ConditionError(f"its sound cannot be read ({error})") from None
    if not parts:
        raise ConditionError("has no sound")
    samples, late = np.concatenate(parts), round((first - start) * RATE)
    return np.concatenate([np.zeros(late, np.float32), samples]) if late > 0 else samples[-late:]


def power_of(samples: np.ndarray) -> np.ndarray:
    """Power of each band, (BANDS, N) float32, one column every HOP samples."""
    filters = mel_filter_bank(FFT // 2 + 1, BANDS, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    hann = window_function(WINDOW, "hann")
    return spectrogram(samples, hann, WINDOW, HOP, fft_length=FFT, power=2.0, mel_filters=filters).astype(np.float32)


def bands_of(power: np.ndarray, times: np.ndarray, interval: float) -> np.ndarray:
    """Strength of each band, (T, BANDS) float32: log10 of the mean power while each frame is shown, from its time on
    for `interval` seconds. Raises ConditionError if the sound ends before the last frame is shown."""
    length = power.shape[1] * HOP / RATE
    if length < times.max() + interval / 2:
        raise ConditionError(f"its sound ends after {length:.2f} s, before the last frame")
    edges = np.rint(np.stack([times, times + interval]) * (RATE / HOP)).astype(int)
    edges = np.clip(edges, 0, power.shape[1] - 1)
    means = [power[:, begin : max(end, begin + 1)].mean(axis=1) for begin, end in edges.T]
    return np.log10(np.maximum(np.stack(means), 1e-8)).astype(np.float32)
