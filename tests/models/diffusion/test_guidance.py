"""What guidance makes of two guesses, whose they are, and where it acts."""

import pytest
import torch

from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.text2video import TextToVideoDiffusion
from tests.models.diffusion.test_diffusion import Answer


def test_guidance_acts_in_its_interval_and_costs_nothing_outside(tiny_diffusion, text):
    seen, forward = [], tiny_diffusion.unet.forward
    tiny_diffusion.unet.forward = lambda noisy, timesteps, *a, **k: (
        seen.append((len(noisy), int(timesteps[0]))) or forward(noisy, timesteps, *a, **k)
    )
    negative = torch.randn_like(text)

    def drawn(scale, interval) -> torch.Tensor:
        seen.clear()
        generators = [torch.Generator().manual_seed(n) for n in range(2)]
        how = {"num_frames": 2, "height": 8, "width": 8, "num_inference_steps": 8, "generators": generators}
        how |= {"guidance_scale": scale, "guidance_interval": interval}
        return tiny_diffusion.sample(text, None, negative, None, **how)

    guided, plain = drawn(3.0, (0.0, 1.0)), drawn(1.0, (0.0, 1.0))
    assert {count for count, _ in seen} == {2}
    between = drawn(3.0, (0.3, 0.7))
    assert {(count, 300 <= timestep <= 700) for count, timestep in seen} == {(4, True), (2, False)}
    assert not torch.equal(between, guided) and not torch.equal(between, plain)
    torch.testing.assert_close(drawn(3.0, (0.9995, 1.0)), plain, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="guidance_interval must rise"):
        drawn(3.0, (0.7, 0.3))


def test_guidance_scale_one_is_the_conditional_prediction(tiny_diffusion, clip, text):
    timestep = torch.tensor(500)
    plain = tiny_diffusion.denoise(clip, timestep, text, None)
    both = torch.cat([torch.randn_like(text), text])
    torch.testing.assert_close(plain, tiny_diffusion.denoise(clip, timestep, both[2:], None, guidance_scale=1.0))
    near_one = tiny_diffusion.denoise(clip, timestep, both, None, guidance_scale=1 + 1e-6)
    torch.testing.assert_close(plain, near_one, rtol=0, atol=1e-3)
    assert not torch.allclose(plain, tiny_diffusion.denoise(clip, timestep, both, None, guidance_scale=3.0), atol=1e-3)


def test_guidance_moves_from_the_negative_prediction_through_the_conditional_one(clip, text):
    negative, positive = torch.full_like(clip, 0.1), torch.full_like(clip, 0.2)
    unet = Answer(lambda noisy: torch.cat([negative, positive]))
    diffusion = TextToVideoDiffusion(unet, prediction_type="sample")
    guided = diffusion.denoise(clip, torch.tensor(5), torch.cat([text, text]), None, guidance_scale=3.0)
    torch.testing.assert_close(guided, torch.full_like(clip, 0.1 + 3 * 0.1))


def test_guidance_rescale_restores_the_spread_of_the_conditional_prediction(clip, text):
    negative, positive = 0.05 * torch.randn_like(clip), 0.1 * torch.randn_like(clip)
    unet = Answer(lambda noisy: torch.cat([negative, positive]))
    diffusion = TextToVideoDiffusion(unet, prediction_type="sample")
    settings = {"guidance_scale": 5.0, "thresholding": "none"}
    texts = torch.cat([text, text])
    plain = diffusion.denoise(clip, torch.tensor(5), texts, None, **settings)
    rescaled = diffusion.denoise(clip, torch.tensor(5), texts, None, guidance_rescale=1.0, **settings)
    assert plain[0].std() > 2 * positive[0].std()
    torch.testing.assert_close(rescaled[0].std(), positive[0].std(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_guidance_along_the_clip_counts_as_in_diffusers(clip, text, prediction_type):
    from diffusers.guiders.adaptive_projected_guidance import normalized_guidance

    answers = torch.cat([0.05 * torch.randn_like(clip), 0.1 * torch.randn_like(clip)])
    diffusion = TextToVideoDiffusion(Answer(lambda noisy: answers), prediction_type=prediction_type)
    texts, timestep = torch.cat([text, text]), torch.tensor(300)
    negative, positive = (diffusion.predict_clip(each, clip, timestep[None]) for each in answers.chunk(2))
    for eta in (0.0, 0.4, 1.0):
        found = diffusion.denoise(clip, timestep, texts, None, 3.0, thresholding="none", guidance_parallel=eta)
        expected = normalized_guidance(positive, negative, 2.0, eta=eta, use_original_formulation=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_weaker_model_takes_the_place_of_the_negative_text(clip, text):
    weak, strong = 0.05 * torch.randn_like(clip), 0.1 * torch.randn_like(clip)
    diffusion = TextToVideoDiffusion(Answer(lambda noisy: strong), prediction_type="sample")
    asked = []

    def guide(noisy, timesteps, conditions):
        asked.append((noisy.shape, timesteps.tolist(), conditions))
        return weak

    found = diffusion.denoise(clip, torch.tensor(5), text, None, 3.0, thresholding="none", guide=guide)
    torch.testing.assert_close(found, weak + 3 * (strong - weak))
    assert asked == [(clip.shape, [5] * len(clip), {})]
    torch.testing.assert_close(diffusion.denoise(clip, torch.tensor(5), text, None, guide=guide), strong)
    assert len(asked) == 1  # without guidance nobody is asked


def test_guided_by_itself_a_model_draws_what_it_draws_without_guidance(tiny_unet, text_encoder):
    model = CaptionedDiffusion(TextToVideoDiffusion(tiny_unet, prediction_type="sample"), text_encoder).eval()
    how = {"num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 3}
    prompts = ["a red circle", "a blue square moves to the left"]
    plain = model.sample(prompts, [0, 1], **how)
    for interval in ((0.0, 1.0), (0.5, 1.0)):
        guided = model.sample(prompts, [0, 1], guidance_scale=4.0, guidance_interval=interval, weaker=model, **how)
        torch.testing.assert_close(guided, plain, rtol=0, atol=1e-4)
    with_text = model.sample(prompts, [0, 1], guidance_scale=4.0, **how)
    assert (with_text - plain).abs().max() > 1e-3
