"""The conditioning of SVD: against the pipeline itself."""

import pytest
import torch

from models.svd.conditioning import (
    Conditioning,
    draw_noise_aug,
    drop_image,
    encode_first_frames,
    encode_latents,
    image_embeddings,
    make_conditioning,
)
from models.svd.objective import predict
from tests.models.svd.examples import picture, random_batch, to_frame
from tests.tiny_svd import tiny_svd_pipeline


def test_noise_on_the_first_frame_is_log_normal():
    logs = draw_noise_aug(100_000).log()
    assert abs(logs.mean() + 3) < 0.01 and abs(logs.std() - 0.5) < 0.01


def test_network_sees_in_training_what_the_pipeline_shows_it(pipeline, monkeypatch):
    """The whole first call of the U-Net in a guided pipeline call, both halves, for the same random numbers."""
    calls = []

    def record(*args, **kwargs):
        calls.append((args, kwargs))
        return type(pipeline.unet).forward(pipeline.unet, *args, **kwargs)

    monkeypatch.setattr(pipeline.unet, "forward", record)
    image, size = picture(), {"height": 64, "width": 96}
    pipeline(image, **size, num_inference_steps=1, fps=9, motion_bucket_id=80, noise_aug_strength=0.3,
             output_type="latent", generator=torch.Generator().manual_seed(3))  # fmt: skip

    generator = torch.Generator().manual_seed(3)  # the pipeline draws the noise of the image, then that of the clip
    frame = to_frame(image)[None]
    shown = make_conditioning(
        pipeline.vae,
        frame,
        image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frame),
        fps=torch.tensor([9]),
        motion_bucket_ids=torch.tensor([80]),
        noise_aug=torch.tensor([0.3]),
        noise=torch.randn(frame.shape, generator=generator),
        dropped=torch.tensor([False]),
    )
    hidden = drop_image(shown, torch.tensor([True]))
    both = Conditioning(*(torch.cat(halves) for halves in zip(hidden, shown, strict=True)))
    noisy = torch.randn(1, 8, 4, 8, 12, generator=generator) * pipeline.scheduler.init_noise_sigma
    with torch.no_grad():
        predict(pipeline.unet, noisy.expand(2, -1, -1, -1, -1), torch.tensor([700.0, 700.0]), both)

    (sample, timestep), conditions = calls[0]
    (our_sample, our_timestep, our_context), our_conditions = calls[1]
    assert not hidden.image_latents.any() and shown.image_latents.any()
    torch.testing.assert_close(our_sample, sample, rtol=0, atol=1e-5)
    torch.testing.assert_close(our_timestep, timestep.expand(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(our_context, conditions["encoder_hidden_states"], rtol=0, atol=1e-6)
    torch.testing.assert_close(our_conditions["added_time_ids"], conditions["added_time_ids"], rtol=0, atol=1e-6)
    assert conditions["added_time_ids"][0].tolist() == pytest.approx([8, 80, 0.3])  # one frame per second less


@pytest.mark.parametrize("size", [(64, 96), (320, 512), (232, 296)])
def test_image_embeddings_are_the_pipelines(pipeline, size):
    images = [picture(seed, *size) for seed in (0, 1)]
    frames = torch.stack([to_frame(image) for image in images])
    ours = image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, frames)
    with torch.no_grad():
        expected = pipeline._encode_image(images, "cpu", 1, False)
    assert ours.shape == (2, 1, 32) and not torch.equal(ours[0], ours[1])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_latents_are_what_the_pipeline_decodes(pipeline):
    clip = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    latents = encode_latents(pipeline.vae, clip)
    assert latents.shape == (2, 3, 4, 4, 4)
    with torch.no_grad():
        modes = pipeline.vae.encode(clip.flatten(0, 1)).latent_dist.mode()
        expected = torch.stack([pipeline.vae.decode(m, num_frames=3).sample for m in modes.split(3)])
        decoded = torch.stack([pipeline.decode_latents(part[None], 3)[0].transpose(0, 1) for part in latents])
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


def test_chunks_of_the_encoder_change_nothing(pipeline):
    clip = torch.rand(1, 5, 3, 32, 32) * 2 - 1
    whole = encode_latents(pipeline.vae, clip, chunk=5)
    torch.testing.assert_close(encode_latents(pipeline.vae, clip, chunk=2), whole, rtol=0, atol=1e-6)


def test_vae_that_overflows_in_half_precision_is_used_in_full():
    vae = tiny_svd_pipeline().vae.half()
    frames = torch.rand(1, 2, 3, 32, 32) * 2 - 1
    assert encode_latents(vae, frames).dtype == torch.float32 and vae.dtype == torch.float32
    vae.half()
    with torch.autocast("cpu", torch.bfloat16):
        latents = encode_first_frames(vae, frames[:, 0], torch.ones(1), torch.zeros_like(frames[:, 0]))
    assert torch.equal(latents, vae.float().encode(frames[:, 0]).latent_dist.mode())
    vae.half().register_to_config(force_upcast=False)
    encode_latents(vae, frames)
    assert vae.dtype == torch.float16


def test_image_is_dropped_as_latent_and_as_embedding_at_once_and_the_ids_stay(pipeline):
    _, arguments, _, _ = random_batch(pipeline, batch_size=3)
    kept = make_conditioning(pipeline.vae, **arguments)
    arguments["dropped"] = torch.tensor([False, True, False])
    dropped = make_conditioning(pipeline.vae, **arguments)
    for name in ("image_latents", "image_embeddings"):
        assert not getattr(dropped, name)[1].any()
        assert torch.equal(getattr(dropped, name)[[0, 2]], getattr(kept, name)[[0, 2]])
    assert torch.equal(dropped.time_ids, kept.time_ids) and not kept.image_latents.requires_grad


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_share_of_dropped_images_is_the_dropout(pipeline, dropout):
    _, arguments, _, _ = random_batch(pipeline, batch_size=400, side=1)
    for drawn in ("dropped", "noise", "noise_aug"):
        arguments[drawn] = None
    conditioning = make_conditioning(pipeline.vae, **arguments, dropout=dropout)
    without = ~conditioning.image_embeddings.flatten(1).any(dim=1)
    assert torch.equal(without, ~conditioning.image_latents.flatten(1).any(dim=1))
    assert abs(without.float().mean() - dropout) < 0.07
    assert conditioning.time_ids[:, 2].unique().numel() == 400  # each clip has its own noise


def test_conditioning_follows_from_the_seed(pipeline):
    _, arguments, _, _ = random_batch(pipeline)
    for drawn in ("dropped", "noise", "noise_aug"):
        arguments[drawn] = None
    first, again, other = (
        make_conditioning(pipeline.vae, **arguments, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.image_latents, other.image_latents)
