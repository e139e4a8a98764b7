"""The page in a real browser: each tab does its work, in both languages, and no file leaks."""

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.video.encode import write_image
from utils.video.frames import resize_frames

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is only for the tests of the page")
expect = sync_api.expect
pytestmark = pytest.mark.slow  # a server and a browser: two minutes
PATIENCE = 60_000  # ms, on a busy machine


@pytest.fixture
def page(browser, address):
    """The page in English, which has asked nobody but its own server, and logged no error."""
    context = browser.new_context(locale="en-US", viewport={"width": 1300, "height": 1000})
    context.set_default_timeout(PATIENCE)
    opened, outside, errors = context.new_page(), [], []
    inside = (address, "data:", "blob:")
    opened.on("request", lambda request: request.url.startswith(inside) or outside.append(request.url))
    opened.on("console", lambda message: message.type == "error" and errors.append(message.text))
    opened.goto(address)
    expect(opened.locator("#title")).to_be_visible()
    yield opened
    context.close()
    assert not outside and not errors


def tab(page, name: str):
    """The panel behind a tab, opened."""
    page.get_by_role("tab", name=name, exact=True).click()
    panel = page.locator(f"#{name.split()[0].lower()}[role=tabpanel]")
    expect(panel).to_be_visible()
    return panel


def choose(page, panel, run: str, nth: int = 0) -> None:
    panel.locator(".runs input").nth(nth).click()
    page.get_by_role("option", name=run, exact=True).last.click()


def progress(panel, nth: int = 0):
    return panel.locator(".prose.progress").nth(nth)


def draw(page, panel, prompt: str, nth: int = 0) -> Path:
    """The file of the video that the button has made."""
    panel.get_by_label("Prompt", exact=True).fill(prompt)
    before = progress(panel, nth).inner_text()
    panel.get_by_role("button", name="Draw").click()
    for _ in range(PATIENCE // 200):
        page.wait_for_timeout(200)
        text, toasts = progress(panel, nth).inner_text(), page.get_by_test_id("toast-body").all_inner_texts()
        if text.startswith("done: ") and text != before:
            return file_of(panel, nth)
        assert not any("Error" in each for each in toasts), toasts
    raise AssertionError(text)


def settled(page, element) -> dict:
    """The box of an element that lays itself out anew, once it has stayed for a second."""
    box, left = None, PATIENCE // 1000
    while (found := element.bounding_box()) != box and left:
        box, left = found, left - 1
        page.wait_for_timeout(1000)
    return box


def draw_for_minutes(page):
    """The panel in which a video has begun."""
    panel = tab(page, "Generate")
    choose(page, panel, "plain")
    panel.get_by_role("button", name="Settings").click()
    panel.get_by_label("Steps").fill("1000")
    panel.get_by_label("Frames").fill("64")
    panel.get_by_label("Prompt", exact=True).fill("a red circle")
    panel.get_by_role("button", name="Draw").click()
    expect(progress(panel)).to_contain_text("of 1000", timeout=PATIENCE)
    return panel


def file_of(panel, nth: int = 0) -> Path:
    expect(progress(panel, nth)).to_contain_text("done: ")
    return Path(progress(panel, nth).inner_text().splitlines()[0].removeprefix("done: "))


def frames(path: Path) -> np.ndarray:
    info = probe_video(path)
    return read_frames(info, range(info.frames))


def small(clip: np.ndarray) -> np.ndarray:
    return resize_frames(clip, 16, 16)


def test_a_prompt_becomes_a_video_and_is_seen_on_its_way(page):
    panel = tab(page, "Generate")
    choose(page, panel, "knows_all")
    expect(panel).to_contain_text("conditions that it knows: known, depth, vectors, audio")
    page.evaluate("window.seen = []")
    page.evaluate("""new MutationObserver(() => window.seen.push(
        document.querySelector('#generate .prose.progress').textContent + '|' +
        (document.querySelector('#generate .look img') !== null)
    )).observe(document.querySelector('#generate'), {subtree: true, childList: true, attributes: true})""")
    video = draw(page, panel, "a red circle moving right")
    steps = {text for text in page.evaluate("window.seen") if "step" in text and text.endswith("|true")}
    assert len(steps) >= 2, "no look at the video before it was done"
    sidecar = json.loads(video.with_suffix(".json").read_text())
    assert sidecar["prompt"] == "a red circle moving right" and sidecar["seed"] == 0
    assert len(frames(video)) == sidecar["num_frames"]
    panel.get_by_role("button", name="Settings").click()
    panel.get_by_label("Seed").fill("5")
    panel.get_by_label("Steps").fill("3")
    again = draw(page, panel, "a red circle moving right <b>fluffily</b>")
    expect(page.get_by_text("no training caption had the word(s) <, b, >, fluffily, /;")).to_be_visible()  # as text
    sidecar = json.loads(again.with_suffix(".json").read_text())
    assert (sidecar["seed"], sidecar["num_inference_steps"]) == (5, 3)


def test_a_video_begins_with_the_picture(page, data, tmp_path):
    picture = small(frames(next((data / "videos").glob("*.mp4"))))[0]
    write_image(tmp_path / "first.png", picture)
    panel = tab(page, "Picture to video")
    choose(page, panel, "knows_all")
    panel.locator("input[type=file]").first.set_input_files(tmp_path / "first.png")
    expect(panel.locator("img").first).to_be_visible()
    video = draw(page, panel, "a red circle moving right")
    assert np.abs(frames(video)[0].astype(int) - picture).mean() < 4  # but for the codec
    assert list(json.loads(video.with_suffix(".json").read_text())["given"]) == ["first_frame"]
    choose(page, panel, "plain")
    panel.get_by_role("button", name="Draw").click()
    expect(page.get_by_text("this model was not trained with known frames")).to_be_visible()
    page.get_by_test_id("toast-close").first.click()


def test_a_stream_is_watched_until_it_is_stopped(page):
    panel = tab(page, "Stream")
    choose(page, panel, "knows_all")
    panel.get_by_label("Prompt", exact=True).fill("a red circle moving right")
    panel.get_by_role("button", name="Settings").click()
    panel.get_by_label("Steps").fill("2")
    panel.get_by_role("button", name="Draw").click()
    expect(progress(panel)).to_contain_text(re.compile(r"\d\d frames; "), timeout=PATIENCE)  # a piece has 4
    expect(progress(panel)).to_contain_text("x real time")
    expect(panel.locator(".live img")).to_be_visible()
    panel.get_by_role("button", name="Stop").click()
    expect(progress(panel)).to_have_text("stopped")
    page.wait_for_timeout(1000)
    expect(progress(panel)).to_have_text("stopped")


def test_only_what_is_painted_changes(page, data):
    source = next((data / "videos").glob("*.mp4"))
    panel = tab(page, "Edit")
    choose(page, panel, "knows_all")
    panel.locator("input[type=file]").first.set_input_files(source)
    canvas = panel.locator("canvas").first
    expect(canvas).to_be_visible()
    panel.get_by_label("Prompt", exact=True).fill("a blue square moving right")
    panel.get_by_role("button", name="Draw").click()
    expect(page.get_by_text("paint what may change first")).to_be_visible()
    page.get_by_test_id("toast-close").first.click()
    canvas.scroll_into_view_if_needed()
    box = settled(page, canvas)
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5 + 30, box["y"] + box["height"] * 0.5, steps=5)
    page.mouse.up()
    time.sleep(1)
    video = draw(page, panel, "a blue square moving right")
    before, after = small(frames(source))[0].astype(int), frames(video)[0].astype(int)
    changed = np.abs(after - before).max(axis=-1) > 40
    assert changed[4:12].any() and not changed[:2].any() and not changed[-2:].any()
    panel.get_by_label("All of it, from what it shows to the prompt").click()
    panel.get_by_label("What the video shows").fill("a red circle moving right")
    panel.get_by_role("button", name="Draw").click()
    expect(progress(panel)).to_contain_text("comes back from inversion with", timeout=PATIENCE)
    assert json.loads(file_of(panel).with_suffix(".json").read_text())["source_prompt"] == "a red circle moving right"


