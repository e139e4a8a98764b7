"""Students that draw in few steps, from the command to the video."""

import json
import re
import shutil

import pytest
import torch

import distill_text2video
from tests.text2video.running import generate, losses, train
from tests.tiny_autoencoders import tiny_autoencoder
from utils.cli import UserError
from utils.runs.checkpoint import list_checkpoints, load_checkpoint


def distill(teacher, output_dir, *flags):
    argv = ["--teacher", teacher, "--output_dir", output_dir, "--no_wandb", "--log_every", 1, "--num_workers", 0]
    argv += ["--num_inference_steps", 2, "--teacher_steps", 8, *flags]
    distill_text2video.main(distill_text2video.parse_args([str(word) for word in argv]))


def sidecar(folder) -> dict:
    (path,) = [path for path in folder.glob("*.json") if "prompt" in json.loads(path.read_text())]
    return json.loads(path.read_text())


@pytest.mark.parametrize("method", ["consistency", "distribution"])
def test_a_student_is_drawn_with_its_own_steps_and_without_guidance(run_dir, tmp_path, method):
    distill(run_dir, tmp_path / "student", "--method", method, "--max_train_steps", 3, "--guidance_interval", 0.5, 1)
    assert len(losses(tmp_path / "student")) == 3
    generate("--checkpoint", tmp_path / "student", "--prompts", "a red circle", "--output_dir", tmp_path / "videos")
    drawn = sidecar(tmp_path / "videos")
    assert (drawn["sampler"], drawn["num_inference_steps"], drawn["guidance_scale"]) == ("ddim", 2, 1.0)
    stored = torch.load(tmp_path / "student" / "best_model.pth", weights_only=True)
    teacher = torch.load(run_dir / "best_model.pth", weights_only=True)
    assert stored["distilled"]["method"] == method and stored["distilled"]["guidance_interval"] == (0.5, 1.0)
    assert stored["distilled"]["guidance_scale"] == teacher["guidance_scale"]
    changed = [name for name, weight in stored["unet"].items() if not torch.equal(weight, teacher["unet"][name])]
    assert len(changed) > len(stored["unet"]) / 2
    encoder, of_teacher = (model["text_encoder"]["weights"] for model in (stored, teacher))
    assert all(torch.equal(encoder[name], of_teacher[name]) for name in encoder)


def test_other_samplers_and_steps_draw_it_when_they_are_asked_for(run_dir, tmp_path):
    distill(run_dir, tmp_path / "student", "--max_train_steps", 1)
    how = ["--checkpoint", tmp_path / "student", "--prompts", "a red circle"]
    for name, flags, expected in (
        ("steps", ["--num_inference_steps", 4], ("ddim", 4)),
        ("sampler", ["--sampler", "dpmpp"], ("dpmpp", 25)),
    ):
        generate(*how, *flags, "--output_dir", tmp_path / name)
        drawn = sidecar(tmp_path / name)
        assert (drawn["sampler"], drawn["num_inference_steps"]) == expected


@pytest.mark.parametrize("method", ["consistency", "distribution"])
def test_a_resumed_distillation_equals_an_uninterrupted_one(run_dir, tmp_path, method):
    flags = ["--method", method, "--max_train_steps", 4, "--checkpoint_every", 2, "--validate_every", 2]
    distill(run_dir, tmp_path / "whole", *flags)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(list_checkpoints(tmp_path / "parts")[0])
    distill(run_dir, tmp_path / "parts", *flags, "--resume", "latest")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    (whole, state), (parts, other) = (
        load_checkpoint(tmp_path / run / "checkpoint-00000004") for run in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() == {"student", "ema", "optimizer"} | ({"drawn"} if "dist" in method else set())
    for group in whole:
        for name in whole[group]:
            assert torch.equal(whole[group][name], parts[group][name]), (group, name)
    assert state == other


def test_data_and_size_are_the_teachers_unless_told_otherwise(run_dir, data):
    args = distill_text2video.parse_args(["--teacher", str(run_dir / "best_model.pth"), "--batch_size", "3"])
    of_teacher = json.loads((run_dir / "args.json").read_text())
    assert args.teacher == run_dir and (args.num_inference_steps, args.teacher_steps) == (4, 8)
    of_five = distill_text2video.parse_args(["--teacher", str(run_dir), "--num_inference_steps", "5"])
    assert of_five.teacher_steps == 10
    assert of_five.learning_rate == of_teacher["learning_rate"]
    matched = distill_text2video.parse_args(["--teacher", str(run_dir), "--method", "distribution"])
    assert matched.learning_rate == of_teacher["learning_rate"] / 4
    assert args.data_dir == data and args.batch_size == 3 != of_teacher["batch_size"]
    assert (args.num_frames, args.frame_size) == (of_teacher["num_frames"], of_teacher["frame_size"]) == (4, 16)


def test_a_student_of_latents_with_tasks_and_a_cache(data, tmp_path):
    tiny_autoencoder("PatchAutoencoder").save_pretrained(tmp_path / "vae")
    latents = ["--vae", str(tmp_path / "vae"), "--num_frames", "4", "--frame_size", "32", "--max_train_steps", "1"]
    train(data, tmp_path / "cached", *latents, "--latent_cache", str(tmp_path / "cache"), "--num_timesteps", "1000")
    distill(tmp_path / "cached", tmp_path / "student", "--max_train_steps", 2)
    generate("--checkpoint", tmp_path / "student", "--prompts", "a red circle", "--output_dir", tmp_path / "videos")
    tasks = ["--tasks", "text=1", "first_frame=1", "--num_timesteps", "1000"]
    train(data, tmp_path / "known", *latents, *tasks)
    distill(tmp_path / "known", tmp_path / "knows", "--max_train_steps", 2)
    assert torch.load(tmp_path / "knows" / "best_model.pth", weights_only=True)["conditions"]["known"]


def test_what_is_no_teacher_is_refused_in_one_line(run_dir, tmp_path, capsys):
    distill(run_dir, tmp_path / "student", "--max_train_steps", 1)
    with pytest.raises(UserError, match="is a student itself; give its teacher"):
        distill(tmp_path / "student", tmp_path / "again")
    with pytest.raises(UserError, match="num_inference_steps must divide 1000"):
        distill(run_dir, tmp_path / "again", "--num_inference_steps", 3, "--teacher_steps", 9)
    capsys.readouterr()
    for flags, said in (
        (["--teacher", str(tmp_path)], "--teacher: there is no .*best_model.pth; give a run folder"),
        (["--teacher", str(run_dir), "--teacher_steps", "9"], "--teacher_steps: got 9, must be a multiple of"),
        (["--teacher", str(run_dir), "--guidance_interval", "1", "0.5"], "--guidance_interval: got 1 0.5, must rise"),
    ):
        with pytest.raises(SystemExit) as error:
            distill_text2video.parse_args(flags)
        assert error.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(said, line)
