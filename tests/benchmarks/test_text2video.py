"""The benchmarks' arithmetic: what they compare, and the tables and plots they make of results."""

import json
from pathlib import Path

import pytest
import torch

import train_text2video
from benchmarks import measure
from benchmarks.latents import autoencoders, demo256
from benchmarks.text2video import ablation, peers, sampling, scaling, time_to_prompt, train_step
from utils.demo_data.demo_dataset import write_demo_dataset

pytestmark = pytest.mark.benchmarks


def run(factor, variant, seed, right, samplings=("",)) -> dict:
    groups = {
        group: {name: (right, 10) for name in ("colour", "shape", "direction", "all")} for group in ("seen", "held out")
    }
    return {
        "factor": factor,
        "variant": variant,
        "seed": seed,
        "steps": 100,
        "scores": dict.fromkeys(samplings, groups),
    }


def test_every_variant_of_the_ablation_is_accepted_by_the_trainer_and_changes_something(tmp_path):
    (tmp_path / "data").mkdir()
    preset = ["--preset", "demo", "--data_dir", str(tmp_path / "data")]
    common = [*preset, *ablation.BASE]
    base = vars(train_text2video.parse_args(common))
    for factor, variants in ablation.FACTORS.items():
        for flags in variants.values():
            changed = {
                key for key, value in vars(train_text2video.parse_args([*common, *flags])).items() if value != base[key]
            }
            assert len(changed) == sum(flag.startswith("--") for flag in flags), factor
    winners = ablation.FACTORS["all winners"]["the demo preset"]
    assert train_text2video.parse_args([*common, *winners]) == train_text2video.parse_args(preset)


def test_the_table_compares_means_over_seeds_with_the_bases(capsys):
    rows = [
        run("base", "before the winners", 0, 6, ("", "guidance 2")),
        run("base", "before the winners", 1, 8),
    ]
    rows += [run("prediction type", "v", seed, 5) for seed in (0, 1)]
    lines = {(line["factor"], line["variant"]): line for line in ablation.table_rows(rows)}
    assert lines["base", "before the winners"]["mean"] == 70 and lines["base", "before the winners"]["difference"] == 0
    assert lines["sampling", "guidance 2"]["seeds"] == [60]
    assert lines["prediction type", "v"]["difference"] == -20 and lines["prediction type", "v"]["all_seen"] == 50


def test_results_carry_hardware_and_versions_and_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    rows = [run("base", "before the winners", seed, 6) for seed in (0, 1)]
    ablation.save(ablation.parse_args([]), rows)
    ablation.main(ablation.parse_args(["--report"]))
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["runs"] == json.loads(json.dumps(rows))
    assert stored["hardware"]["cores"] >= 1 and "torch" in stored["hardware"]["versions"]
    assert "| base | before the winners | 100 | 60.0, 60.0 | 60.0 | +0.0 |" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").stat().st_size > 5000

    score = {"share": 0.5, "interval": [0.4, 0.6], "chance": 0.02}
    points = [{"minutes": 3, "seconds": 180, "groups": {group: {"all": score} for group in ("seen", "held out")}}]
    time_to_prompt.plot({"ours": {"points": points}}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_the_cost_of_a_step_is_its_processor_time_against_the_references():
    def spin(count):
        return lambda: sum(i * i for i in range(count))

    assert measure.cost_ratio(spin(300_000), spin(100_000)) == pytest.approx(3, rel=0.3)


def test_a_timed_step_does_what_training_does(tmp_path):
    (tmp_path / "data").mkdir()
    flags = ["--preset", "tiny", "--data_dir", str(tmp_path / "data"), "--optimizer", "muon", "--ema_decay", "0.5"]
    step = measure.TrainingStep(train_text2video.parse_args(flags), ["a red circle", "a blue square"])
    before = [parameter.detach().clone() for parameter in step.parameters]
    step()
    assert any(not old.equal(new) for old, new in zip(before, step.parameters, strict=True))
    assert all(parameter.grad is None for parameter in step.parameters)


@pytest.mark.parametrize("name", [peers.OURS, peers.PEER_DIFFUSERS])
def test_networks_of_equal_size_take_steps_that_are_counted(name):
    network = peers.make_network(name, 8_000_000)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(8_000_000, rel=0.05)
    step = peers.NetworkStep(network, (1, 2, 16, 16), "fp32", "cpu")
    before = step.loss(network).item()
    for _ in range(3):
        step()
    assert step.loss(network).item() < before
    assert peers.NetworkStep(network, (2, 2, 16, 16), "fp32", "cpu").flops() == pytest.approx(
        2 * step.flops(), rel=0.05
    )


def test_fused_attention_on_a_cpu_is_counted_as_its_two_products_are():
    class Attend(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, sample, timesteps, context):
            tokens = (self.scale * sample).flatten(3)  # (B, 3 heads, T tokens, H*W)
            return torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).view_as(sample)

    forward = 2 * (2 * 3) * 16 * 16 * (4 * 4) * 2
    step = peers.NetworkStep(Attend(), (2, 16, 4, 4), "fp32", "cpu")
    assert step.flops() == 3.5 * forward  # backward computes the scores again: five products to forward's two


