"""Operations and bytes of a step, counted on the meta device."""

from collections import Counter
from collections.abc import Callable

from benchmarks.svd.networks import Networks, make_pipeline
from benchmarks.svd.recipes import GIB, TERA, Clip, Recipe, sum_of
from benchmarks.svd.times import set_up


def count(recipe: Recipe, clip: Clip, networks: Networks) -> dict:
    """{"tflop": {"VAE", "CLIP", "forward": {kind: TFLOP}, "backward": {kind: TFLOP}}, "gib": {item: GiB}} of a step."""
    encoded = 1 if recipe.cache else clip.num_frames + 1  # the first frame again with noise, as conditioning
    flops = {
        "VAE": flops_of_encoder(networks, clip)["VAE"] * encoded,
        "CLIP": 0 if recipe.cache else flops_of_encoder(networks, clip)["CLIP"],
        **flops_of_unet(recipe, clip, networks.unet),
    }
    nbytes = bytes_of(recipe, clip, networks)
    return {
        "tflop": {name: _scaled(value, TERA) for name, value in flops.items()},
        "gib": {name: _scaled(value, GIB) for name, value in nbytes.items()},
    }


def _scaled(value, unit: int):
    if isinstance(value, dict):
        return {name: _scaled(each, unit) for name, each in value.items()}
    return round(value / unit, 6)


def flops_of(call: Callable[[], object]) -> Counter:
    """Operations of what call() computes on the meta device: "linear", "convolution" and "attention".

    Two for a multiplication and an addition. Attention is counted as flash attention computes it: its backward pass
    multiplies queries and keys once more.
    """
    from unittest.mock import patch

    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    counts = Counter()
    with (
        patch.object(functional, "scaled_dot_product_attention", flash_attention),
        FlopCounterMode(display=False) as counter,
    ):
        call()
    for operation, flops in counter.get_flop_counts()["Global"].items():
        kinds = [kind for kind in ("convolution", "attention") if kind in str(operation)]
        counts[kinds[0] if kinds else "linear"] += flops
    return counts


def flash_attention(query, key, value, **_):
    """What a GPU makes of scaled_dot_product_attention, also on the meta device: there is no matrix of all pairs."""
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def flops_of_encoder(networks: Networks, clip: Clip) -> dict[str, int]:
    """Operations that encoding one frame takes, by "VAE" and "CLIP"."""
    import torch

    pipeline = make_pipeline(networks, "meta")
    frame = torch.empty(1, 3, clip.height, clip.width, device="meta")
    pixels = torch.empty(1, 3, 224, 224, device="meta")
    with torch.no_grad():
        return {
            "VAE": flops_of(lambda: pipeline.vae.encode(frame)).total(),
            "CLIP": flops_of(lambda: pipeline.image_encoder(pixels)).total(),
        }


def flops_of_unet(recipe: Recipe, clip: Clip, config: dict) -> dict[str, dict[str, int]]:
    """Operations of the U-Net, "forward" and "backward", by kind; what checkpointing repeats is in the latter."""
    import torch

    from models.svd.conditioning import Conditioning
    from models.svd.ledger import meta_unet
    from models.svd.objective import svd_loss

    unet = meta_unet(config)
    set_up(unet, recipe._replace(frozen="float32"))  # there is no autocast on the meta device
    height, width = clip.height // 8, clip.width // 8
    ids = unet.config.projection_class_embeddings_input_dim // unet.config.addition_time_embed_dim
    with torch.device("meta"):
        latents, sigmas = torch.empty(1, clip.num_frames, 4, height, width), torch.empty(1)
        embeddings = torch.empty(1, 1, unet.config.cross_attention_dim)
        conditioning = Conditioning(torch.empty(1, 4, height, width), embeddings, torch.empty(1, ids))
    losses = []
    forward = flops_of(lambda: losses.extend(svd_loss(unet, latents, conditioning, sigmas, latents)[0]))
    return {"forward": dict(forward), "backward": dict(flops_of(losses[0].backward))}


def bytes_of(recipe: Recipe, clip: Clip, networks: Networks) -> dict[str, int]:
    """What is in memory at the peak of a step, by item."""
    import torch

    from models.svd.ledger import activation_bytes, meta_unet, scope_counts, static_bytes

    unet = meta_unet(networks.unet)
    _, frozen = scope_counts(unet, recipe.scope)
    ledger = static_bytes(unet, recipe.scope, recipe.optimizer, ema=True)
    ledger["frozen weights"] = frozen * getattr(torch, recipe.frozen).itemsize
    ledger["ema"] += 4 * frozen if recipe.average_all else 0
    activations = activation_bytes(
        recipe.scope,
        **clip._asdict(),
        checkpointing=recipe.checkpointing,
        one_token=recipe.one_token,
        frozen_dtype=getattr(torch, recipe.frozen),
        config=networks.unet,
    )
    recomputed = activations.pop("recomputed")
    ledger |= {"activations": sum(activations.values()), "recomputed": recomputed}
    pipeline = make_pipeline(networks, "meta")
    ledger["VAE"] = 4 * sum(parameter.numel() for parameter in pipeline.vae.parameters())
    if not recipe.cache:
        ledger["CLIP"] = 2 * sum(parameter.numel() for parameter in pipeline.image_encoder.parameters())
    return ledger


def print_counts(clip: Clip, variants: dict) -> None:
    print(f"{clip}, counted             TFLOP   VAE, CLIP  forward  backward |   GiB  activations")
    for name, each in variants.items():
        flops, gib = each["tflop"], each["gib"]
        parts = flops["VAE"] + flops["CLIP"], sum_of(flops["forward"]), sum_of(flops["backward"])
        columns = "".join(f"{part:10.2f}" for part in (sum_of(flops), *parts))
        print(f"{name:26}{columns} |{sum_of(gib):6.2f}  {gib['activations'] + gib['recomputed']:10.2f}")
