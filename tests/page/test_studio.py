"""What the page does behind the browser: flags as the scripts have them, and one line where they are wrong."""

import sys
import threading
import time

import numpy as np
import pytest

import app
from utils.cli import UserError
from utils.decoding.probe import probe_video

pytest.importorskip("gradio", reason="gradio is only for the page")

from utils.page import edit_tab, runs, studio, words  # noqa: E402


@pytest.fixture
def drawing(runs, tmp_path) -> studio.Studio:  # noqa: F811
    return studio.Studio(runs, tmp_path / "videos", "cpu")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_inference_steps": 0}, "--num_inference_steps: got 0, must be a whole number from 1"),
        ({"seed": -1}, "--seed: got -1"),
        ({"guidance_scale": -2.0}, "--guidance_scale: got -2"),
        ({"negative_prompt": "--overwrite", "num_frames": 5000}, "--num_frames: got 5000"),
        ({"first_frame": "/nowhere.png"}, "--first_frame: there is no /nowhere.png"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(drawing, flags, message):
    with pytest.raises(UserError, match=message):
        list(drawing.draw("plain", "a red circle", flags))


@pytest.mark.parametrize("run", ["../checkpoints/plain", "none", "", None, "/etc"])
def test_only_runs_of_the_folder_are_opened(drawing, run):
    with pytest.raises(UserError, match="there is no model of a run"):
        list(drawing.draw(run, "a red circle", {}))
    with pytest.raises(UserError, match="--prompts: got an empty prompt"):
        list(drawing.draw(run, "  ", {}))


def test_looks_are_counted_to_the_end(drawing):
    *looks, drawn = drawing.draw("plain", "a red circle", {"num_inference_steps": 4})
    assert [(look.step, look.steps) for look in looks] == [(n, 4) for n in (1, 2, 3, 4)]
    assert looks[0].frames.dtype == np.uint8 and looks[0].frames.shape[0] == studio.HEIGHT_SHOWN
    assert drawn.video.is_file() and drawn.sidecar.is_file() and drawn.sheet.is_file()


def test_whoever_leaves_stops_the_drawing(drawing, monkeypatch):
    steps = []
    monkeypatch.setattr(studio.Watch, "_look", lambda self, clips: steps.append(self.step))
    looks = drawing.draw("plain", "a red circle", {"num_inference_steps": 500})
    next(looks)
    looks.close()
    count = len(steps)
    assert count < 400
    time.sleep(0.5)
    assert len(steps) == count


def test_a_stream_shows_each_frame_when_its_time_has_come(drawing, monkeypatch):
    flags = {"num_inference_steps": 2, "num_frames": 12}
    start = time.perf_counter()
    lives = list(drawing.stream("knows_all", "a red circle", flags))
    rate = 8  # of a model whose clips have no rate of their own
    assert time.perf_counter() - start > 11 / rate
    assert [live.frames for live in lives] == list(range(1, 13)) and lives[0].colour == 0 < lives[-1].real_time
    assert lives[0].frame.shape == (studio.HEIGHT_SHOWN, studio.HEIGHT_SHOWN, 3)
    with pytest.raises(UserError, match="--stream: this model was not trained with known frames"):
        next(drawing.stream("plain", "a red circle", {}))


def test_whoever_leaves_a_stream_without_end_stops_it(drawing):
    lives = drawing.stream("knows_all", "a red circle", {"num_inference_steps": 2})
    assert [next(lives).frames for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    threads = threading.active_count()
    lives.close()
    assert threading.active_count() == threads - 1


def test_what_was_painted_becomes_a_mask_or_a_point(data, tmp_path):
    video = tmp_path / "clip.mp4"
    video.write_bytes(next((data / "videos").glob("*.mp4")).read_bytes())
    layer = np.zeros((384, 384, 4), np.uint8)
    assert not edit_tab.painted(None).any() and not edit_tab.painted({"layers": [layer]}).any()
    layer[96:192, 192:288] = 255
    mask = edit_tab.painted({"layers": [layer]})
    assert mask.sum() == 96 * 96
    flags, info = edit_tab.place(mask, "pick", video, "paint"), probe_video(video)
    assert flags["pick"] == (int(239.5 / 384 * info.width), int(143.5 / 384 * info.height))
    with pytest.raises(UserError, match="paint first"):
        edit_tab.place(np.zeros((4, 4), bool), "mask", video, "paint first")


def test_facts_of_a_run_that_is_being_written(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "train/loss": 0.5}\n{"step": 2, "train/loss": 0.25}\n{"step": 3, "tr'
    )
    (tmp_path / "args.json").write_text('{"preset": "demo", "seed": 0')
    assert runs.facts(tmp_path) == [["step", "2"], ["train/loss", "0.25"]]


def test_both_languages_say_everything():
    assert words.ENGLISH.keys() == words.CHINESE.keys()
    assert all(len(both) == 2 and all(both) for both in words.SAID.values())


def test_without_gradio_one_line_says_how_to_get_it(runs, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    args = app.parse_args(["--runs", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"pip install -r requirements-app\.txt"):
        app.main(args)
    assert "gradio" in sys.modules  # but only because this file imports it


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as status:
        app.parse_args(["--runs", str(tmp_path / "none")])
    assert status.value.code == 2 and "--runs: there is no folder" in capsys.readouterr().err
