"""Exporting: the folder is loaded by diffusers alone, and draws what generate_text2video.py draws."""

import ast
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import dynamic_modules_utils

import evaluate_text2video
import export_text2video
from tests.latents.test_image_model import FLAGS
from tests.text2video.conftest import run_dir  # noqa: F401  (a fixture)
from tests.text2video.running import generate, train
from tests.tiny_autoencoders import tiny_autoencoder
from utils.cli import UserError
from utils.export import pipeline_folder

PROMPTS = ["a red circle", "a blue square moving left and up again"]  # of different lengths: one is padded


def export(*flags) -> None:
    export_text2video.main(export_text2video.parse_args([*map(str, flags)]))


def load(folder: Path, tmp_path: Path, monkeypatch) -> DiffusionPipeline:
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=str(folder), trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(5 + n) for n in range(len(PROMPTS))]


@pytest.mark.parametrize("kind", ["pixels", "latents", "image model", "motion"])
def test_the_frames_are_those_of_generation(kind, data, run_dir, pipelines, tmp_path, monkeypatch):  # noqa: F811
    trained = tmp_path / "run"
    if kind == "pixels":
        trained = run_dir
    elif kind == "latents":
        tiny_autoencoder("PatchAutoencoder").save_pretrained(tmp_path / "vae")
        latents = ["--vae", str(tmp_path / "vae"), "--num_frames", "4", "--frame_size", "32"]
        latents += ["--guidance_interval", "0.5", "1"]
        train(data, trained, *latents, "--max_train_steps", "2", "--noise_shift", "3", "--zero_terminal_snr")
    else:
        network = ["--network", "motion"] if kind == "motion" else []
        few_words = ["--max_text_tokens", "6"] * (kind == "image model")  # which the tokenizer does not know of
        train(data, trained, "--init_from_2d", str(pipelines["v2"]), *network, *few_words, *FLAGS, preset="base")
    export("--checkpoint", trained, "--output_dir", tmp_path / "exported")
    how = {"num_inference_steps": 3, "guidance_scale": 3.0}
    flags = [each for name, value in how.items() for each in (f"--{name}", value)]
    generate(
        "--checkpoint", trained, "--prompts", *PROMPTS, "--seed", 5, *flags, "--save_frames", "--output_dir", tmp_path
    )
    drawn = [
        np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.glob("*.png"))])
        for folder in sorted(tmp_path.glob("*_frames"))
    ]

    shutil.rmtree(tmp_path / "vae", ignore_errors=True)  # all of it is in the folder
    pipeline = load(tmp_path / "exported", tmp_path, monkeypatch)
    assert list(pipeline.config.guidance_interval) == ([0.5, 1] if kind == "latents" else [0, 1])
    frames = pipeline(PROMPTS, generator=generators(), **how).frames
    assert frames.dtype == np.float32 and frames.shape == (2, *drawn[0].shape)
    assert np.abs(np.round(255 * frames) - drawn).max() <= 1  # where a half is rounded
    assert (np.round(255 * frames) == drawn).mean() > 0.999
    (alone,) = pipeline(PROMPTS[0], generator=generators()[0], output_type="pt", return_dict=False, **how)
    np.testing.assert_allclose(alone[0].permute(0, 2, 3, 1), frames[0], atol=1e-4)
    with pytest.raises(ValueError, match="needs 2, one for each prompt"):
        pipeline(PROMPTS, generator=generators()[:1])


@pytest.mark.parametrize("parts", [pipeline_folder.PIPELINE, pipeline_folder.UNET3D, pipeline_folder.MOTION_UNET])
def test_the_code_is_one_file_without_the_repository_in_which_no_name_stands_twice(parts):
    tree = ast.parse(pipeline_folder.one_file(parts))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert not {module for module in modules if module.split(".")[0] in ("models", "utils")}
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names += [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    assert len(names) == len(set(names)) > 10


def test_the_card_has_the_figures_of_this_model_alone(run_dir, data, tmp_path):  # noqa: F811
    scored = [
        "--num_prompts",
        "2",
        "--num_inference_steps",
        "2",
        "--num_real",
        "4",
        "--output_dir",
        str(tmp_path / "e"),
    ]
    flags = ["--checkpoint", str(run_dir), "--data_dir", str(data), *scored]
    evaluate_text2video.main(evaluate_text2video.parse_args(flags))
    found = tmp_path / "e" / "evaluation.json"
    export("--checkpoint", run_dir, "--output_dir", tmp_path / "a", "--evaluation", found, "--license", "cc-by-4.0")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "license: cc-by-4.0\n" in card and "\n| all right, held out | " in card and "\n| num_frames | 4 |" in card
    assert str(data) not in card and data.name in card  # no paths of this machine
    result = json.loads(found.read_text())
    result["settings"]["checkpoint_sha256"] = "0" * 64
    found.write_text(json.dumps(result))
    with pytest.raises(UserError, match="--evaluation: .* is of another model"):
        export("--checkpoint", run_dir, "--output_dir", tmp_path / "b", "--evaluation", found)
    assert not (tmp_path / "b").exists()


def test_only_an_older_export_is_replaced_and_only_when_asked(run_dir, tmp_path, capsys):  # noqa: F811
    out = tmp_path / "out"
    flags = ["--checkpoint", run_dir, "--output_dir", out]
    export(*flags)
    (out / "unet" / "stale.txt").write_text("")
    with pytest.raises(SystemExit):
        export(*flags)
    assert "holds an export already; --overwrite replaces it" in capsys.readouterr().err
    export(*flags, "--overwrite")
    assert not (out / "unet" / "stale.txt").exists() and (out / "unet" / "unet3d.py").exists()
    index = json.loads((out / "model_index.json").read_text())
    (out / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(SystemExit):
        export(*flags, "--overwrite")
    assert (
        (out / "unet").is_dir()
        and "holds other files" in capsys.readouterr().err
        and not list(tmp_path.glob(".partial*"))
    )


@pytest.mark.parametrize("parts", ["UNET3D", "MOTION_UNET", "PATCH_AUTOENCODER", "PIPELINE"])
def test_files_that_become_one_share_no_name(parts):
    owners = {}
    for part in getattr(pipeline_folder, parts):
        for node in ast.parse((pipeline_folder.MODELS / part).read_text(encoding="utf-8")).body:
            names = [node.name] if hasattr(node, "name") else []
            names += [
                each.id for target in getattr(node, "targets", []) for each in ast.walk(target) if hasattr(each, "id")
            ]
            for name in names:
                assert owners.setdefault(name, part) == part, f"{name} is in {owners[name]} and in {part}"