def test_two_runs_draw_one_prompt_with_one_seed(page):
    panel = tab(page, "Compare")
    choose(page, panel, "knows_all", 0)
    choose(page, panel, "plain", 1)
    second = draw(page, panel, "a green square moving up", nth=1)
    sidecars = [json.loads(path.with_suffix(".json").read_text()) for path in (file_of(panel, 0), second)]
    assert [Path(each["checkpoint"]).parent.name for each in sidecars] == ["knows_all", "plain"]
    assert sidecars[0]["seed"] == sidecars[1]["seed"]


def test_a_run_is_looked_at(page):
    panel = tab(page, "Browse")
    choose(page, panel, "knows_all")
    expect(panel.locator("img").first).to_be_visible()
    expect(panel).to_contain_text("train/loss")
    expect(panel.get_by_label("Samples of")).to_have_value("step_000006")
    expect(panel.locator(".gallery-item, .thumbnail-item").first).to_be_visible()


def test_drawing_stops_when_asked_and_another_may_begin(page):
    panel = draw_for_minutes(page)
    panel.get_by_role("button", name="Draw").click()  # waits for its turn
    page.wait_for_timeout(1000)
    panel.get_by_role("button", name="Stop").click()
    expect(progress(panel)).to_contain_text("stopped")
    panel.get_by_label("Steps").fill("2")
    panel.get_by_label("Frames").fill("")
    start = time.monotonic()
    draw(page, panel, "a red circle")
    assert time.monotonic() - start < 30, "the stopped video went on being drawn"


def test_whoever_closes_the_page_makes_room_for_others(browser, page, address):
    context = browser.new_context(locale="en-US")
    other = context.new_page()
    other.goto(address)
    panel = draw_for_minutes(other)
    context.close()
    panel = tab(page, "Generate")
    choose(page, panel, "knows_all")
    start = time.monotonic()
    draw(page, panel, "a red square")
    assert time.monotonic() - start < 30, "what nobody waits for went on being drawn"


def test_the_page_speaks_the_language_of_the_browser(browser, address):
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(address)
    expect(page.get_by_role("tab", name="图片生成视频")).to_be_visible(timeout=PATIENCE)
    panel = page.locator("#generate[role=tabpanel]")
    choose(page, panel, "plain")
    expect(panel).to_contain_text("它学过的条件：无", timeout=PATIENCE)
    context.close()


@pytest.mark.parametrize("path", ["/etc/passwd", "{root}/app.py", "{runs}/../secret", "{runs}/%2e%2e/secret"])
def test_files_outside_the_given_folders_are_not_readable(address, runs, path):
    (runs.parent / "secret").write_text("secret")
    path = path.format(root=Path(__file__).parents[2], runs=runs)
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as refused:
        local.open(f"{address}/gradio_api/file={path}")
    assert refused.value.code in (403, 404)
    assert local.open(f"{address}/gradio_api/file={runs}/plain/loss.png").status == 200
