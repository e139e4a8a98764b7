"""The benchmarks of Stable Video Diffusion: what they count, what they time, and that what they save is exact."""

import json
import re

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

import infer_svd
from benchmarks import measure
from benchmarks.robots.episodes import episodes
from benchmarks.svd import counts, from_nothing, networks, recipes, times
from benchmarks.svd import infer as infer_benchmark
from benchmarks.svd import step as step_benchmark
from benchmarks.svd.networks import full_networks, tiny_networks
from benchmarks.svd.recipes import OURS, PEER, Clip
from benchmarks.svd.times import TrainingStep
from models.svd.ledger import IMG2VID_XT, activation_bytes, scope_counts
from models.svd.memory import OneTokenAttention, use_one_token_attention
from tests.benchmarks.test_robots import recorded
from tests.tiny_svd import TINY_UNET, tiny_svd_pipeline

pytestmark = pytest.mark.benchmarks

CLIP = Clip(64, 64, 4)
TINY = ["--tiny", "--clips", "64x64x4", "--tiny_clip", "64x64x4", "--repeats", "2"]


def gradients(recipe):
    """(loss, {name: gradient}) of the first step of the tiny model in float32."""
    step = TrainingStep(recipe, tiny_svd_pipeline(), CLIP, bf16=False)
    torch.manual_seed(0)
    loss = step.gradients(*step.inputs())
    return loss, {name: parameter.grad for name, parameter in zip(step.names, step.parameters, strict=True)}


# What a step costs


