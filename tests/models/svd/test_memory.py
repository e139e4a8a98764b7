"""What of SVD is trained, and what saves memory without changing the result."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.svd.conditioning import Conditioning
from models.svd.ledger import activation_bytes, memory_ledger, meta_unet, scope_counts, static_bytes
from models.svd.memory import (
    TEMPORAL,
    UNTRAINABLE,
    disable_full_checkpointing,
    enable_full_checkpointing,
    lora_target_modules,
    set_trainable,
    trainable_names,
    use_one_token_attention,
)
from models.svd.objective import draw_sigmas, svd_loss
from tests.tiny_svd import TINY_UNET, tiny_svd_pipeline

GiB = 2**30


@pytest.fixture
def unet():
    return tiny_svd_pipeline().unet


@pytest.fixture(scope="module")
def full_unet():
    """img2vid-xt without weights."""
    return meta_unet()


@pytest.fixture
def batch():
    conditioning = Conditioning(torch.randn(2, 4, 8, 8), torch.randn(2, 1, 32), torch.tensor([[6, 127, 0.02]] * 2))
    latents, noise = torch.randn(2, 2, 4, 4, 8, 8)
    return {"latents": latents, "conditioning": conditioning, "sigmas": draw_sigmas(2), "noise": noise}


def gradients(unet, batch):
    """{name: gradient} of the trained parameters."""
    svd_loss(unet, **batch)[0].mean().backward()
    found = {name: parameter.grad for name, parameter in unet.named_parameters() if parameter.requires_grad}
    unet.zero_grad()
    return found


def saved_elements(unet, batch):
    """Elements of the tensors that autograd saves in a forward pass, weights included, copies counted again."""
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        svd_loss(unet, **batch)
    return sum(saved)


# Scopes


def test_scopes_of_img2vid_xt_have_the_known_sizes(full_unet):
    parameters = dict(full_unet.named_parameters())
    assert len(parameters) == 1428 and sum(p.numel() for p in parameters.values()) == 1_524_623_082
    temporal = [name for name in parameters if TEMPORAL.search(name)]
    assert (
        len(temporal) == 738 and sum(parameters[name].numel() for name in temporal) == 656_076_838
    )  # the paper's 656M
    untrainable = [name for name in parameters if UNTRAINABLE.search(name)]
    assert len(untrainable) == 128 and sum(parameters[name].numel() for name in untrainable) == 50_389_760
    trained = {scope: scope_counts(full_unet, scope)[0] for scope in ("temporal", "temporal_attn", "all", "lora")}
    assert trained == {
        "temporal": 656_076_838 - 25_194_880,
        "temporal_attn": 397_620_480 - 25_194_880,
        "all": 1_524_623_082 - 50_389_760,
        "lora": 2_458_624,
    }
    assert scope_counts(full_unet, "lora", lora_rank=64) == (9_834_496, 1_524_623_082)


def test_temporal_scope_is_what_the_image_model_lacks(full_unet):
    """Stable Diffusion has no module over frames; everything else of SVD carries its names."""
    names = trainable_names(full_unet, "temporal")
    assert not any("spatial_res_block" in name or ".transformer_blocks." in name for name in names)
    assert not any(name.startswith(("time_embedding", "add_embedding", "conv_")) for name in names)
    mixers = [name for name in names if name.endswith("mix_factor")]
    assert len(mixers) == 38 and len({name for name in names if "time_pos_embed" in name}) == 64
    assert set(trainable_names(full_unet, "temporal_attn")) < set(names) < set(trainable_names(full_unet, "all"))


def test_parameters_left_out_have_a_gradient_of_exactly_zero_and_the_others_have_one(unet, batch):
    with sdpa_kernel(SDPBackend.MATH):  # fused kernels leave rounding errors of the zero
        found = gradients(unet, batch)
    zero = {name for name, gradient in found.items() if not gradient.any()}
    assert zero == {name for name in found if UNTRAINABLE.search(name)} and len(zero) == 32


@pytest.mark.parametrize("scope", ["temporal", "temporal_attn", "all"])
def test_training_changes_the_scope_and_leaves_the_rest_bit_identical(unet, batch, scope):
    before = copy.deepcopy(unet.state_dict())
    optimizer = torch.optim.AdamW(set_trainable(unet, scope), lr=1e-3)
    for _ in range(3):
        svd_loss(unet, **batch)[0].mean().backward()
        optimizer.step(), optimizer.zero_grad()
    changed = [name for name, value in unet.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == trainable_names(unet, scope)


def test_trained_weights_are_float32_and_frozen_ones_are_cast(unet, batch):
    unet.to(torch.bfloat16)
    trained = set_trainable(unet, "temporal", frozen_dtype=torch.bfloat16)
    names = set(trainable_names(unet, "temporal"))
    for name, parameter in unet.named_parameters():
        assert parameter.requires_grad == (name in names)
        assert parameter.dtype == (torch.float32 if name in names else torch.bfloat16)
    assert {id(parameter) for parameter in trained} == {id(p) for p in unet.parameters() if p.requires_grad}
    with torch.autocast("cpu", torch.bfloat16):
        svd_loss(unet, **batch)[0].mean().backward()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in trained)


def test_frozen_weights_in_bfloat16_train_like_float32(unet, batch):
    set_trainable(unet, "temporal")
    exact = gradients(unet, batch)
    set_trainable(unet, "temporal", frozen_dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(unet, batch)
    exact, rounded = (torch.cat([g.flatten() for g in found.values()]) for found in (exact, rounded))
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.99


def test_lora_freezes_everything_and_names_live_projections_over_time(unet, full_unet):
    assert set_trainable(unet, "lora") == [] and not any(p.requires_grad for p in unet.parameters())
    names = lora_target_modules(full_unet)
    assert len(names) == 16 * 6 and all(isinstance(full_unet.get_submodule(name), torch.nn.Linear) for name in names)
    assert all("temporal_transformer_blocks" in name and not UNTRAINABLE.search(name + ".weight") for name in names)


def test_unknown_scope_is_named(unet):
    with pytest.raises(ValueError, match="temporal, temporal_attn, all, lora, not 'spatial'"):
        set_trainable(unet, "spatial")


# Checkpointing and the shortcut


def test_full_checkpointing_keeps_less_and_gives_the_same_gradients(unet, batch):
    plain, plain_size = gradients(unet, batch), saved_elements(unet, batch)
    unet.enable_gradient_checkpointing()
    diffusers_size = saved_elements(unet, batch)
    enable_full_checkpointing(unet)
    found, size = gradients(unet, batch), saved_elements(unet, batch)
    assert size < 0.5 * diffusers_size < 0.5 * plain_size
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_full_checkpointing_can_be_undone_and_is_not_saved(unet, batch):
    names, size, forward = list(unet.state_dict()), saved_elements(unet, batch), unet.forward
    enable_full_checkpointing(unet)
    enable_full_checkpointing(unet)
    assert list(unet.state_dict()) == names
    disable_full_checkpointing(unet)
    assert saved_elements(unet, batch) == size and unet.forward == forward
    assert not any("forward" in module.__dict__ for module in unet.modules())


def test_full_checkpointing_leaves_a_pass_without_gradients_alone(unet, batch):
    with torch.no_grad():
        expected, _ = svd_loss(unet, **batch)
        enable_full_checkpointing(unet)
        losses, _ = svd_loss(unet.train(), **batch)
    assert torch.equal(losses, expected) and not losses.requires_grad


def test_copy_of_a_checkpointed_network_uses_its_own_weights(unet, batch):
    enable_full_checkpointing(unet)
    other = copy.deepcopy(unet)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    expected = copy.deepcopy(other)
    disable_full_checkpointing(expected)
    assert torch.equal(svd_loss(other, **batch)[0], svd_loss(expected, **batch)[0])


def test_one_token_attention_is_exact(unet, batch):
    expected, expected_gradients = svd_loss(unet, **batch)[0], gradients(unet, batch)
    use_one_token_attention(unet)
    losses, found = svd_loss(unet, **batch)[0], gradients(unet, batch)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=0)
    for name in trainable_names(unet, "all"):
        torch.testing.assert_close(found[name], expected_gradients[name], rtol=1e-4, atol=1e-6)
    assert all(found[name] is None for name in found if UNTRAINABLE.search(name))
    use_one_token_attention(unet, enabled=False)
    assert gradients(unet, batch)["mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight"] is not None


def test_one_token_attention_refuses_more_tokens(unet, batch):
    use_one_token_attention(unet)
    batch["conditioning"] = batch["conditioning"]._replace(image_embeddings=torch.randn(2, 2, 32))
    with pytest.raises(ValueError, match="2 tokens"):
        svd_loss(unet, **batch)


# The ledger


def test_static_bytes_of_img2vid_xt(full_unet):
    trained, frozen = 630_881_958, 893_741_124
    ledger = static_bytes(full_unet, "temporal", ema=True)
    assert ledger == {
        "frozen weights": 2 * frozen,
        "trained weights": 4 * trained,
        "autocast copies": 2 * trained,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "ema": 4 * trained,
    }
    assert static_bytes(full_unet, "temporal", "adamw8bit")["optimizer"] == 2 * trained
    assert sum(static_bytes(full_unet, "lora").values()) < 3.2e9


def kept(ledger):
    return sum(count for name, count in ledger.items() if name.startswith("level"))


@pytest.mark.slow
def test_activations_of_img2vid_xt_by_checkpointing():
    """GiB at 512x320 with 25 frames; only the transformers over time decide whether 24 GB will do."""
    clip = {"num_frames": 25, "height": 320, "width": 512}
    ledgers = {name: activation_bytes(**clip, checkpointing=name) for name in ("none", "diffusers", "full")}
    sizes = {name: kept(ledger) / GiB for name, ledger in ledgers.items()}
    assert sizes == pytest.approx({"none": 33.3, "diffusers": 18.6, "full": 3.04}, rel=0.01)
    assert ledgers["none"]["recomputed"] == 0 and ledgers["full"]["recomputed"] / GiB == pytest.approx(1.8, rel=0.01)
    levels = [ledgers["full"][f"level {level}"] for level in range(4)]
    assert levels == sorted(levels, reverse=True)


def test_activations_grow_with_the_clip_and_the_shortcut_saves_some():
    clip = {"num_frames": 4, "height": 64, "width": 64, "config": TINY_UNET, "checkpointing": "none"}
    one = kept(activation_bytes(**clip))
    assert kept(activation_bytes(**clip, batch_size=3)) == pytest.approx(3 * one, rel=0.01)
    assert kept(activation_bytes(**clip | {"num_frames": 8})) == pytest.approx(2 * one, rel=0.02)
    assert kept(activation_bytes(**clip | {"height": 128})) == pytest.approx(2 * one, rel=0.02)
    assert kept(activation_bytes(**clip, one_token=False)) > one


def test_ledger_adds_up():
    ledger = memory_ledger("temporal_attn", num_frames=4, height=64, width=64, config=TINY_UNET)
    assert ledger["total"] == sum(ledger.values()) - ledger["total"]
    assert {"frozen weights", "optimizer", "level 0", "level 1", "recomputed"} <= ledger.keys()


@pytest.mark.parametrize("wrong", [{"scope": "x"}, {"checkpointing": "x"}, {"optimizer": "x"}])
def test_unknown_choice_is_named(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        memory_ledger(**wrong, num_frames=4, height=64, width=64, config=TINY_UNET)
