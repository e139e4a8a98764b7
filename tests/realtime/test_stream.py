"""Videos that are shown while they are made."""

import errno
import io
import json
import re
import sys
import types
from subprocess import PIPE, Popen

import av
import numpy as np
import pytest

import generate_text2video
from tests.text2video.running import ROOT, generate
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.drawing import streaming
from utils.drawing.streaming import Pace
from utils.video.stream import frame_stream

HOW = ["--prompts", "a red circle", "--num_inference_steps", "2", "--sampler", "ddim", "--fps", "4"]


def stream(run, where, *flags):
    generate("--checkpoint", run, *HOW, "--stream", where, *flags)


def decoded(file) -> list[np.ndarray]:
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def gradient(count: int, height: int, width: int) -> np.ndarray:
    ramp = (
        np.linspace(0, 255, height * width).reshape(1, height, width, 1)
        * np.linspace(1, 0.5, count)[:, None, None, None]
    )
    return np.repeat(ramp, 3, axis=3).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["mp4", "y4m"])
def test_frames_can_be_read_as_soon_as_they_are_sent(tmp_path, suffix):
    frames, path = gradient(6, 18, 15), str(tmp_path / f"a.{suffix}")
    with frame_stream(path, 18, 15, 4) as send:
        for n in range(0, 6, 2):
            send(frames[n : n + 2])
            assert len(decoded(path)) >= n + 2 - (suffix == "mp4")  # a muxer of mp4 waits for where a frame ends
    found = decoded(path)
    assert len(found) == 6 and found[0].shape == (18, 16, 3)
    assert np.abs(np.array(found)[:, :, :15].astype(int) - frames).mean() < 4


