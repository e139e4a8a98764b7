"""CaptionedDiffusion: a diffusion model with its text encoder and its autoencoder, from captions to videos."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.autoencoder import VideoAutoencoder
from models.conditions import ConditionSettings, settings_of
from models.diffusion.text2video import TextToVideoDiffusion


class CaptionedDiffusion(nn.Module):
    """A diffusion model and its text encoder as the one module that a trainer wraps (for several processes, say).

    autoencoder: of a model of latents, frozen: a VideoAutoencoder.
    """

    def __init__(
        self,
        diffusion: TextToVideoDiffusion,
        text_encoder: nn.Module,
        autoencoder: VideoAutoencoder | None = None,
    ):
        super().__init__()
        self.diffusion = diffusion
        self.text_encoder = text_encoder
        self.autoencoder = autoencoder

    def forward(self, clips: Tensor, captions: list[str], conditions: dict[str, Tensor] | None = None) -> Tensor:
        """The loss of clips (B, C, T, H, W), of pixels in [-1, 1] or normalised latents, with their captions, of which
        some are dropped in training, and what else is known of them, see models/conditions.py."""
        embeddings, mask = self.text_encoder(self.diffusion.drop_text(captions))
        return self.diffusion(clips, embeddings, self.needed(mask), conditions=conditions)

    def needed(self, mask: Tensor) -> Tensor | None:
        """None where padding counts, as CLIP's does: without a mask attention has faster kernels on a GPU."""
        return mask if self.text_encoder.masks_padding else None

    @torch.no_grad()
    def sample(
        self,
        prompts: list[str],
        seeds: list[int] | list[torch.Generator],
        negative_prompt: str = "",
        *,
        num_frames: int,
        height: int,
        width: int,
        window_frames: int | None = None,
        window_overlap: int | None = None,
        weaker: "CaptionedDiffusion | None" = None,
        **settings,
    ) -> Tensor:
        """Videos (B, 3, num_frames, height, width) in [-1, 1] of the prompts; seeds[i] makes the same video i in any
        batch. A generator, on the CPU, may take the place of a seed.

        settings: the others of TextToVideoDiffusion.sample; all frames are those of the video, also where latents have
        fewer. negative_prompt: what guidance leads away from; or, in its place, what `weaker` guesses of the same
        prompts, a model of the same clips, noise and prediction type that has learnt less. Raises ValueError for a
        size, a length or a window that the autoencoder does not take.
        """
        shape = {"num_frames": num_frames, "height": height, "width": width}
        if self.autoencoder is not None:
            if window_frames is not None:
                window = self.autoencoder.latent_shape(window_frames, height, width)[1]
                window_overlap = window_overlap and max(1, window_overlap * window // window_frames)
                window_frames = window
            shape = dict(zip(shape, self.autoencoder.latent_shape(num_frames, height, width)[1:], strict=True))
        windows = {"window_frames": window_frames, "window_overlap": window_overlap}
        embeddings, mask = self.text_encoder.encode(prompts)
        negative, negative_mask = self.text_encoder.encode([negative_prompt] * len(prompts))
        generators = [torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed for seed in seeds]
        masks = self.needed(mask), self.needed(negative_mask)
        if weaker is not None:
            settings["guide"] = weaker.guide(prompts)
        clips = self.diffusion.sample(
            embeddings, masks[0], negative, masks[1], generators=generators, **shape, **windows, **settings
        )
        return clips if self.autoencoder is None else self.autoencoder.decode(clips, num_frames)

    def guide(self, prompts: list[str]) -> Callable[..., Tensor]:
        """(noisy, timesteps, conditions) to what the network predicts with these prompts; conditions that it has not
        learnt are left out."""
        embeddings, mask = self.text_encoder.encode(prompts)

        def predict(noisy: Tensor, timesteps: Tensor, conditions: dict[str, Tensor]) -> Tensor:
            learnt = settings_of(self.diffusion.unet) != ConditionSettings()
            known = {"conditions": conditions} if conditions and learnt else {}
            return self.diffusion.unet(noisy, timesteps, embeddings, self.needed(mask), **known)

        return predict
