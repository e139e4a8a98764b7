"""Adapters around an image model: the motion network and its MotionAdapter, low-rank adapters; both leave for plain
diffusers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

import distill_text2video
from models.adapters.low_rank import add_low_rank, merged
from models.adapters.motion_unet import MotionUNet
from tests.latents.test_image_model import (
    FLAGS,
    NEGATIVE,
    PROMPT,
    arguments,
    noise,
    pictures,
    trained,
    untrained,
    video,
)
from tests.text2video.running import generate, losses, train
from tests.tiny_models import TINY_SD_UNET, tiny_stable_diffusion
from utils.cli import UserError
from utils.runs.checkpoint import load_checkpoint
from utils.runs.model_file import load_model
from utils.runs.run_folder import list_checkpoints

ZERO_AT_START = {"unet3d": "temporal_conv.weight", "motion": "motion_modules.0.proj_out.weight"}
MOTION = ("--network", "motion", "--trainable", "temporal")


@pytest.fixture(scope="module")
def motion_run(pipelines, data, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("motion") / "run"
    train(data, run_dir, "--init_from_2d", str(pipelines["v1"]), *MOTION, *FLAGS, preset="base")
    return run_dir


def animatediff(
    folder: Path, adapter: Path, lora: Path | None = None, steps: int = 8, guidance_scale: float = 6.0, **scheduler
) -> torch.Tensor:
    """Frames (3, T, H, W) in [-1, 1] of diffusers' own pipeline, from the noise that `video` draws from. scheduler:
    settings of DDIM that are not the pipeline's."""
    modules = MotionAdapter.from_pretrained(adapter)
    parts = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).components
    parts = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    parts["scheduler"] = DDIMScheduler.from_config(parts["scheduler"].config, clip_sample=False, **scheduler)
    pipeline = AnimateDiffPipeline(**parts, motion_adapter=modules)
    pipeline.set_progress_bar_config(disable=True)
    if lora is not None:
        pipeline.load_lora_weights(lora)
    frames = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        latents=noise(3)[None],
        num_frames=3,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        height=64,
        width=64,
        output_type="pt",
    ).frames[0]
    return (frames * 2 - 1).transpose(0, 1)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_new_motion_modules_change_no_picture(pipelines, data, kind):
    found = video(untrained(pipelines[kind], data, *MOTION), "ddim", 3, 6.0)
    expected = pictures(pipelines[kind], "ddim", noise(3), 6.0).clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_what_is_trained_is_drawn_alike_by_animatediff(motion_run, pipelines):
    found = video(trained(motion_run), "ddim", 3, 6.0)
    expected = animatediff(pipelines["v1"], motion_run / "motion_adapter")
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=1e-4)
    assert (found - pictures(pipelines["v1"], "ddim", noise(3), 6.0).clamp(-1, 1)).abs().max() > 0.01  # it has learnt
    image = UNet2DConditionModel.from_pretrained(pipelines["v1"] / "unet").state_dict()
    model = load_model(motion_run)["unet"]
    assert all(torch.equal(model[name], value) for name, value in image.items())


def test_a_published_adapter_is_where_training_starts(motion_run, pipelines, data):
    adapter = str(motion_run / "motion_adapter")
    found = video(untrained(pipelines["v1"], data, *MOTION, "--motion_adapter", adapter), "ddim", 3, 6.0)
    expected = animatediff(pipelines["v1"], Path(adapter)).clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("network", ["unet3d", "motion"])
