"""Weights as people have them: any precision, adapters of peft's format, ours and others'."""

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file

import infer_svd
from models.svd.memory import cast, lora_target_modules
from tests.svd.running import FRAMES, infer, train
from tests.tiny_svd import tiny_svd_pipeline
from utils.cli import UserError
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.svd.pipeline import load_pipeline
from utils.svd.weights import save_adapters, train_part


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

    # Plain peft and diffusers load them, and draw the same frames.
    plain, ours = (StableVideoDiffusionPipeline.from_pretrained(p) for p in (pipeline_dir, tmp_path / "run"))
    plain.unet = PeftModel.from_pretrained(plain.unet, tmp_path / "run")
    settings = {"height": 64, "width": 64, "num_frames": FRAMES, "num_inference_steps": 2, "output_type": "np"}
    drawn = [
        pipeline(Image.open(picture).resize((64, 64)), generator=torch.Generator().manual_seed(0), **settings).frames
        for pipeline in (plain, ours)
    ]
    np.testing.assert_allclose(*drawn, atol=1e-4)


def test_adapters_are_written_under_the_names_that_plain_peft_writes(pipeline_dir, tmp_path):
    unet = StableVideoDiffusionPipeline.from_pretrained(pipeline_dir).unet
    unet = train_part(unet, "lora", None, {"rank": 2, "alpha": 2})
    learning = {name: parameter.data for name, parameter in unet.named_parameters() if parameter.requires_grad}
    save_adapters(learning, {"rank": 2, "alpha": 2}, "base", tmp_path / "ours")
    plain = StableVideoDiffusionPipeline.from_pretrained(pipeline_dir).unet
    targets = lora_target_modules(plain)
    get_peft_model(plain, LoraConfig(r=2, target_modules=targets)).save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards_are_those_of_one_file_and_a_lost_shard_is_named(tmp_path, variant):
    pipeline = tiny_svd_pipeline()
    if variant:
        for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
            cast(part, torch.float16)
    pipeline.save_pretrained(tmp_path, variant=variant, max_shard_size="500KB")
    shards = sorted((tmp_path / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    loaded = load_pipeline(str(tmp_path))
    for part in ("unet", "vae", "image_encoder"):
        tensors, wanted = (getattr(p, part).state_dict() for p in (loaded, pipeline))
        assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    shards[1].unlink()
    with pytest.raises(UserError, match=f"--pretrained_model_name: .* lacks unet/{shards[1].name}; it should hold"):
        load_pipeline(str(tmp_path))


def test_of_a_folder_with_both_precisions_the_full_one_is_read(tmp_path):
    pipeline = tiny_svd_pipeline()
    for dtype, variant in ((torch.float32, None), (torch.float16, "fp16")):
        for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
            cast(part, dtype)
        pipeline.save_pretrained(tmp_path, variant=variant)
    loaded = load_pipeline(str(tmp_path))
    assert loaded.unet.dtype == loaded.vae.dtype == torch.float32
    wanted = tiny_svd_pipeline().unet.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in loaded.unet.state_dict().items())


def test_adapters_of_others_are_merged_and_a_whole_pipeline_is_written(pipeline_dir, picture, tmp_path, capsys):
    unet = StableVideoDiffusionPipeline.from_pretrained(pipeline_dir).unet
    theirs = get_peft_model(unet, LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    theirs.save_pretrained(tmp_path / "theirs")
    flags = (
        *("--model_dir", pipeline_dir, "--lora", tmp_path / "theirs", "--merge", tmp_path / "merged"),
        *("--input_image", picture, "--output_video", tmp_path / "a.mp4", "--num_inference_steps", 1),
        *("--num_frames", FRAMES, "--height", 64, "--width", 64, "--overwrite"),
    )
    infer_svd.main(infer_svd.parse_args(list(map(str, flags))))
    merged = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "merged").unet.state_dict()
    for name, value in theirs.merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged[name], value)

    tensors = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    first = next(iter(tensors))
    fewer = {name: tensor for name, tensor in tensors.items() if name != first}
    for wrong in ({}, fewer, tensors | {"base_model.model.x.weight": tensors[first].clone()}):
        save_file(wrong, tmp_path / "theirs" / "adapter_model.safetensors")
        with pytest.raises(UserError, match="--lora: the adapters in .*theirs cannot be used"):
            infer_svd.main(infer_svd.parse_args(list(map(str, flags))))

    (tmp_path / "theirs" / "adapter_model.safetensors").rename(tmp_path / "theirs" / "adapter_model.bin")
    with pytest.raises(UserError, match="--lora: the adapters in .*theirs cannot be used"):
        infer_svd.main(infer_svd.parse_args(list(map(str, flags))))
    with pytest.raises(SystemExit):
        infer_svd.parse_args([*map(str, flags), "--merge", str(pipeline_dir)])
    assert "--merge: that is --model_dir itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "precision", "scope", "cached"),
    [
        ("float16", "no", "temporal", False),
        ("float16", "bf16", "lora", False),
        ("bfloat16", "no", "all", True),
    ],
)
def test_whatever_precision_is_stored_it_trains_and_leaves_one(
    dataset, picture, tmp_path, stored, precision, scope, cached
):
    dtype = getattr(torch, stored)
    base = tiny_svd_pipeline()
    for part in (base.unet, base.vae, base.image_encoder):
        cast(part, dtype)
    base.save_pretrained(tmp_path / "base", variant="fp16" if stored == "float16" else None)
    flags = ("--mixed_precision", precision, "--trainable", scope, "--max_train_steps", 1)
    train(tmp_path / "base", dataset, tmp_path / "run", *flags, *([] if cached else ["--no_cache"]))
    for part in ("unet", "vae", "image_encoder"):
        for file in (tmp_path / "run" / part).glob("*.safetensors"):
            assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    assert stored in (tmp_path / "run" / "README.md").read_text()
    infer("--model_dir", tmp_path / "run", "--input_image", picture, "--output_video", tmp_path / "a.mp4")
