"""Students beside their teachers: what the benchmark of real time compares."""

import json

import numpy as np
import pytest
import torch

import train_text2video
from benchmarks import measure
from benchmarks.realtime import faster, network, students
from benchmarks.text2video import time_to_prompt
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.text2video import TextToVideoDiffusion
from utils.demo_data import shapes
from utils.demo_data.demo_dataset import write_demo_dataset

pytestmark = pytest.mark.benchmarks


def test_videos_are_as_far_apart_as_their_paths_sizes_and_colours():
    thing = shapes.combinations()[0] | {"rgb": [255, 0, 0], "radius": 8.0, "path": [[16 + 2 * t, 20] for t in range(6)]}
    moved = thing | {"path": [[x + 9, y + 12] for x, y in thing["path"]]}
    larger = thing | {"radius": 10.0, "rgb": [0, 0, 255]}
    here, there, large = (students.vector(shapes.draw([each], 6, 64)) for each in (thing, moved, larger))
    assert students.apart([here["paths"], there["paths"]]) == pytest.approx(15 / 64, abs=0.005)
    assert students.apart([here["sizes"], there["sizes"]]) == pytest.approx(0, abs=0.005)
    assert students.apart([here["sizes"], large["sizes"]]) == pytest.approx(2 / 64, abs=0.005)
    assert students.apart([here["colours"], large["colours"]]) == pytest.approx(255 * 2**0.5, rel=0.1)
    three = [np.zeros(2), np.zeros(2), np.array([3.0, 4.0])]
    assert students.apart(three) == pytest.approx(10 / 3)  # of three pairs two are 5 apart
    nothing = students.vector(np.zeros((6, 64, 64, 3), np.uint8))
    assert np.isnan(nothing["paths"]).all() and nothing["paths"].shape == (6, 2)


def test_students_stand_beside_their_teacher_and_nothing_is_run_twice(tmp_path, monkeypatch, capsys):
    write_demo_dataset(tmp_path / "data", num_clips=12, num_frames=4, frame_size=16)
    flags = ["--data_dir", tmp_path / "data", "--output_dir", tmp_path / "teacher", "--preset", "tiny", "--no_wandb"]
    train_text2video.main(train_text2video.parse_args([*map(str, flags), "--max_train_steps", "1"]))
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr(students, "PROMPTS", 2)
    argv = ["--teachers", str(tmp_path / "teacher"), "--work_dir", str(tmp_path / "work"), "--steps", "2"]
    argv += ["--max_train_steps", "1", "--num_prompts", "2", "--num_samples", "2"]
    students.main(students.parse_args(argv))
    stored = json.loads((tmp_path / "students.json").read_text())
    assert [row["model"] for row in stored["rows"]] == ["teacher", "teacher in 2", "consistency in 2"]
    assert all("diversity of paths" in row and "all, seen" in row for row in stored["rows"])
    assert stored["rows"][2]["seconds"] > 0
    sidecars = (tmp_path / "work" / "teacher" / "consistency2" / "evaluation").rglob("*.json")
    drawn = [found for path in sidecars if "sampler" in (found := json.loads(path.read_text()))]
    assert drawn and {(each["sampler"], each["num_inference_steps"]) for each in drawn} == {("ddim", 2)}
    monkeypatch.setattr(time_to_prompt, "run_script", None)
    students.main(students.parse_args(argv))
    assert json.loads((tmp_path / "students.json").read_text())["rows"] == stored["rows"]


DRAWN = {"num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 4, "guidance_scale": 2.0}


@pytest.fixture
def model(tiny_unet, text_encoder):
    return CaptionedDiffusion(TextToVideoDiffusion(tiny_unet, prediction_type="sample"), text_encoder).eval()


def drawn(model, **how):
    return model.sample(["a red circle", "a blue square moves to the left"], [0, 1], **(DRAWN | how))


def test_ways_that_only_order_the_work_otherwise_draw_the_same_and_leave_no_trace(model):
    plain, made = drawn(model), faster.ways(model)
    for name in ("guidance in two calls", "text projected once"):
        for interval in ((0.0, 1.0), (0.6, 1.0)):
            expected = drawn(model, guidance_interval=interval)
            with made[name]():
                found = drawn(model, guidance_interval=interval), drawn(model, guidance_interval=interval)
            for each in found:
                torch.testing.assert_close(each, expected, rtol=0, atol=1e-4)
    for name in ("linear layers in int8", "bfloat16", "deep levels every 2nd step"):
        with made[name]():
            assert 0 < (drawn(model) - plain).abs().mean() < 0.2, name
    assert torch.equal(drawn(model), plain)


@pytest.mark.parametrize("every, computed", [(1, 4), (2, 2), (3, 2), (5, 1)])
def test_deep_levels_are_computed_in_one_step_of_so_many(model, every, computed):
    plain, calls = drawn(model), []
    handle = model.diffusion.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    with faster.deep_levels_kept(model, every):
        found, again = drawn(model), drawn(model)
    handle.remove()
    assert len(calls) == 2 * computed and torch.equal(found, again)
    assert (every == 1) == torch.equal(found, plain)


def test_the_text_is_projected_in_the_first_step_alone(model):
    attentions = [each for name, each in model.diffusion.unet.named_modules() if name.endswith("attn2")]
    counts, whole = [], [each.to_k.forward for each in attentions]
    for each, forward in zip(attentions, whole, strict=True):
        each.to_k.forward = lambda x, forward=forward: counts.append(1) or forward(x)
    with faster.text_projected_once(model):
        drawn(model)
    assert attentions and len(counts) == len(attentions)


def test_the_table_of_ways_has_ratios_differences_and_shares(tmp_path, monkeypatch):
    write_demo_dataset(tmp_path / "data", num_clips=12, num_frames=4, frame_size=16)
    flags = ["--data_dir", tmp_path / "data", "--output_dir", tmp_path / "run", "--preset", "tiny", "--no_wandb"]
    train_text2video.main(train_text2video.parse_args([*map(str, flags), "--max_train_steps", "1"]))
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    argv = ["--checkpoint", str(tmp_path / "run"), "--num_prompts", "2", "--batch_size", "2"]
    argv += ["--num_inference_steps", "2", "--ways", "bfloat16", "guidance in two calls"]
    network.main(network.parse_args(argv))
    stored = json.loads((tmp_path / "network.json").read_text())
    ways = stored["ways"]
    assert ways.keys() == {"plain", "bfloat16", "guidance in two calls"}
    assert (
        ways["plain"] == {"time": 1.0, "levels": 0.0, "right": ways["plain"]["right"]} and ways["bfloat16"]["time"] > 0
    )
    for shares in stored["parts"].values():
        assert sum(shares.values()) == pytest.approx(1) and 0 < max(shares.values()) < 1
