"""The terms of an autoencoder's loss and the measures of what comes back, against their definitions."""

import pytest
import torch
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
from transformers import ResNetBackbone, ResNetConfig

from models.patch_autoencoder import PatchAutoencoder, fold, unfold
from models.reconstruction import (
    AutoencoderTraining,
    PatchDiscriminator,
    PerceptualDistance,
    frozen,
    hinge_loss,
    psnr,
    random_crops,
    ssim,
)


def clips(seed: int = 0, batch: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, 4, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny(**settings) -> PatchAutoencoder:
    torch.manual_seed(0)
    model = PatchAutoencoder(
        **{"latent_channels": 8, "patch_size": (4, 8), "width": 16, "encoder_layers": 1, "decoder_layers": 1} | settings
    )
    for block in (*model.encoder, *model.decoder):
        nn.init.normal_(block.conv_time.weight, std=0.1)  # as after some training
    return model


def test_folding_puts_a_patch_into_channels_and_unfolding_back():
    video = torch.arange(2 * 3 * 4 * 4 * 6).reshape(2, 3, 4, 4, 6)
    patches = fold(video, 2, 2)
    assert patches.shape == (2, 24, 2, 2, 3)
    assert set(patches[1, :, 1, 0, 2].tolist()) == set(video[1, :, 2:4, 0:2, 4:6].flatten().tolist())
    assert torch.equal(unfold(patches, 2, 2), video)


def test_a_place_of_the_output_depends_on_its_neighbourhood_alone():
    """So tiles of a video decode to the same away from their edges."""
    model, latents = tiny(), torch.randn(1, 8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model.decode(latents).sample
        tile = model.decode(latents[..., :8, :8]).sample
    assert torch.allclose(whole[..., :48, :48], tile[..., :48, :48], atol=1e-5)
    assert not torch.allclose(
        whole[..., 56:64, :], torch.cat([tile[..., 56:64, :], tile[..., 56:64, :32]], -1), atol=1e-3
    )


@pytest.mark.parametrize(("size", "square"), [(8, 4), (6, 2), (4, 4)])
def test_a_head_for_detail_starts_as_nothing_and_sees_the_squares_beside(size, square):
    without, head = (tiny(patch_size=(4, size), detail_channels=channels) for channels in (0, 8))
    head.load_state_dict(without.state_dict(), strict=False)
    latents = torch.randn(1, 8, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(head.decode(latents).sample, without.decode(latents).sample)
    assert head.detail_head.square == square
    nn.init.normal_(head.detail_head.conv_out.weight, std=0.1)
    seen = head.detail_head(torch.zeros(1, 16, 1, 5, 5).index_fill_(3, torch.tensor(2), 1.0))
    rows = (seen - head.detail_head(torch.zeros(1, 16, 1, 5, 5))).abs().amax(dim=(0, 1, 2, 4)) > 0
    assert seen.shape == (1, 3, 4, 5 * size, 5 * size)
    assert rows.nonzero().flatten().tolist() == list(range(2 * size - 2 * square, 3 * size + 2 * square))


def test_the_distribution_has_a_deviation_only_if_it_was_asked_for():
    with torch.no_grad():
        plain, spread = (tiny(double_z=kl).encode(clips()).latent_dist for kl in (False, True))
    assert torch.equal(plain.sample(), plain.mode()) and not torch.equal(spread.sample(), spread.mode())
    assert plain.mode().shape == spread.mode().shape == (2, 8, 1, 4, 4)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny()
        if checkpointing:
            model.enable_gradient_checkpointing()
        AutoencoderTraining(model)(clips())[0].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(*pair, atol=1e-7) for pair in zip(*gradients, strict=True))


def test_the_loss_is_the_sum_of_its_weighted_terms():
    model = AutoencoderTraining(
        tiny(double_z=True),
        4,
        mse_weight=3.0,
        kl_weight=0.5,
        discriminator=PatchDiscriminator(8),
        adversarial_weight=0.25,
    )
    for heard in (False, True):
        torch.manual_seed(1)
        loss, terms = model(clips(), adversarial=heard)
        expected = terms["l1"] + 3 * terms["mse"] + 0.5 * terms["kl"] + terms["discriminator"]
        torch.testing.assert_close(loss, expected + 0.25 * heard * terms["adversarial"])
    plain_loss, plain = AutoencoderTraining(tiny())(clips())
    assert set(plain) == {"l1", "mse"}
    with torch.no_grad():
        decoded = tiny().decode(tiny().encode(clips()).latent_dist.mode()).sample
    torch.testing.assert_close(plain["mse"].detach(), ((decoded - clips()) ** 2).mean())
    torch.testing.assert_close(plain_loss, plain["l1"] + 4 * plain["mse"])


def test_divergence_is_that_of_two_normal_distributions():
    model = tiny(double_z=True)
    _, terms = AutoencoderTraining(model, kl_weight=1.0)(clips())
    found = model.encode(clips()).latent_dist
    of_each = torch.distributions.kl_divergence(
        torch.distributions.Normal(found.mean, found.std), torch.distributions.Normal(0, 1)
    )
    torch.testing.assert_close(terms["kl"], of_each.mean(), rtol=1e-4, atol=1e-5)


def test_noise_on_the_latents_follows_their_scale():
    """Latents a hundred times as large are no way to be rid of it."""
    seen = []

    class Scaled(nn.Module):
        def __init__(self, scale: float):
            super().__init__()
            self.scale, self.inner = scale, tiny()

        def encode(self, videos):
            found = self.inner.encode(videos)
            found.latent_dist.mode = lambda mode=found.latent_dist.mode: self.scale * mode()
            return found

        def decode(self, latents):
            seen.append(latents / self.scale)
            return self.inner.decode(latents / self.scale)

    for scale in (1.0, 100.0):
        torch.manual_seed(5)
        AutoencoderTraining(Scaled(scale), latent_noise=0.3)(clips())
    torch.testing.assert_close(seen[0], seen[1])
    clean = tiny().encode(clips()).latent_dist.mode()
    noise = (seen[0] - clean).std(dim=(0, 2, 3, 4)) / clean.std(dim=(0, 2, 3, 4))
    assert ((noise - 0.3).abs() < 0.1).all()


def test_the_autoencoder_does_not_learn_from_what_the_discriminator_learns_by_and_the_other_way_round():
    discriminator = PatchDiscriminator(8)
    model = AutoencoderTraining(tiny(), discriminator=discriminator, adversarial_weight=1.0)
    _, terms = model(clips(), adversarial=True)
    terms["adversarial"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    assert model.autoencoder.patch_out.weight.grad.abs().sum() > 0
    model.zero_grad()
    terms["discriminator"].backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (*discriminator.layers, discriminator.out))
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.autoencoder.parameters())


def test_a_discriminator_learns_to_tell_and_a_clip_to_pass():
    torch.manual_seed(0)
    discriminator, real = PatchDiscriminator(8), clips().roll(1, 0) * 0 + torch.linspace(-1, 1, 32)
    made = clips()
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    for _ in range(40):
        optimizer.zero_grad()
        hinge_loss(discriminator, real, made).backward()
        optimizer.step()
    assert discriminator(real).mean() > 0.5 and discriminator(made).mean() < -0.5
    passing = made.clone().requires_grad_()
    frozen(discriminator, passing).mean().backward()
    assert discriminator(made + 0.5 * passing.grad.sign()).mean() > discriminator(made).mean()


def test_crops_lie_anywhere_inside_and_keep_all_frames():
    video = torch.arange(2 * 4 * 16 * 24).reshape(2, 1, 4, 16, 24).float()
    corners = set()
    for seed in range(80):
        torch.manual_seed(seed)
        parts = random_crops(video, 12)
        assert parts.shape == (2, 1, 4, 12, 12)
        for part, whole in zip(parts, video, strict=True):
            top, left = divmod(int(part[0, 0, 0, 0]) % (16 * 24), 24)
            assert torch.equal(part, whole[..., top : top + 12, left : left + 12])
            corners.add((top, left))
    assert {top for top, _ in corners} == set(range(5)) and {left for _, left in corners} == set(range(13))
    assert random_crops(video, None) is video and random_crops(video, 20).shape == (2, 1, 4, 16, 20)


def test_several_crops_of_a_clip_follow_each_other_and_the_most_detailed_are_chosen():
    video = torch.zeros(2, 1, 4, 64, 64)
    video[1] = 1
    video[:, :, :, 8:24, 40:56] = 0.5
    torch.manual_seed(0)
    plain, chosen = (random_crops(video, 24, per_clip=20, choices=choices) for choices in (1, 8))
    assert plain.shape == chosen.shape == (40, 1, 4, 24, 24)
    for parts in (plain, chosen):
        assert (parts[:20] != 1).all() and (parts[20:] != 0).all()
    with_edges = [(parts.amax(dim=(1, 2, 3, 4)) > parts.amin(dim=(1, 2, 3, 4))).sum() for parts in (plain, chosen)]
    assert with_edges[1] > 37 > 1.3 * with_edges[0]


def test_a_picture_stands_still_for_a_patch():
    picture = clips()[:, :, :1]
    still, moving = (
        AutoencoderTraining(tiny(), 4)(each)[1]["mse"] for each in (picture, picture.repeat(1, 1, 4, 1, 1))
    )
    torch.testing.assert_close(still, moving)


def test_perceptual_distance_is_0_for_the_same_and_grows_with_blur():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.out_features = ["stage1", "stage2"]
    distance = PerceptualDistance(ResNetBackbone(config))
    sharp = clips(size=64)
    blurs = [nn.functional.avg_pool3d(sharp, (1, n, n), 1, (0, n // 2, n // 2)) for n in (3, 7)]
    assert distance(sharp, sharp) == 0 < distance(blurs[0], sharp) < distance(blurs[1], sharp)
    made = blurs[0].clone().requires_grad_()
    distance(made, sharp).backward()
    assert made.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in distance.parameters())


@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_psnr_and_ssim_are_those_of_torchmetrics(noise):
    real = nn.functional.interpolate(clips(size=8).flatten(0, 1), 48, mode="bilinear").unflatten(0, (2, 3))
    made = (real + noise * torch.randn(real.shape, generator=torch.Generator().manual_seed(3))).clamp(-1, 1)
    for n in range(2):
        x, y = ((each[n].transpose(0, 1).double() + 1) / 2 for each in (made, real))
        assert psnr(made, real)[n].item() == pytest.approx(
            peak_signal_noise_ratio(x, y, data_range=1.0).item(), abs=1e-4
        )
        settings = {"sigma": 1.5, "data_range": 1.0, "return_full_image": True}
        full = structural_similarity_index_measure(x, y, **settings)[1]
        assert ssim(made, real)[n].item() == pytest.approx(full[..., 5:-5, 5:-5].mean().item(), abs=1e-5)
    assert ssim(real, real).tolist() == pytest.approx([1.0, 1.0])