@pytest.mark.parametrize(
    "recipe",
    [
        PEER,
        OURS._replace(cache=False),
        OURS._replace(checkpointing="diffusers"),
        OURS._replace(checkpointing="none"),
        OURS._replace(one_token=False),
    ],
)
def test_nothing_that_a_step_saves_changes_its_loss_or_its_gradients(recipe):
    (loss, found), (expected_loss, expected) = gradients(recipe), gradients(OURS)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    assert found.keys() == expected.keys() and all(gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_timed_step_updates_what_learns_and_its_average_and_nothing_else():
    step = TrainingStep(OURS, tiny_svd_pipeline(), CLIP, bf16=True)
    before = {name: parameter.detach().clone() for name, parameter in step.unet.named_parameters()}
    losses = [step(), step()]
    changed = [name for name, parameter in step.unet.named_parameters() if not parameter.equal(before[name])]
    assert changed == step.names and losses[0] != losses[1]
    assert all(parameter.grad is None for parameter in step.parameters)
    assert step.ema.optimization_step == 2 and len(step.ema.shadow_params) == len(step.names)
    frozen = {parameter.dtype for name, parameter in step.unet.named_parameters() if name not in step.names}
    assert frozen == {torch.bfloat16}


def test_operations_of_img2vid_xt_are_the_known_ones():
    """TFLOP at 512x320 with 25 frames. Checkpointing repeats most of the forward pass, in the backward one."""
    clip = Clip(512, 320, 25)
    flops = counts.flops_of_unet(OURS._replace(one_token=False), clip, IMG2VID_XT)
    assert sum(flops["forward"].values()) / 1e12 == pytest.approx(19.104, abs=0.001)
    assert flops["forward"]["convolution"] / 1e12 == pytest.approx(7.856, abs=0.001)
    assert flops["forward"]["attention"] / 1e12 == pytest.approx(1.216, abs=0.001)
    assert sum(flops["backward"].values()) / 1e12 == pytest.approx(43.655, abs=0.001)
    one_frame = counts.flops_of_encoder(full_networks(), clip)
    assert {name: value / 1e12 for name, value in one_frame.items()} == pytest.approx(
        {"VAE": 0.6899, "CLIP": 0.3346}, abs=1e-4
    )


def test_operations_follow_from_what_a_step_recomputes_skips_and_encodes(monkeypatch):
    def total(**changes):
        return recipes.sum_of(counts.flops_of_unet(OURS._replace(**changes), CLIP, TINY_UNET))

    assert total(checkpointing="none") < total(checkpointing="diffusers") < total() < total(scope="all")
    monkeypatch.setattr(counts, "flops_of_unet", lambda *_: {})
    monkeypatch.setattr(counts, "bytes_of", lambda *_: {})
    ours, online = (counts.count(OURS._replace(cache=cache), CLIP, tiny_networks())["tflop"] for cache in (1, 0))
    assert online["VAE"] == pytest.approx((CLIP.num_frames + 1) * ours["VAE"], rel=0.01)
    assert ours["CLIP"] == 0 < online["CLIP"]


def test_bytes_follow_from_what_a_step_keeps():
    unet = tiny_svd_pipeline().unet
    trained, frozen = scope_counts(unet, "temporal")
    ours, peer = (counts.bytes_of(recipe, CLIP, tiny_networks()) for recipe in (OURS, PEER))
    assert (ours["frozen weights"], peer["frozen weights"]) == (2 * frozen, 4 * frozen)
    assert (ours["ema"], peer["ema"]) == (4 * trained, 4 * (trained + frozen))
    assert (
        ours["optimizer"]
        == 4 * counts.bytes_of(OURS._replace(optimizer="adamw8bit"), CLIP, tiny_networks())["optimizer"]
    )
    assert ours["activations"] < peer["activations"] and "CLIP" not in ours and peer["CLIP"] > 0


def test_autocast_copies_of_frozen_float32_weights_are_kept_for_the_backward_pass():
    clip = {"num_frames": 4, "height": 64, "width": 64, "config": TINY_UNET, "checkpointing": "none"}
    half, whole = (sum(activation_bytes(**clip, frozen_dtype=d).values()) for d in (torch.bfloat16, torch.float32))
    _, frozen = scope_counts(tiny_svd_pipeline().unet, "temporal")
    assert 0.5 * 2 * frozen < whole - half <= 2 * frozen


def test_goals_are_judged_by_what_was_measured_and_by_nothing_else():
    def variant(tflop, gib):
        return {"tflop": {"VAE": 0, "CLIP": 0, "forward": {"linear": tflop}, "backward": {}}, "gib": {"all": gib}}

    counted = {"512x320x25": {"ours": variant(40, 21), "peer": variant(100, 50)}}
    verdicts = {goal["goal"]: goal["met"] for goal in step_benchmark.goals(counted, {})}
    assert list(verdicts.values()) == [True, None, True, None, None]
    timed = {"seconds": 2.0, "peak_gib": 23.0, "unet_seconds": 1.0}
    timed = {"512x320x25": {"ours": timed, "peer": {"failed": "no memory"}}}
    times.add_utilisation(timed["512x320x25"], counted["512x320x25"], peak=80e12)
    assert timed["512x320x25"]["ours"]["utilisation"] == 0.5
    verdicts = {goal["goal"]: goal["met"] for goal in step_benchmark.goals(counted, timed)}
    assert list(verdicts.values()) == [True, None, True, False, True]
    timed["512x320x25"]["peer"] = {"seconds": 3.0}
    assert (
        step_benchmark.goals(counted, timed)[1]["value"] == 0.667
        and step_benchmark.goals(counted, timed)[1]["met"] is False
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    return tmp_path


def test_the_step_benchmark_leaves_counts_times_and_a_picture(results, monkeypatch, capsys):
    for module in (step_benchmark, times):
        only(monkeypatch, module, "VARIANTS", "ours", "peer", "8-bit AdamW")
    step_benchmark.main(step_benchmark.parse_args(TINY))
    stored = json.loads((results / "svd_step.json").read_text())
    assert stored["counted"]["64x64x4"].keys() == step_benchmark.VARIANTS.keys()
    timed = stored["timed"]["clips"]["64x64x4"]
    assert timed.keys() == {"ours", "peer"}
    assert timed["ours"]["ratio"] == 1 and all(each["seconds"] > 0 for each in timed.values())
    assert not any(goal["met"] for goal in stored["goals"] if "counted" not in goal["goal"])
    assert (results / "svd_step.png").stat().st_size > 5000
    assert "not measured, needs a GPU" in capsys.readouterr().out


def only(monkeypatch, module, table, *names):
    """Of a table of variants these alone."""
    monkeypatch.setattr(module, table, {name: getattr(module, table)[name] for name in names})


@pytest.fixture
def pretended_gpu(monkeypatch):
    """The paths of a GPU, on the CPU and with the tiny model; memory is out for those who compile."""
    make_pipeline = networks.make_pipeline
    for module in (times, networks):  # the other benchmark takes them from there
        monkeypatch.setattr(module, "full_networks", tiny_networks)
        monkeypatch.setattr(module, "make_pipeline", lambda found, device: make_pipeline(found, "cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "pretended")
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**30)

    def no_memory(self):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(torch.nn.Module, "compile", no_memory)
    step = times.TrainingStep
    monkeypatch.setattr(times, "TrainingStep", lambda *args, bf16: step(*args, bf16=False))


def test_a_variant_that_fails_is_recorded_and_the_others_are_timed(pretended_gpu, results, monkeypatch):
    only(monkeypatch, times, "VARIANTS", "ours", "8-bit AdamW")
    only(monkeypatch, times, "TIMED_ONLY", "compiled", "TF32 everywhere")
    measured, seen, before = times.measure, [], switches()
    monkeypatch.setattr(times, "measure", lambda *args: seen.append(switches()) or measured(*args))
    found = times.time_full_size(CLIP, repeats=1)
    assert found["compiled"] == {"failed": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"}
    assert found["8-bit AdamW"]["failed"].startswith("UserError: --optimizer")
    for name in ("ours", "TF32 everywhere"):
        assert found[name]["seconds"] > 0 and found[name]["unet_seconds"] > 0 and found[name]["peak_gib"] == 3
    assert seen == [before, (True, True)] and switches() == before


def switches():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


# What a video costs


def test_infer_svd_makes_the_video_of_the_plain_call():
    variants = infer_benchmark.VARIANTS
    plain, ours = (
        infer_benchmark.sampler(variants[name]._replace(dtype="float32"), tiny_svd_pipeline(), CLIP, 3, "cpu")()
        for name in (infer_benchmark.PLAIN, "ours")
    )
    assert plain.shape == (4, 64, 64, 3) and plain.dtype == np.uint8 and plain.std() > 1
    assert infer_benchmark.largest_difference(plain, ours) <= 1


def test_a_model_is_loaded_with_the_shortcut_and_hooks_that_move_weights_do_not_mind(tmp_path):
    tiny_svd_pipeline().save_pretrained(tmp_path / "model")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "a.png")
    argv = ["--model_dir", tmp_path / "model", "--input_image", tmp_path / "a.png", "--output_dir", tmp_path / "out"]
    args = infer_svd.parse_args(list(map(str, argv)))
    pipeline, _ = infer_svd.load_model(args, torch.device("cpu"))
    processors = [
        module.processor for name, module in pipeline.unet.named_modules() if name.endswith(("attn1", "attn2"))
    ]
    assert sum(isinstance(processor, OneTokenAttention) for processor in processors) == len(processors) / 2

    settings = {"width": 64, "height": 64, "num_frames": 4, "num_inference_steps": 2}
    image = Image.open(tmp_path / "a.png")

    def video():
        return infer_svd.sample(pipeline, image, settings, 8, torch.Generator().manual_seed(0))

    expected = video()
    cpu_offload(pipeline.unet, torch.device("cpu"))  # the hooks of --offload sequential
    assert pipeline.unet.conv_in.weight.is_meta
    assert infer_benchmark.largest_difference(video(), expected) == 0
    use_one_token_attention(pipeline.unet, enabled=False)
    assert infer_benchmark.largest_difference(video(), expected) <= 1


def test_live_bytes_are_the_most_that_exist_at_once():
    weight = torch.empty(100, 100, device="meta")  # made outside: it does not count

    def call():
        a = torch.empty(10, 100, device="meta")  # 4000 bytes
        b = a @ weight.t()  # 4000
        del a
        c = b.relu()  # 4000, beside b
        del b
        return c.view(100, 10) + 1  # 4000, beside c

    assert infer_benchmark.live_bytes(call) == 8000


def test_the_video_benchmark_leaves_counts_times_and_a_picture(results):
    infer_benchmark.main(infer_benchmark.parse_args([*TINY, "--num_inference_steps", "2"]))
    stored = json.loads((results / "infer_svd.json").read_text())
    counted = stored["counted"]["64x64x4"]
    assert counted["tflop"]["U-Net, one-token shortcut"] < counted["tflop"]["U-Net, plain"]
    assert counted["live_gib"]["decoder, 2 frames at once"] < counted["live_gib"]["decoder, 4 frames at once"]
    timed = stored["timed"]["clips"]["64x64x4"]
    assert timed.keys() == infer_benchmark.VARIANTS.keys() and timed[infer_benchmark.PLAIN]["ratio"] == 1
    assert timed["ours"]["largest_difference"] <= 1 and timed["no one-token shortcut"]["largest_difference"] <= 1
    assert (results / "infer_svd.png").stat().st_size > 5000


def test_a_way_of_sampling_that_fails_is_recorded_and_the_others_are_timed(pretended_gpu, monkeypatch):
    def refuse(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    only(monkeypatch, infer_benchmark, "VARIANTS", infer_benchmark.PLAIN, "ours")
    only(monkeypatch, infer_benchmark, "ON_GPU_ONLY", "whole models offloaded", "bfloat16")
    monkeypatch.setattr("diffusers.StableVideoDiffusionPipeline.enable_model_cpu_offload", refuse)
    monkeypatch.setattr(infer_benchmark, "sampler", on_the_cpu(infer_benchmark.sampler))
    found = infer_benchmark.time_full_size(CLIP, num_inference_steps=1, repeats=1)
    assert found["whole models offloaded"] == {
        "failed": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    }
    assert found["ours"]["peak_gib"] == 3 and found["ours"]["largest_difference"] <= 1
    assert found["bfloat16"]["seconds"] > 0


def on_the_cpu(sampler):
    """In float32: a CPU's kernels lack float16, and many CPUs take an age over bfloat16."""

    def sample(variant, pipeline, clip, num_inference_steps, device):
        return sampler(variant._replace(dtype="float32"), pipeline, clip, num_inference_steps, "cpu")

    return sample


@pytest.mark.parametrize("module", [step_benchmark, infer_benchmark])
def test_a_clip_that_does_not_fit_is_one_line(module, capsys):
    with pytest.raises(SystemExit) as stop:
        module.parse_args(["--clips", "500x320x25"])
    assert stop.value.code == 2
    assert "--clips: got 500x320x25, must be WIDTHxHEIGHTxFRAMES" in capsys.readouterr().err


def test_a_small_svd_from_nothing_learns_to_give_back_frames_and_its_latents_have_unit_spread(tmp_path, capsys):
    def made(steps: int) -> float:
        argv = ["--data_dir", tmp_path / "arm", "--output_dir", tmp_path / "svd", "--steps", steps]
        from_nothing.main(from_nothing.parse_args([str(word) for word in argv]))
        return float(re.search(r"with (\S+) dB", capsys.readouterr().out).group(1))

    recorded(tmp_path / "arm", "--size", "32")
    assert made(30) > made(1) + 3
    pipeline = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "svd", local_files_only=True)
    frames = torch.stack([torch.from_numpy(each.frames[0]) for each in episodes(tmp_path / "arm")])
    latents = pipeline.vae.encode(frames.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mode()
    assert latents.shape[1:] == (4, 8, 8)
    assert (latents.std() * pipeline.vae.config.scaling_factor).item() == pytest.approx(1, rel=0.2)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(Image.fromarray(frames[0].numpy()), height=32, width=32, num_frames=3, num_inference_steps=1)
    assert len(drawn.frames[0]) == 3