def test_memory_of_a_step_is_that_of_a_process_of_its_own():
    found = peers.step_alone(peers.OURS, 8_000_000, (1, 2, 16, 16), "fp32", "cpu", 1)
    assert found["seconds"] > 0 and found["flops"] > 1e8
    assert 16 * 7_600_000 < found["peak_bytes"] < 2**30  # weights, gradients and two moments at least


@pytest.mark.parametrize(("native", "precisions"), [(False, {"fp32"}), (True, {"fp32", "bf16"})])
def test_bfloat16_is_timed_where_the_hardware_computes_in_it(monkeypatch, native, precisions, capsys):
    tried = set()
    monkeypatch.setattr("utils.hardware.multiplies_in_bf16", lambda device: native)
    monkeypatch.setattr(measure, "write_result", lambda name, result: Path("nowhere"))
    monkeypatch.setattr(peers, "step_alone", lambda *_: {})
    monkeypatch.setattr(train_step, "compare", lambda parameters, size, precision, *_: tried.add(precision))
    monkeypatch.setattr(train_step, "profile", lambda parameters, size, precision, device: tried.add(precision) or {})
    for name in ("plot", "table"):
        monkeypatch.setattr(train_step, name, lambda *_: [])
    train_step.main(train_step.parse_args([]))
    assert tried == precisions


def test_train_step_compares_ours_with_each_peer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.hardware.multiplies_in_bf16", lambda device: False)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(peers, "NAMES", (peers.OURS, peers.PEER_DIFFUSERS))  # the other one may not be installed
    alone = {peers.OURS: {"peak_bytes": 3, "flops": 5e9}, peers.PEER_DIFFUSERS: {"peak_bytes": 4, "flops": 7e9}}
    monkeypatch.setattr(peers, "step_alone", lambda name, *rest: alone[name])
    monkeypatch.setattr(train_step, "CASES", {(2, 16, 16): (1, 1), (4, 16, 16): (1, 1)})
    flags = ["--repeats", "1", "--parameters", "3000000", "--sizes", "2x16x16"]
    train_step.main(train_step.parse_args(flags))
    stored = json.loads((tmp_path / "train_step.json").read_text())
    assert {tuple(row["size"]) for row in stored["rows"]} == {(1, 2, 16, 16)}
    for row in stored["rows"]:
        ours, peer = row["networks"][peers.OURS], row["networks"][peers.PEER_DIFFUSERS]
        assert ours["ours_is_faster"] == ours["ours_takes_memory"] == 1
        assert peer["ours_is_faster"] == pytest.approx(peer["seconds"] / ours["seconds"], rel=0.01)
        assert peer["clips_per_second"] == pytest.approx(1 / peer["seconds"], rel=0.01)
        assert peer["ours_takes_memory"] == 0.75
        flops = peer["utilisation"] * row["matmul_peak"]
        assert flops * peer["seconds"] == pytest.approx(1e9 * peer["gflops_per_clip"], rel=0.1)
    assert [row["precision"] for row in stored["rows"]] == ["fp32"]
    assert 0 < sum(stored["profile"].values()) <= 1.001
    assert "ours is faster" in capsys.readouterr().out and (tmp_path / "train_step.png").stat().st_size > 5000


def test_scaling_fits_the_exponents_of_its_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(peers, "step_alone", lambda name, parameters, clips, *rest: grown(name, clips))
    monkeypatch.setattr(scaling, "predict", lambda size: {"total": 2**30})

    def grown(name, clips):
        batch, frames, size, _ = clips
        if name != peers.OURS and frames == 64:
            raise RuntimeError("out of memory")
        return {"seconds": batch * frames**1.5 * size**2, "peak_bytes": 1000 + batch * size}

    scaling.main(scaling.parse_args([]))
    stored = json.loads((tmp_path / "scaling.json").read_text())
    ours = stored["exponents"][peers.OURS]
    assert (ours["frames"]["seconds"], ours["size"]["seconds"], ours["batch"]["seconds"]) == (1.5, 2, 1)
    assert [point["n"] for point in stored["curves"][peers.PEER_2022]["frames"]] == [8, 16, 32]
    assert "ends at frames 64" in capsys.readouterr().out and (tmp_path / "scaling.png").stat().st_size > 5000


