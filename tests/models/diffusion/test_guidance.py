"""Where guidance acts."""

import pytest
import torch


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
