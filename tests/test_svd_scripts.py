"""prepare_dataset.py, train_svd.py and infer_svd.py end to end through their main, with a tiny random pipeline."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

import infer_svd
import prepare_dataset
import train_svd
from models.svd.memory import trainable_names
from tests.tiny_svd import tiny_svd_pipeline
from utils.cli import UserError
from utils.frame_folders.frame_clips import FrameClips, find_frame_folders
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import list_checkpoints, load_checkpoint
from utils.video.decode import probe_video, read_frames
from utils.video.images import read_image, what_is_lost
from video_dataset import write_demo_dataset

FRAMES = 4


@pytest.fixture(scope="session")
def pipeline_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("svd") / "tiny"
    tiny_svd_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_demo_dataset(folder / "clips", num_clips=6, num_frames=7, frame_size=64)
    argv = ["--video_dir", folder / "clips" / "videos", "--output_dir", folder / "dataset_root", "--num_workers", 0]
    prepare_dataset.main(prepare_dataset.parse_args([str(word) for word in argv]))
    return folder / "dataset_root"


def train(pipeline_dir, dataset, output_dir, *flags):
    argv = ["--pretrained_model_name", pipeline_dir, "--dataset_dir", dataset, "--output_dir", output_dir]
    argv += ["--num_frames", FRAMES, "--width", 64, "--height", 64, "--mixed_precision", "no", "--no_wandb"]
    argv += ["--num_inference_steps", 2, "--num_workers", 0, "--learning_rate", "1e-3", "--log_every", 1]
    argv += ["--num_validation_clips", 1, "--sample_every", 100]
    train_svd.main(train_svd.parse_args([str(word) for word in (*argv, *flags)]))


@pytest.fixture(scope="session")
def run_dir(pipeline_dir, dataset, tmp_path_factory):
    """A finished run of four steps without a moving average."""
    run_dir = tmp_path_factory.mktemp("run") / "outputs"
    train(pipeline_dir, dataset, run_dir, "--max_train_steps", 4, "--ema_decay", 0, "--checkpoint_every", 2)
    return run_dir


def infer(*flags):
    argv = (*flags, "--num_inference_steps", 2)
    infer_svd.main(infer_svd.parse_args([str(word) for word in argv]))


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def losses(run_dir):
    return [row["train/loss"] for row in read_metrics(run_dir / "metrics.jsonl") if "train/loss" in row]


# Training


def test_a_run_leaves_a_pipeline_that_diffusers_loads(run_dir, pipeline_dir):
    pipeline = StableVideoDiffusionPipeline.from_pretrained(run_dir)
    assert json.loads((run_dir / "model_index.json").read_text())["_class_name"] == "StableVideoDiffusionPipeline"
    assert {"args.json", "metrics.jsonl", "loss.png", "README.md", "svd.json"} <= {p.name for p in run_dir.iterdir()}
    assert list((run_dir / "samples").rglob("*.mp4")) and len(list_checkpoints(run_dir)) == 2
    assert len(losses(run_dir)) == 4
    assert [path.name for path in run_dir.iterdir() if path.name.startswith(".")] == [".lock"]
    assert pipeline.unet.dtype == torch.float32


def test_only_layers_over_time_change_and_everything_else_stays_bit_identical(run_dir, pipeline_dir):
    before = StableVideoDiffusionPipeline.from_pretrained(pipeline_dir)
    after = StableVideoDiffusionPipeline.from_pretrained(run_dir)
    trained = set(trainable_names(before.unet, "temporal"))
    old, new = before.unet.state_dict(), after.unet.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == trained
    for part in ("vae", "image_encoder"):
        a, b = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_exported_network_is_the_trained_one(run_dir):
    tensors, state = load_checkpoint(list_checkpoints(run_dir)[0])
    assert state["step"] == 4
    exported = StableVideoDiffusionPipeline.from_pretrained(run_dir).unet.state_dict()
    assert all(torch.equal(exported[name], value) for name, value in tensors["trained"].items())


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 1), (2, 2)])
def test_resumed_training_equals_uninterrupted_training(pipeline_dir, dataset, tmp_path, workers, accumulation):
    flags = ["--num_workers", workers, "--gradient_accumulation_steps", accumulation, "--checkpoint_every", 2]
    flags += ["--lr_scheduler", "constant", "--validate_every", 3]
    train(pipeline_dir, dataset, tmp_path / "whole", *flags, "--max_train_steps", 5)
    train(pipeline_dir, dataset, tmp_path / "parts", *flags, "--max_train_steps", 3)
    train(pipeline_dir, dataset, tmp_path / "parts", *flags, "--max_train_steps", 5, "--resume", "latest")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    whole, parts = (load_checkpoint(list_checkpoints(tmp_path / name)[0])[0] for name in ("whole", "parts"))
    for group in ("trained", "ema", "optimizer"):
        assert whole[group].keys() == parts[group].keys()
        assert all(torch.equal(whole[group][name], parts[group][name]) for name in whole[group])


def test_cached_latents_train_as_frames_encoded_in_every_step_do(pipeline_dir, dataset, run_dir, tmp_path):
    train(pipeline_dir, dataset, tmp_path / "online", "--max_train_steps", 4, "--ema_decay", 0, "--no_cache")
    np.testing.assert_allclose(losses(tmp_path / "online"), losses(run_dir), rtol=1e-4)


def test_the_cache_is_made_anew_for_other_frames_and_only_then(pipeline_dir, dataset, run_dir, tmp_path):
    files = {path.name: path.stat().st_mtime_ns for path in (dataset / ".latents").glob("*.safetensors")}
    assert len(files) == 6
    train(pipeline_dir, dataset, tmp_path / "a", "--max_train_steps", 1)
    assert {path.name: path.stat().st_mtime_ns for path in (dataset / ".latents").iterdir()} == files
    train(pipeline_dir, dataset, tmp_path / "b", "--max_train_steps", 1, "--resize_mode", "pad", "--max_samples", 2)
    assert len(list((dataset / ".latents").iterdir())) == 8


def test_adapters_alone_merged_and_added_later_are_the_same_network(pipeline_dir, dataset, picture, tmp_path):
    lora = ("--trainable", "lora", "--lora_rank", 4, "--max_train_steps", 3, "--learning_rate", "1e-2")
    train(pipeline_dir, dataset, tmp_path / "run", *lora)
    base, merged = (StableVideoDiffusionPipeline.from_pretrained(p).unet for p in (pipeline_dir, tmp_path / "run"))
    changed = [n for n, p in merged.state_dict().items() if not torch.equal(p, base.state_dict()[n])]
    assert changed and all("temporal_transformer_blocks" in name for name in changed)
    infer("--model_dir", tmp_path / "run", "--input_image", picture, "--output_video", tmp_path / "a.mp4")
    infer(
        *("--model_dir", pipeline_dir, "--lora", tmp_path / "run"),
        *("--input_image", picture, "--output_video", tmp_path / "b.mp4"),
    )
    a, b = (read_frames(probe_video(tmp_path / name), range(FRAMES)).astype(int) for name in ("a.mp4", "b.mp4"))
    assert np.abs(a - b).mean() < 0.5


def test_trained_weights_alone_find_their_base_again(pipeline_dir, dataset, picture, tmp_path):
    train(pipeline_dir, dataset, tmp_path / "run", "--max_train_steps", 1, "--save_trainable_only")
    assert not (tmp_path / "run" / "unet").exists()
    video = tmp_path / "video.mp4"
    infer("--model_dir", tmp_path / "run", "--input_image", picture, "--output_video", video)
    assert probe_video(video).frames == FRAMES


def test_validation_scores_fixed_noise_levels_before_and_after(run_dir):
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if "val/loss" in row]
    assert [row["step"] for row in rows] == [0, 4]
    names = {f"val/sigma_{sigma:g}" for sigma in train_svd.VALIDATION_SIGMAS}
    assert all(names <= row.keys() for row in rows)
    assert rows[1]["val/loss"] < rows[0]["val/loss"]


def test_dry_run_counts_the_full_model_without_weights_or_data(capsys):
    train_svd.main(train_svd.parse_args(["--dry_run", "--ema_decay", "0", "--optimizer", "adamw"]))
    report = capsys.readouterr().out
    assert "temporal" in report and "24 GB" in report and "predicted" in report
    trained, frozen = (int(word.replace(",", "")) for word in report.splitlines()[1].split() if word[0].isdigit())
    assert trained + frozen == 1_524_623_082 and 620e6 < trained < 656_076_838


# Data


def test_every_window_can_be_drawn_and_holds_consecutive_frames(dataset):
    clips, skipped = find_frame_folders(dataset, FRAMES, 1, 7.0, "quantile")
    assert len(clips) == 6 and not skipped
    assert clips[0].fps == 8 and all(clip.motion_score > 0.01 for clip in clips)
    samples = FrameClips(clips, FRAMES, 64, 64)
    frames = torch.stack([samples.__getitem__((0, 0))["frames"]])
    assert frames.shape == (1, FRAMES, 3, 64, 64) and frames.abs().max() <= 1
    whole = FrameClips(clips, 7, 64, 64)[0]["frames"]
    starts = set()
    for epoch in range(60):
        drawn = samples[(epoch, 0)]["frames"]
        matches = [s for s in range(4) if torch.equal(drawn, whole[s : s + FRAMES])]
        assert len(matches) == 1
        starts |= set(matches)
    assert starts == {0, 1, 2, 3}


def test_a_stride_halves_the_frame_rate_the_network_is_told(dataset):
    clips, _ = find_frame_folders(dataset, FRAMES, 2, 7.0, "quantile")
    item = FrameClips(clips, FRAMES, 64, 64, frame_stride=2)[0]
    whole = FrameClips(clips, 7, 64, 64)[0]["frames"]
    assert item["fps"] == 4 and torch.equal(item["frames"], whole[::2])


def test_motion_buckets_are_the_manifests_unless_a_flag_says_otherwise(dataset):
    rows = [json.loads(line) for line in (dataset / "manifest.jsonl").read_text().splitlines()]
    expected = {row["folder"]: row["motion_bucket_id"] for row in rows}
    clips, _ = find_frame_folders(dataset, FRAMES, 1, 7.0, None)
    assert {clip.folder.name: clip.motion_bucket_id for clip in clips} == expected and len(set(expected.values())) > 3
    clips, _ = find_frame_folders(dataset, FRAMES, 1, 7.0, "const")
    assert {clip.motion_bucket_id for clip in clips} == {127}


def test_folders_without_a_manifest_train_and_frames_are_in_natural_order(tmp_path):
    for name in ("b10", "b2"):
        (tmp_path / name).mkdir()
        for n in (1, 2, 10):
            image = np.full((64, 64, 3), 20 * n if name == "b2" else 100, np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"frame{n}.png")
    (tmp_path / "b2" / ".DS_Store").write_bytes(b"x")
    clips, _ = find_frame_folders(tmp_path, 3, 1, 7.0, "quantile")
    assert [clip.folder.name for clip in clips] == ["b2", "b10"]
    assert clips[0].files == ("frame1.png", "frame2.png", "frame10.png") and clips[0].fps == 7


def test_short_clips_are_named_and_none_left_is_an_error(dataset):
    with pytest.raises(UserError, match=r"--dataset_dir: .*fewer than 9 frames.*video_0001 \(7\)"):
        find_frame_folders(dataset, 9, 1, 7.0, "quantile")


# Bad input


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--width", "500"], "--width: got 500, must be a multiple of 64"),
        (["--random_crop"], "--random_crop: needs --no_cache"),
        (["--trainable", "spatial"], "--trainable: got spatial, must be one of"),
        (["--dataset_dir", "/nowhere"], "--dataset_dir: there is no folder /nowhere; prepare_dataset.py"),
        (["--learning_rate", "nan"], "--learning_rate: got nan"),
    ],
)
def test_bad_training_flags_are_one_line_and_status_2(dataset, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        train_svd.parse_args(["--dataset_dir", str(dataset), *flags])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_model_that_no_hub_gives_fails_in_seconds_with_the_ways_out(dataset, tmp_path):
    flags = ["--dataset_dir", str(dataset), "--output_dir", str(tmp_path / "run"), "--num_frames", str(FRAMES)]
    with pytest.raises(UserError, match=r"--pretrained_model_name: stabilityai.*HF_ENDPOINT"):
        train_svd.main(train_svd.parse_args([*flags, "--mixed_precision", "no"]))


def test_a_folder_that_lacks_a_part_says_which(pipeline_dir, tmp_path):
    import shutil

    from utils.runs.svd_files import load_pipeline

    shutil.copytree(pipeline_dir, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "image_encoder")
    with pytest.raises(UserError, match=r"--model_dir: .* lacks image_encoder"):
        load_pipeline(str(tmp_path / "half"), flag="--model_dir")


# Inference


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


def test_frames_that_are_not_numbers_are_decoded_again_in_float32(pipeline_dir, picture, tmp_path, monkeypatch, capsys):
    decode, calls = StableVideoDiffusionPipeline.decode_latents, []

    def overflows_once(self, latents, *args):
        calls.append(self.vae.dtype)
        return decode(self, latents, *args) * (torch.nan if len(calls) == 1 else 1)

    monkeypatch.setattr(StableVideoDiffusionPipeline, "decode_latents", overflows_once)
    flags = ("--width", 64, "--height", 64, "--num_frames", 2, "--dtype", "bf16")
    infer(*("--model_dir", pipeline_dir, "--input_image", picture, "--output_video", tmp_path / "v.mp4"), *flags)
    assert calls == [torch.bfloat16, torch.float32] and "decoding again in float32" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["RGBA", "LA", "L", "P", "CMYK", "1", "I;16", "I", "F"])
def test_any_picture_keeps_its_brightness(mode, tmp_path):
    grey = np.full((40, 60), 128, np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "F", "I") else "x.png")
    image.save(path)
    found = read_image(path, "--input_image")
    assert found.shape == (40, 60, 3) and found.dtype == np.uint8
    assert abs(found.mean() - 128) < (3 if mode != "1" else 4), found.mean()


def test_transparent_pixels_become_white_and_exif_turns_the_picture(tmp_path):
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[:, 4:] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    found = read_image(tmp_path / "alpha.png", "--input_image")
    assert (found[:, :4] == 255).all() and (found[:, 4:] == (255, 0, 0)).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg", "--input_image").shape == (8, 4, 3)


def test_what_a_picture_loses_is_said(tmp_path):
    frames = [Image.new("RGB", (640, 100), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (100, 100)).save(tmp_path / "b.png")
    Image.new("RGB", (160, 100)).save(tmp_path / "c.jpg")
    gif = what_is_lost(tmp_path / "a.gif", 512, 320, "crop")
    assert "first of its 2 pictures" in gif[0] and "two thirds" in gif[1]
    assert what_is_lost(tmp_path / "b.png", 512, 320, "crop") == ["what is transparent becomes white"]
    assert what_is_lost(tmp_path / "c.jpg", 512, 320, "crop") == []


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


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 30])
def test_a_file_that_is_no_picture_is_one_line(content, tmp_path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"--input_image: .*x.png cannot be read"):
        read_image(tmp_path / "x.png", "--input_image")


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