def test_lora_learns_beside_the_image_model(network, pipelines, data, tmp_path):
    run = ("--init_from_2d", str(pipelines["v1"]), "--network", network, "--trainable", "lora", "--lora_rank", "2")
    train(data, tmp_path / "run", *run, *FLAGS, preset="base")
    assert len(losses(tmp_path / "run")) == 3
    image = UNet2DConditionModel.from_pretrained(pipelines["v1"] / "unet").state_dict()
    model = load_model(tmp_path / "run")["unet"]
    changed = {name for name, value in image.items() if not torch.equal(model[name].reshape(value.shape), value)}
    weights = tuple(f".attn{n}.to_{part}.weight" for n in (1, 2) for part in ("q", "k", "v", "out.0"))
    assert changed == {name for name in image if name.endswith(weights)}
    over_time = [name for name in model if name.endswith(ZERO_AT_START[network])]
    assert over_time and all(model[name].any() for name in over_time)  # they learn too
    found = video(trained(tmp_path / "run"), "ddim", 3, 6.0)
    if network == "motion":
        theirs = animatediff(pipelines["v1"], tmp_path / "run/motion_adapter", tmp_path / "run/lora").clamp(-1, 1)
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)
    else:  # of one frame layers over time have no part: the image model with the adapters
        pipeline = StableDiffusionPipeline.from_pretrained(pipelines["v1"], safety_checker=None)
        pipeline.load_lora_weights(tmp_path / "run/lora")
        pipeline.fuse_lora()
        pipeline.unload_lora_weights()
        for name, value in pipeline.unet.state_dict().items():
            torch.testing.assert_close(model[name].reshape(value.shape), value, rtol=0, atol=1e-6)


def test_a_student_leaves_as_adapters_that_animatediff_draws_alike(motion_run, pipelines, tmp_path):
    argv = ["--teacher", motion_run, "--output_dir", tmp_path / "student", "--no_wandb", "--num_workers", 0]
    argv += ["--trainable", "lora", "--lora_rank", 2, "--max_train_steps", 3, "--learning_rate", 0.01, "--log_every", 1]
    distill_text2video.main(distill_text2video.parse_args([str(word) for word in argv]))
    assert len(losses(tmp_path / "student")) == 3
    model, teacher = (load_model(run)["unet"] for run in (tmp_path / "student", motion_run))
    changed = {name for name in teacher if not torch.equal(model[name], teacher[name])}
    low_rank = load_file(tmp_path / "student/lora/pytorch_lora_weights.safetensors")
    adapted = {name.removeprefix("unet.").removesuffix(".lora_A.weight") for name in low_rank if "lora_A" in name}
    assert changed == {f"{name}.weight" for name in adapted}
    for kind in ("motion_modules", ".attentions.", "ff.net.2", "time_emb_proj"):
        assert any(kind in name for name in adapted), kind
    found = video(trained(tmp_path / "student"), "ddim", 3, 1.0, steps=4)
    how = {"timestep_spacing": "trailing", "steps_offset": 0, "set_alpha_to_one": True}
    theirs = animatediff(
        pipelines["v1"], motion_run / "motion_adapter", tmp_path / "student/lora", steps=4, guidance_scale=1.0, **how
    )
    torch.testing.assert_close(found, theirs.clamp(-1, 1), rtol=0, atol=1e-4)


def test_a_resumed_lora_ends_as_one_that_was_not_stopped(pipelines, data, tmp_path):
    run = ["--init_from_2d", str(pipelines["v1"]), "--trainable", "lora", *FLAGS, "--checkpoint_every", "2"]
    run[run.index("--max_train_steps") + 1] = "4"
    train(data, tmp_path / "whole", *run, preset="base")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(list_checkpoints(tmp_path / "parts")[0])  # as if it had been stopped after step 2
    train(data, tmp_path / "parts", *run, "--resume", "latest", preset="base")
    whole, parts = (load_checkpoint(list_checkpoints(tmp_path / name)[0])[0] for name in ("whole", "parts"))
    assert any(".lora_" in name for name in whole["unet"])
    for name, value in whole["unet"].items():
        assert torch.equal(parts["unet"][name], value), name


