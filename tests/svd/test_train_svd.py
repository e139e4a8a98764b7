"""prepare_dataset.py and train_svd.py end to end through their main, with a tiny random pipeline."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from safetensors.torch import load_file, save_file

import train_svd
from models.svd.memory import trainable_names
from tests.svd.running import FRAMES, infer, losses, train
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.logs.metrics import read_metrics
from utils.runs.checkpoint import list_checkpoints, load_checkpoint


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


def test_resumed_training_equals_uninterrupted_training(pipeline_dir, dataset, tmp_path):
    """Bit for bit. With workers and accumulated gradients, and stopped by signals: tests/reliability/."""
    flags = ["--checkpoint_every", 2, "--lr_scheduler", "constant", "--validate_every", 3]
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


def test_dry_run_counts_the_full_model_without_weights_or_data(capsys, monkeypatch):
    # What activations take is counted in tests/models/svd/test_memory.py; six such counts are half a minute.
    def counted(*_, checkpointing, **__):
        return {"level 0": 2**30 * (1 + 40 * (checkpointing == "none"))}

    monkeypatch.setattr("utils.svd.memory_report.activation_bytes", counted)
    train_svd.main(train_svd.parse_args(["--dry_run", "--ema_decay", "0", "--optimizer", "adamw"]))
    report = capsys.readouterr().out
    assert "temporal" in report and "24 GB" in report and "predicted" in report
    trained, frozen = (int(word.replace(",", "")) for word in report.splitlines()[1].split() if word[0].isdigit())
    assert trained + frozen == 1_524_623_082 and 620e6 < trained < 656_076_838
    fits = {line[:45].strip(): line.split()[-5:] for line in report.splitlines() if " GiB" in line and "checkp" in line}
    assert fits["temporal, adamw, checkpointing full"] == ["no", "no", "yes", "yes", "yes"]
    assert fits["temporal, adamw, checkpointing none"] == ["no", "no", "no", "no", "yes"]


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
    from utils.svd.pipeline import load_pipeline

    shutil.copytree(pipeline_dir, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "image_encoder")
    with pytest.raises(UserError, match=r"--model_dir: .* lacks image_encoder"):
        load_pipeline(str(tmp_path / "half"), flag="--model_dir")


@pytest.mark.parametrize("part", ["unet", "vae", "image_encoder"])
def test_files_that_lack_a_weight_are_refused(part, pipeline_dir, tmp_path):
    from utils.svd.pipeline import load_pipeline

    folder = shutil.copytree(pipeline_dir, tmp_path / "svd")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    left_out = max(name for name in weights if name.endswith(".weight"))
    save_file({name: each for name, each in weights.items() if name != left_out}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"--model_dir: .*{left_out}"):
        load_pipeline(str(folder), flag="--model_dir")
