"""LeRobot datasets of a hub: what is wanted of them, once, and where they come from."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lerobot.datasets import write_lerobot
from tests.lerobot.hub import COMMIT, hub_with
from utils.lerobot.origin import origin_of, said_of

NAME = "someone/robots"
CARD = "---\nlicense: apache-2.0\ntags: [LeRobot]\n---\n# Robots\n"
PROJECT = Path(__file__).parents[2]


def check(endpoint: str, cwd: Path, *flags) -> subprocess.CompletedProcess:
    """video_dataset.py --from_lerobot in a process of its own: the hub's library reads its address once."""
    argv = [sys.executable, PROJECT / "video_dataset.py", "--num_frames", 8, "--frame_size", 32, *flags]
    env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cwd / "home")}
    env |= dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1")
    return subprocess.run([str(word) for word in argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module", params=["v3.0", "v2.1"])
def on_the_hub(request, tmp_path_factory):
    folder = write_lerobot(tmp_path_factory.mktemp("hub") / "dataset", request.param)
    (folder / "README.md").write_text(CARD)
    return folder


def test_the_wanted_cameras_come_once_with_where_they_are_from(on_the_hub, tmp_path):
    flags = ["--from_lerobot", NAME, "--cameras", "wrist"]
    with hub_with(NAME, on_the_hub) as (endpoint, sent):
        first = check(endpoint, tmp_path, *flags)
        assert first.returncode == 0, first.stderr
        assert not any("front" in path for path in sent) and any("wrist" in path for path in sent)
        count = len(sent)
        more = check(endpoint, tmp_path, *flags[:2], "--cameras", "wrist", "front")
        assert more.returncode == 0 and all("front" in path for path in sent[count:]) and len(sent) > count
    folder = tmp_path / "someone_robots"
    assert json.loads((folder / "dataset_report.json").read_text())["ok"] == 3
    again = check("http://127.0.0.1:9", tmp_path, *flags)  # all is there: nobody is asked
    assert again.returncode == 0, again.stderr
    origin = origin_of(folder)
    assert origin["dataset"] == NAME and origin["commit"] == COMMIT and origin["licence"] == "apache-2.0"
    assert said_of(origin).startswith(f"{NAME} at 0123456789ab (LeRobot v") and said_of({}) == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from_lerobot", "someone/else"], "the hub has no dataset someone/else"),
        (["--from_lerobot", "./nowhere"], "there is no folder ./nowhere; a dataset of the hub is called owner/name"),
        (["--from_lerobot", NAME], "--cameras says which"),
        (["--from_lerobot", NAME, "--output_dir", "full"], "full holds something else; choose another --output_dir"),
        (["--from_lerobot", NAME, "--check", "full"], "does not go with --check"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(on_the_hub, flags, message, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    with hub_with(NAME, on_the_hub) as (endpoint, _):
        done = check(endpoint, tmp_path, *flags)
    lines = [line for line in done.stderr.strip().splitlines() if "Fetching" not in line]  # the hub's own bars
    assert done.returncode == 2 and len(lines) == 1 and message in lines[0]
    assert os.listdir(tmp_path / "full") == ["mine.txt"]


def test_a_hub_that_does_not_answer_leaves_what_has_come(on_the_hub, tmp_path):
    done = check("http://127.0.0.1:9", tmp_path, "--from_lerobot", NAME)
    assert done.returncode == 2 and "hf-mirror.com" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert origin_of(tmp_path) == {}