def test_a_stream_that_breaks_off_is_good_up_to_there(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(KeyboardInterrupt), frame_stream(str(path), 16, 16, 4) as send:
        send(gradient(5, 16, 16))
        raise KeyboardInterrupt
    assert len(decoded(str(path))) == 5
    info = probe_video(path)
    assert info.frames == 5 and len(read_frames(info, range(5))) == 5


def test_what_is_streamed_is_the_video_that_a_chain_draws(going_on, tmp_path, capsys):
    stream(going_on, tmp_path / "a.mp4", "--num_frames", 9, "--chain_overlap", 2)
    generate("--checkpoint", going_on, *HOW, "--output_dir", tmp_path / "b", "--num_frames", 9, "--chain_overlap", 2)
    (whole,) = (tmp_path / "b").glob("*.mp4")
    streamed, drawn = (np.array(decoded(str(path))) for path in (tmp_path / "a.mp4", whole))
    assert streamed.shape == drawn.shape == (9, 16, 16, 3)
    assert np.abs(streamed.astype(int) - drawn).mean() < 6  # of noise, compressed twice
    said, of_chain = json.loads((tmp_path / "a.json").read_text()), json.loads(whole.with_suffix(".json").read_text())
    assert said["drift"] == of_chain["drift"] and said["frames"] == said["num_frames"] == 9
    said = r"\n9 frames, the first after [\d.]+ s; [\d.]+ x real time: [\d.]+ frames/s made, 4 shown\n"
    assert re.search(said, capsys.readouterr().err)


def test_a_stream_without_end_goes_to_standard_output_until_the_player_is_closed(going_on):
    words = ["generate_text2video.py", "--checkpoint", going_on, *HOW, "--stream", "-"]
    with Popen([sys.executable, *map(str, words)], cwd=ROOT, stdout=PIPE, stderr=PIPE) as process:
        try:
            seen = process.stdout.read(20 * 16 * 16 * 3 // 2)
            process.stdout.close()
            _, said = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0 and b"x real time: " in said and b"Traceback" not in said
    assert b"Exception" not in said
    frames = decoded(io.BytesIO(seen))
    assert len(frames) >= 18 and frames[0].shape == (16, 16, 3)
    assert len({frame.tobytes() for frame in frames}) > len(frames) / 2


@pytest.mark.parametrize("where", ["-", "a.mp4"])
def test_a_full_disk_ends_a_stream_in_one_line(going_on, tmp_path, monkeypatch, where):
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 2000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(fileno=lambda: 1, isatty=lambda: False))
    monkeypatch.setattr("utils.video.stream.open", lambda *_, **__: Full(), raising=False)
    with pytest.raises(UserError, match="--stream: .* cannot be written .No space left"):
        stream(going_on, where if where == "-" else tmp_path / where, "--num_frames", 64)


def test_ctrl_c_ends_a_stream_and_leaves_its_file_whole(going_on, tmp_path, monkeypatch):
    def interrupted(*args, **settings):
        for number, piece in enumerate(pieces(*args, **settings)):
            yield piece
            if number == 2:
                raise KeyboardInterrupt

    pieces = streaming.stream_pieces
    monkeypatch.setattr(streaming, "stream_pieces", interrupted)
    stream(going_on, tmp_path / "a.mp4", "--chain_overlap", 1)
    assert len(decoded(str(tmp_path / "a.mp4"))) == 10
    said = json.loads((tmp_path / "a.json").read_text())
    assert said["num_frames"] == 10 and said["prompt"] == "a red circle"
    assert [each["frames"] for each in said["drift"]] == [[0, 4], [3, 7], [6, 10]]


def test_real_time_is_frames_made_over_frames_shown(monkeypatch):
    clock = iter([10.0, 12.0, 12.5, 13.0, 18.5])
    monkeypatch.setattr(streaming.time, "perf_counter", lambda: next(clock))
    pace = Pace(fps=4)
    pace.add(8)
    assert pace.summary() == {"first_frame_seconds": 2.0, "frames_per_second": 4.0, "real_time": 1.0}
    pace.add(6)
    pace.add(6)
    assert pace.summary() == {"first_frame_seconds": 2.0, "frames_per_second": 12.0, "real_time": 3.0}
    pace.waited(5.0)  # the player was ahead
    pace.add(6)
    assert pace.summary() == {"first_frame_seconds": 2.0, "frames_per_second": 12.0, "real_time": 3.0}


def test_a_stream_replaces_no_file_unless_it_is_told_to(going_on, tmp_path, capsys):
    for name in ("a.mp4", "b.json"):
        (tmp_path / name).write_bytes(b"somebody's")
        with pytest.raises(SystemExit) as error:
            stream(going_on, (tmp_path / name).with_suffix(".mp4"), "--num_frames", 4)
        assert error.value.code == 2 and "is there already; choose another name" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == b"somebody's"
    stream(going_on, tmp_path / "a.mp4", "--num_frames", 4, "--overwrite")
    assert len(decoded(str(tmp_path / "a.mp4"))) == 4


def test_what_cannot_be_streamed_is_refused_in_one_line(run_dir, going_on, tmp_path, capsys, monkeypatch):
    with pytest.raises(
        UserError, match=r"--stream: this model was not trained with known frames \(--tasks continuation"
    ):
        stream(run_dir, tmp_path / "a.mp4")
    with pytest.raises(UserError, match="--stream: .* cannot be written"):
        (tmp_path / "b.mp4").mkdir()
        stream(going_on, tmp_path / "b.mp4", "--overwrite")
    capsys.readouterr()
    here = ["--checkpoint", str(going_on), "--stream", str(tmp_path / "a.mp4")]
    for flags, said in (
        ([*here[:3], "a.avi", "--prompts", "a"], "--stream: got a.avi, must end in .mp4 or .y4m, or be -"),
        ([*here[:3], str(tmp_path / "no" / "a.mp4"), "--prompts", "a"], "--stream: there is no folder"),
        ([*here, "--prompts", "a", "b"], "--stream: draws one video; give one prompt"),
        (here, "--stream: draws one video; give one prompt"),
        ([*here, "--prompts", "a", "--save_gif"], "--save_gif: is not for --stream"),
        ([*here, "--prompts", "a", "--vectors", __file__], "--vectors: is for a video that ends; give --num_frames"),
    ):
        with pytest.raises(SystemExit) as error:
            generate_text2video.parse_args(flags)
        assert error.value.code == 2
        assert re.search(re.escape(said), capsys.readouterr().err), flags
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(SystemExit):
        generate_text2video.parse_args([*here[:3], "-", "--prompts", "a"])
    assert "which is a terminal; add `| ffplay -`" in capsys.readouterr().err
