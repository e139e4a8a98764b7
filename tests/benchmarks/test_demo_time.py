"""What `make demo` says of its length before it begins."""

import re

import pytest

import train_text2video
from benchmarks.text2video import demo_time


@pytest.fixture
def small_demo(monkeypatch):
    """The demo with a network that takes its steps in no time."""
    parse, shapes = (
        train_text2video.parse_args,
        "--frame_size 16 --num_frames 4 --model_channels 16 --max_train_steps 600",
    )
    monkeypatch.setattr(train_text2video, "parse_args", lambda argv: parse([*argv, *shapes.split()]))


def said(tmp_path, capsys) -> tuple[str, int]:
    """(how long, how many training steps)"""
    demo_time.main(demo_time.parse_args(["--data_dir", str(tmp_path / "data"), "--run_dir", str(tmp_path / "run")]))
    found = re.search(r"takes about (.+?) on this machine .*: ([\d,]+) training steps at", capsys.readouterr().out)
    return found[1], int(found[2].replace(",", ""))


@pytest.mark.benchmarks
def test_the_time_is_that_of_what_is_left_to_do(small_demo, tmp_path, capsys):
    duration, steps = said(tmp_path, capsys)
    assert re.fullmatch(r"(\d+ hours? )?\d+ minutes?|\d+ hours?", duration) and steps == 600
    (tmp_path / "run" / "checkpoint-00000500").mkdir(parents=True)
    assert said(tmp_path, capsys)[1] == 100


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 minute"), (125, "2 minutes"), (3600, "1 hour"), (3700, "1 hour 2 minutes"), (7320, "2 hours 2 minutes")],
)
def test_times_are_told_in_words(seconds, words):
    assert demo_time.in_words(seconds) == words