@pytest.mark.parametrize("part", ["motion_adapter", "unet", "vae", "text_encoder"])
def test_files_that_lack_a_weight_are_refused(part, motion_run, pipelines, data, tmp_path):
    folder = shutil.copytree(pipelines["v1"], tmp_path / "sd")
    shutil.copytree(motion_run / "motion_adapter", folder / "motion_adapter")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    left_out = max(name for name in weights if name.endswith(".weight"))
    save_file({name: each for name, each in weights.items() if name != left_out}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"{left_out}"):
        untrained(folder, data, *MOTION, "--motion_adapter", str(folder / "motion_adapter"))


def test_an_adapter_without_a_middle_goes_on_without_one(pipelines, data, tmp_path):
    config = {"block_out_channels": (16, 32), "motion_layers_per_block": 1, "motion_norm_num_groups": 8}
    first = {"use_motion_mid_block": False, "motion_max_seq_length": 24}  # as AnimateDiff's first have it
    MotionAdapter(**config, **first).save_pretrained(tmp_path / "first")
    run = ("--init_from_2d", str(pipelines["v1"]), *MOTION, "--motion_adapter", str(tmp_path / "first"))
    train(data, tmp_path / "run", *run, *FLAGS, preset="base")
    found = video(trained(tmp_path / "run"), "ddim", 3, 6.0)
    expected = animatediff(pipelines["v1"], tmp_path / "run/motion_adapter").clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_merging_adds_what_the_adapters_do():
    torch.manual_seed(0)
    model = MotionUNet.from_image_model(UNet2DConditionModel(**TINY_SD_UNET))
    plain = MotionUNet.from_config(model.config)
    model.requires_grad_(False)
    add_low_rank(model, 3)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning and all(".lora_" in name and ".attentions." in name for name in learning)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.autocast("cpu", torch.bfloat16):  # as a training saves it
        plain.load_state_dict(merged(model.state_dict()))
    inputs = torch.randn(2, 4, 3, 8, 8), torch.tensor([1, 700]), torch.randn(2, 5, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(*inputs), model.eval()(*inputs), rtol=0, atol=1e-5)


def test_what_does_not_fit_is_refused(motion_run, pipelines, data, tmp_path, capsys):
    adapter = str(motion_run / "motion_adapter")
    with pytest.raises(UserError, match="--num_frames: got 40, the motion adapter takes at most 32"):
        untrained(pipelines["v1"], data, *MOTION, "--motion_adapter", adapter, "--num_frames", "40")
    with pytest.raises(UserError, match="--num_frames: got 40, this model takes at most 32"):
        generate(
            "--checkpoint", motion_run, "--prompts", PROMPT, "--output_dir", tmp_path / "out", "--num_frames", "40"
        )
    windows = ("--num_frames", "40", "--window_frames", "32", "--num_inference_steps", "1")
    generate("--checkpoint", motion_run, "--prompts", PROMPT, "--output_dir", tmp_path / "windows", *windows)
    config = json.loads((motion_run / "motion_adapter/config.json").read_text())
    pia = shutil.copytree(motion_run / "motion_adapter", tmp_path / "pia")
    MotionAdapter.from_config(config | {"conv_in_channels": 9}).save_pretrained(pia)
    with pytest.raises(UserError, match="--motion_adapter: .*a first layer of its own"):
        untrained(pipelines["v1"], data, *MOTION, "--motion_adapter", str(pia))
    other = tiny_stable_diffusion(tmp_path / "other", unet={"block_out_channels": (16, 16)})
    with pytest.raises(UserError, match="--motion_adapter: .* do not fit"):
        untrained(other, data, *MOTION, "--motion_adapter", adapter)
    with pytest.raises(UserError, match="--motion_adapter: .*MotionAdapter"):
        untrained(pipelines["v1"], data, *MOTION, "--motion_adapter", str(tmp_path))
    for flags, line in (
        (("--motion_adapter", adapter), "--motion_adapter: is for --network motion"),
        (("--network", "motion", "--init_from_2d", str(pipelines["v1"] / "unet")), "--network motion: is built around"),
    ):
        with pytest.raises(SystemExit):
            arguments(pipelines["v1"], data, *flags)
        assert line in capsys.readouterr().err
