"""Files beside clips: maps, vectors and sound, read right or refused in one line."""

import os
import re
import wave

import numpy as np
import pytest

from utils.conditions.maps import ConditionError, as_floats, find_map, map_indices, probe_map, read_map
from utils.conditions.sound import BANDS, RATE, bands_of, find_sound, power_of, read_sound
from utils.conditions.vectors import at_times, read_vectors
from utils.decoding.video_info import VideoInfo
from utils.video.encode import write_frames, write_video


def clip(frames: int = 8, fps: float = 4.0, **more) -> VideoInfo:
    return VideoInfo("/x/clip.mp4", frames, fps, 32, 24, "h264", **more)


def ramp(frames: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Grey frames, each lighter than the one before."""
    levels = np.linspace(0, 255, frames).round().astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (frames, height, width, 3)).copy()


def make(path, kind: str, frames: int = 8):
    grey = ramp(frames)
    if kind == "video":
        write_video(path / "clip.mp4", grey, 4)
    elif kind == "pictures":
        write_frames(path / "clip", grey)
    elif kind == "uint8":
        np.save(path / "clip.npy", grey[..., 0])
    elif kind == "uint16":
        np.save(path / "clip.npy", grey[..., :1].astype(np.uint16) * 257)
    elif kind == "float":
        np.save(path / "clip.npy", (grey[..., 0] / 127.5 - 1).astype(np.float16))
    return find_map(path, "clip")


@pytest.mark.parametrize("kind", ["video", "pictures", "uint8", "uint16", "float"])
def test_every_kind_of_map_says_the_same(tmp_path, kind):
    found = probe_map(make(tmp_path, kind))
    assert (found.frames, found.channels) == (8, 1)
    indices = np.array([0, 3, 3, 7])
    values = as_floats(read_map(found, map_indices(found, clip(), indices), 1))
    expected = np.linspace(-1, 1, 8)[indices]
    assert values.shape[0] == 4 and values.shape[3] == 1 and values.dtype == np.float32
    assert np.abs(values.mean(axis=(1, 2, 3)) - expected).max() < 0.02


def test_colours_make_three_channels_and_arrays_as_many_as_they_have(tmp_path):
    frames = ramp(4)
    frames[..., 0] = 200
    write_video(tmp_path / "seg.mp4", frames, 4)
    assert probe_map(tmp_path / "seg.mp4").channels == 3
    np.save(tmp_path / "flow.npy", np.zeros((4, 6, 8, 2), np.float32))
    assert probe_map(tmp_path / "flow.npy").channels == 2


def test_a_map_with_another_rate_is_read_by_time_and_one_of_another_length_refused(tmp_path):
    write_video(tmp_path / "clip.mp4", ramp(32), 16)
    found = probe_map(tmp_path / "clip.mp4")
    assert map_indices(found, clip(), np.arange(8)).tolist() == list(range(0, 32, 4))
    times = tuple(np.array([0, 1, 2, 3, 4, 5, 6, 6.5]) / 4)  # a rate that varies
    assert map_indices(found, clip(times=times), np.array([7])).tolist() == [26]
    with pytest.raises(ConditionError, match=r"lasts 2.00 s, its clip 3.00 s"):
        map_indices(found, clip(frames=12), np.arange(12))
    np.save(tmp_path / "other.npy", np.zeros((7, 4, 4), np.uint8))
    with pytest.raises(ConditionError, match="has 7 frames, its clip 8"):
        map_indices(probe_map(tmp_path / "other.npy"), clip(), np.arange(8))


def test_one_picture_holds_for_all_frames(tmp_path):
    write_frames(tmp_path, ramp(2)[1:])
    found = probe_map(tmp_path / "00000.png")
    assert map_indices(found, clip(), np.arange(8)).tolist() == [0] * 8


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4, 4), 1.5, np.float32), "values outside"),
        (np.full((4, 4, 4), np.nan, np.float32), "values outside"),
        (np.zeros((4, 4)), "give \\(T, H, W\\)"),
        (np.zeros((4, 4, 4), complex), "give \\(T, H, W\\)"),
        (np.zeros((4, 4, 4), object), "no .npy file of numbers"),
    ],
)
def test_arrays_that_are_no_maps_are_refused(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(ConditionError, match=said):
        read_map(probe_map(tmp_path / "a.npy"), np.arange(4), 1)


def test_other_channels_than_the_first_clips_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 4, 2), np.uint8))
    with pytest.raises(ConditionError, match="has 2 channels, other clips' have 3"):
        read_map(probe_map(tmp_path / "a.npy"), np.arange(4), 3)


# -------------------------------------------------------------------------------------------------------- vectors


def test_tables_and_arrays_hold_the_same_numbers(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    rows = np.array([[0, 1], [1, 3], [2, 5], [3, 7]], np.float32)
    (tmp_path / "a.csv").write_text("dx, dy\n" + "\n".join(f"{x},{y}" for x, y in rows))
    np.save(tmp_path / "a.npy", rows)
    parquet.write_table(pyarrow.table({"dx": rows[:, 0], "dy": rows[:, 1]}), tmp_path / "a.parquet")
    times = np.arange(8) / 4  # eight frames of two seconds, four rows
    expected = np.interp(np.arange(8) / 2, np.arange(4), [0, 1, 2, 3])
    for name in ("a.csv", "a.npy", "a.parquet"):
        found = read_vectors(tmp_path / name)
        assert found.names == (("v0", "v1") if name == "a.npy" else ("dx", "dy")) and found.times is None
        assert np.allclose(at_times(found, times, 2.0)[:, 0], expected)
        assert np.allclose(at_times(found, times, 2.0)[:, 1], 2 * expected + 1)


def test_a_column_of_seconds_says_when_rows_hold(tmp_path):
    (tmp_path / "a.csv").write_text("Time,speed\n0,0\n0.5,10\n2,40\n")
    found = read_vectors(tmp_path / "a.csv")
    assert found.names == ("speed",)
    assert at_times(found, np.array([0.25, 0.5, 1.25]), 2.0).ravel().tolist() == [5, 10, 25]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n", "is empty"),
        ("", "no table"),
        ("a,b\n1,2\n3\n", "no table"),
        ("a,b\n1,x\n", "no table"),
        ("a,b\n1,nan\n", "no numbers"),
        ("t,b\n1,2\n0,3\n", "do not rise"),
        ("t\n1\n2\n", "times alone"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, text, said):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ConditionError, match=said):
        read_vectors(tmp_path / "a.csv")


def test_tables_that_end_before_the_clip_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("t,b\n0,2\n0.1,3\n0.2,3\n")
    with pytest.raises(ConditionError, match=r"holds from 0.00 to 0.20 s, its clip lasts 2.00 s"):
        at_times(read_vectors(tmp_path / "a.csv"), np.arange(8) / 4, 2.0)
    np.save(tmp_path / "a.npy", np.zeros((1, 3)))
    with pytest.raises(ConditionError, match="single row"):
        at_times(read_vectors(tmp_path / "a.npy"), np.arange(8) / 4, 2.0)


# ---------------------------------------------------------------------------------------------------------- sound


def tone(path, *pitches: float, seconds: float = 1.0, rate: int = 22_050) -> None:
    """A .wav of stretches of one pitch each."""
    times = np.arange(round(seconds * rate)) / rate
    samples = np.concatenate([np.sin(2 * np.pi * pitch * times) for pitch in pitches])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples[:, None].repeat(2, axis=1) * 20_000).astype("<i2").tobytes())


def test_sound_is_as_high_as_it_is_while_a_frame_is_shown(tmp_path):
    tone(tmp_path / "a.wav", 300, 3000)
    samples = read_sound(tmp_path / "a.wav")
    assert len(samples) == pytest.approx(2 * RATE, rel=0.01) and np.abs(samples).max() == pytest.approx(0.61, abs=0.05)
    bands = bands_of(power_of(samples), np.arange(8) / 4, 0.25)
    assert bands.shape == (8, BANDS) and bands.dtype == np.float32
    loudest = bands.argmax(axis=1)
    assert len(set(loudest[:4])) == 1 and len(set(loudest[4:])) == 1
    mel = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), BANDS + 2)[1:-1]  # Slaney's scale
    for pitch, band in ((300, loudest[0]), (3000, loudest[4])):
        wanted = 3 * pitch / 200 if pitch < 1000 else 15 + 27 * np.log(pitch / 1000) / np.log(6.4)
        assert abs(mel[band] - wanted) < 1.0


def test_sound_that_ends_before_the_last_frame_is_refused(tmp_path):
    tone(tmp_path / "a.wav", 300)
    power = power_of(read_sound(tmp_path / "a.wav"))
    with pytest.raises(ConditionError, match=r"ends after 1.0\d s"):
        bands_of(power, np.arange(8) / 4, 0.25)


def test_a_clip_has_the_sound_of_its_own_track_or_of_a_file_beside_it(tmp_path):
    frames = ramp(8)
    write_video(tmp_path / "silent.mp4", frames, 4)
    assert find_sound(tmp_path, "silent", tmp_path / "silent.mp4") is None
    sound = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    write_video(tmp_path / "loud.mp4", frames, 4, sound, RATE)
    assert find_sound(tmp_path, "loud", tmp_path / "loud.mp4") == tmp_path / "loud.mp4"
    heard = read_sound(tmp_path / "loud.mp4")
    assert len(heard) == pytest.approx(2 * RATE, abs=2048)
    late = np.correlate(heard[2000:6000], sound[2000:6000])[0] / np.square(sound[2000:6000]).sum()
    assert late > 0.9  # in step with the pictures to less than a vibration
    tone(tmp_path / "silent.wav", 300)
    assert find_sound(tmp_path, "silent", tmp_path / "silent.mp4") == tmp_path / "silent.wav"
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(ConditionError, match="cannot be read"):
        read_sound(tmp_path / "bad.wav")


def test_sound_is_counted_from_the_first_frame_of_its_clip(tmp_path):
    tone(tmp_path / "a.wav", 300, 3000)
    late = read_sound(tmp_path / "a.wav", start=0.5)
    assert np.array_equal(late, read_sound(tmp_path / "a.wav")[RATE // 2 :])
    early = read_sound(tmp_path / "a.wav", start=-0.25)  # the sound begins later than the pictures
    assert not early[: RATE // 4].any() and np.array_equal(early[RATE // 4 :], read_sound(tmp_path / "a.wav"))


def test_playlists_that_call_themselves_sound_are_not_followed(tmp_path):
    tone(tmp_path / "secret.wav", 300)
    for text in ("ffconcat version 1.0\nfile secret.wav\n", "#EXTM3U\n#EXTINF:1,\nsecret.wav\n"):
        (tmp_path / "list.wav").write_text(text)
        with pytest.raises(ConditionError, match="cannot be read"):
            read_sound(tmp_path / "list.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(ConditionError, match="no regular file"):
        read_sound(tmp_path / "pipe.wav")


def test_a_video_with_sound_has_the_same_bytes_each_time(tmp_path):
    sound = np.linspace(-0.5, 0.5, RATE).astype(np.float32)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, ramp(4), 4, sound, RATE)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert re.match(rb"....ftyp", (tmp_path / "a.mp4").read_bytes())
