"""infer_svd.py end to end through its main, with a tiny random pipeline."""

import json
import shutil

import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

import infer_svd
from tests.svd.running import FRAMES, infer
from utils.cli import UserError
from utils.decoding.images import read_image
from utils.decoding.probe import probe_video
from utils.motion.score import MOTION_MEASURE


def test_a_seed_is_a_video_and_a_second_call_does_nothing(run_dir, picture, tmp_path):
    for name in ("a", "b"):
        infer("--model_dir", run_dir, "--input_image", picture, "--output_video", tmp_path / f"{name}.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    info = probe_video(tmp_path / "a.mp4")
    assert (info.frames, info.width, info.height) == (FRAMES, 64, 64)
    about = json.loads((tmp_path / "a.json").read_text())
    assert about["motion_bucket_id"] == 180 and about["noise_aug_strength"] == 0.1 and about["fps"] == 7
    before = (tmp_path / "a.mp4").stat().st_mtime_ns
    infer("--model_dir", run_dir, "--input_image", picture, "--output_video", tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_mtime_ns == before


def test_segments_show_the_frame_at_a_seam_once(run_dir, picture, tmp_path, capsys):
    video = tmp_path / "long.mp4"
    infer("--model_dir", run_dir, "--input_image", picture, "--output_video", video, "--segments", 3)
    assert probe_video(video).frames == 3 * FRAMES - 2
    assert len(json.loads(video.with_suffix(".json").read_text())["colour_drift"]) == 3
    assert "colour drift per segment" in capsys.readouterr().out


def test_a_folder_of_images_becomes_a_page(run_dir, picture, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("one.png", "two.JPG"):
        Image.open(picture).save(folder / name)
    infer("--model_dir", run_dir, "--input_image", folder, "--output_dir", tmp_path / "out", "--visualize")
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<video") == 2 and page.count("<img") == 2 and "short sides/s" in page
    assert {"one_0.mp4", "two_0.mp4", "one_0.png", "one_0.json"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_motion_words_are_quantiles_of_the_training_clips(run_dir, picture, tmp_path):
    buckets = []
    for motion in ("slow", "median", "100%"):
        video = tmp_path / f"{motion.strip('%')}.mp4"
        infer("--model_dir", run_dir, "--input_image", picture, "--output_video", video, "--motion", motion)
        buckets.append(json.loads(video.with_suffix(".json").read_text())["motion_bucket_id"])
    assert buckets[0] < buckets[1] < buckets[2] == 255


def test_training_clips_of_an_older_measure_are_named_and_not_compared(run_dir, picture, tmp_path, capsys):
    shutil.copytree(run_dir, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "svd.json").read_text())
    assert about.pop("motion_measure") == MOTION_MEASURE
    for folder, compared in ((run_dir, True), (tmp_path / "run", False)):
        video = tmp_path / f"{compared}.mp4"
        (tmp_path / "run" / "svd.json").write_text(json.dumps(about))
        infer("--model_dir", folder, "--input_image", picture, "--output_video", video)
        found = json.loads(video.with_suffix(".json").read_text())
        assert bool(found["training_motion"]) == compared and found["motion_measure"] == MOTION_MEASURE
        assert ("are of an older measure" in capsys.readouterr().out) != compared


def test_frames_that_are_not_numbers_are_decoded_again_in_float32(pipeline_dir, picture, tmp_path, monkeypatch, capsys):
    decode, calls = StableVideoDiffusionPipeline.decode_latents, []

    def overflows_once(self, latents, *args):
        calls.append(self.vae.dtype)
        return decode(self, latents, *args) * (torch.nan if len(calls) == 1 else 1)

    monkeypatch.setattr(StableVideoDiffusionPipeline, "decode_latents", overflows_once)
    flags = ("--width", 64, "--height", 64, "--num_frames", 2, "--dtype", "bf16")
    infer(*("--model_dir", pipeline_dir, "--input_image", picture, "--output_video", tmp_path / "v.mp4"), *flags)
    assert calls == [torch.bfloat16, torch.float32] and "decoding again in float32" in capsys.readouterr().out


def test_too_small_cut_off_and_huge_pictures_are_refused(run_dir, picture, tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(UserError, match="dot.png has 1x1 pixels; give a picture of at least 64x64"):
        infer("--model_dir", run_dir, "--input_image", tmp_path / "dot.png", "--output_video", tmp_path / "a.mp4")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:-2000])
    with pytest.raises(UserError, match="cut.png cannot be read"):
        read_image(tmp_path / "cut.png", "--input_image")
    Image.new("1", (12000, 10000)).save(tmp_path / "huge.png")
    with pytest.raises(UserError, match="huge.png has 12000x10000 pixels"):
        read_image(tmp_path / "huge.png", "--input_image")
    assert not (tmp_path / "a.mp4").exists()


def test_offloading_layers_without_a_gpu_is_refused(pipeline_dir, picture, tmp_path):
    if torch.accelerator.is_available():
        pytest.skip("this machine has a GPU")
    flags = ("--model_dir", pipeline_dir, "--input_image", picture, "--output_dir", tmp_path / "out")
    with pytest.raises(UserError, match="--offload: sequential needs a GPU"):
        infer(*flags, "--offload", "sequential")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input_image", "/nowhere.png"], "--input_image: there is no /nowhere.png"),
        (["--max_guidance", "0.5"], "--max_guidance: got 0.5, must be at least --min_guidance 1"),
        (["--output_video", "a.gif"], "--output_video: got a.gif, must end in .mp4"),
        (["--motion", "quick"], "--motion: got quick, must be slow, median, fast"),
        (["--num_inference_steps", "0"], "--num_inference_steps: got 0"),
    ],
)
def test_bad_inference_flags_are_one_line_and_status_2(picture, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        infer_svd.parse_args(["--model_dir", "m", "--input_image", str(picture), *flags])
    assert stop.value.code == 2 and message in capsys.readouterr().err
