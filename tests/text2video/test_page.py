"""The page of generated videos in a real browser: every video on it loads from the disk and plays."""

import base64
import json
import re
import select
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

import generate_text2video
import train_text2video
from utils.demo_data.demo_dataset import write_demo_dataset

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)
PROMPTS = ["a red circle moving right", "a blue square moving left", '那个 <b>green</b> & "big" triangle goes up']
PATIENCE = 60  # seconds for the browser to start and to play everything

# Reports each <video> once it plays on (two moments with different times), fails, or has had its time.
PROBE = """
<script>
const state = video => ({src: video.getAttribute("src"), readyState: video.readyState, width: video.videoWidth,
  height: video.videoHeight, duration: video.duration, played: video.played.length > 0 && video.currentTime > 0,
  error: video.error ? video.error.code : null});
const settled = video => new Promise(resolve => {
  let before = null;
  const timer = setInterval(() => {
    const moved = before !== null && video.currentTime !== before;
    before = video.currentTime;
    if (moved || video.error || performance.now() > 20000) { clearInterval(timer); resolve(state(video)); }
  }, 50);
});
Promise.all([...document.querySelectorAll("video")].map(settled)).then(
  states => console.log("RESULT " + btoa(JSON.stringify(states)) + " END"));
</script>
"""


@pytest.fixture(scope="session")
def page(tmp_path_factory) -> Path:
    """index.html with three videos, made by a model that was trained for one step."""
    folder = tmp_path_factory.mktemp("page")
    write_demo_dataset(folder / "data", num_clips=8, num_frames=6, frame_size=32)
    flags = ["--data_dir", str(folder / "data"), "--output_dir", str(folder / "run"), "--preset", "tiny", "--no_wandb"]
    train_text2video.main(train_text2video.parse_args([*flags, "--max_train_steps", "1"]))
    flags = ["--checkpoint", str(folder / "run"), "--output_dir", str(folder / "videos"), "--num_inference_steps", "2"]
    generate_text2video.main(generate_text2video.parse_args([*flags, "--prompts", *PROMPTS]))
    return folder / "videos" / "index.html"


def play(page: Path, profile: Path) -> list[dict]:
    """What the browser says about each video of a copy of `page` with the probe in it."""
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]
    command += ["--no-first-run", "--autoplay-policy=no-user-gesture-required", "--enable-logging=stderr"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1200,900", probed.as_uri()]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said, deadline = b"", time.monotonic() + PATIENCE
    try:
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([process.stderr], [], [], left)[0]:
                break
            chunk = process.stderr.read1()
            said += chunk
            if found := re.search(rb"RESULT (\S+) END", said):
                return json.loads(base64.b64decode(found[1]))
            if not chunk:
                break
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()
    raise AssertionError(f"{CHROMIUM} did not answer in {PATIENCE} s: {said[-2000:].decode(errors='replace')}")


class Page(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.links, self.tags = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "poster", "action")]


def test_the_page_needs_nothing_but_its_folder(page):
    html = page.read_text(encoding="utf-8")
    found = Page(html)
    assert found.tags.count("video") == len(PROMPTS) and "script" not in found.tags and "b" not in found.tags
    assert len(found.links) == len(PROMPTS)
    assert not re.search(r"https?:|src=\"//|@import|url\(", html)
    assert all(not link.startswith(("/", "file:")) for link in found.links)


@needs_chromium
def test_every_video_plays_in_a_browser_from_the_disk(page, tmp_path):
    videos = play(page, tmp_path / "profile")
    assert len(videos) == len(PROMPTS)
    for video in videos:
        assert video["error"] is None and video["readyState"] >= 2 and video["played"], video
        assert (video["width"], video["height"]) == (16, 16), video
        assert video["duration"] == pytest.approx(4 / 8, abs=0.1), video


@needs_chromium
def test_a_broken_video_is_noticed(page, tmp_path):
    folder = tmp_path / "videos"
    shutil.copytree(page.parent, folder)
    first, second, _ = sorted(folder.glob("*.mp4"))
    first.write_bytes(b"this is no video" * 100)
    second.unlink()
    broken = play(folder / "index.html", tmp_path / "profile")
    assert [video["error"] is None and video["played"] for video in broken] == [False, False, True]