def test_memory_of_a_step_is_predicted_from_what_autograd_keeps():
    small, large = (scaling.predict((1, 16, size, size)) for size in (32, 64))
    assert small["total"] == sum(small.values()) - small["total"]
    assert small["optimizer"] == 2 * small["trained weights"] and large["gradients"] == small["gradients"]
    assert 3.9 < large["activations"] / small["activations"] < 4.6  # by the pixel, and attention by its square


def test_the_demo_in_latents_is_measured_beside_pixels_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    flags = [
        "--work_dir",
        str(tmp_path / "work"),
        "--seeds",
        "3",
        "--num_clips",
        "16",
        "--num_prompts",
        "1",
        "--pixels",
    ]
    args = demo256.parse_args([*flags, "--autoencoder_steps", "2", "--steps", "14"])
    demo256.main(args)
    runs = json.loads((tmp_path / "demo256.json").read_text())["runs"]
    latents, *pixels = costs_of_a_step(demo256)
    steps = [found["step"] for found in runs.values()]
    assert steps[0] == 14 and len(steps) == 3
    for count, cost in zip(steps[1:], pixels, strict=True):
        assert abs(count * cost - 14 * latents) <= cost / 2  # as many multiplications, to a whole step
    assert set(runs["latents, seed 3"]["seconds"]) == {"data", "autoencoder", "latents", "latents, judged"}
    monkeypatch.setattr(time_to_prompt, "run_script", None)
    demo256.main(args)  # nothing is run again
    assert json.loads((tmp_path / "demo256.json").read_text())["runs"] == runs


def costs_of_a_step(demo256):
    in_pixels = ["--preset", "demo", "--num_frames", 16, "--frame_size", 64, "--patch_size"]
    pixels = [demo256.flops([*in_pixels, patch], 3, (16, 64, 64)) for patch in demo256.PATCHES]
    return [demo256.flops(["--preset", "demo256"], *demo256.latent_shape()), *pixels]


def test_sampling_weighs_time_against_accuracy(tmp_path, monkeypatch, capsys):
    write_demo_dataset(tmp_path / "data", num_clips=12, num_frames=4, frame_size=16)
    flags = ["--data_dir", tmp_path / "data", "--output_dir", tmp_path / "run", "--preset", "tiny", "--no_wandb"]
    train_text2video.main(train_text2video.parse_args([*map(str, flags), "--max_train_steps", "1"]))
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(sampling, "STEPS", (1, 8))
    monkeypatch.setattr(sampling, "SAMPLERS", ("dpmpp_sde",))
    monkeypatch.setattr(sampling, "REFERENCE", ("ddpm", 12))
    monkeypatch.setattr(sampling, "DEFAULT", ("dpmpp_sde", 8))
    sampling.main(sampling.parse_args(["--checkpoint", str(tmp_path / "run"), "--num_prompts", "2", "--repeats", "1"]))
    stored = json.loads((tmp_path / "sampling.json").read_text())
    rows = {(row["sampler"], row["steps"]): row for row in stored["rows"]}
    assert rows["ddpm", 12]["relative_time"] == 12 and rows["dpmpp_sde", 8]["relative_time"] > 3
    assert stored["goal"]["time"] == rows["dpmpp_sde", 8]["relative_time"] / 12 and not stored["goal"]["met"]
    assert all(row["groups"]["held out"]["all"]["of"] == 2 for row in stored["rows"])
    assert "| ddpm | 12 |" in capsys.readouterr().out and (tmp_path / "sampling.png").stat().st_size > 5000


def test_every_autoencoder_that_is_compared_learns_from_clips(tmp_path, monkeypatch):
    write_demo_dataset(tmp_path / "demo", num_clips=18, num_frames=17, frame_size=64)
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    argv = ["--data_dir", str(tmp_path / "demo"), "--most_steps", "2", "--optimizers", "muon"]
    monkeypatch.setitem(autoencoders.LEARNING_RATES, "muon", (1e-3, 2e-2))
    autoencoders.main(autoencoders.parse_args(argv))
    rows = json.loads((tmp_path / "autoencoders.json").read_text())["rows"]
    assert [row["name"] for row in rows] == list(autoencoders.candidates())
    assert all(row["steps"] == 2 and row["gflop_per_clip"] > 0 and 0 < row["psnr"] < 40 for row in rows)
