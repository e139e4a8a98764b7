"""TextToVideoPipeline: a trained model as a pipeline of diffusers, which `export_text2video.py` writes into a folder.

pipeline = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
frames = pipeline("a red circle moving right", generator=torch.Generator().manual_seed(0)).frames[0]
"""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from models.autoencoder import VideoAutoencoder
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.text2video import TextToVideoDiffusion
from models.text_encoder import BUILTIN, TextEncoder


@dataclass
class TextToVideoOutput(BaseOutput):
    """frames: of each video, see output_type of the pipeline."""

    frames: np.ndarray | Tensor | list


class TextToVideoPipeline(DiffusionPipeline):
    """Text to video with the parts of a trained model.

    vae: None for a model of pixels. latents_mean, latents_std: one number per channel of its latents. builtin_text:
    whether the text encoder was learnt with the model. max_text_tokens: tokens per prompt. The others are what
    __call__ takes where it is not told: frames and size as in training.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["vae"]

    def __init__(
        self,
        unet,
        scheduler,
        text_encoder,
        tokenizer,
        vae=None,
        *,
        builtin_text: bool = False,
        max_text_tokens: int | None = None,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        num_frames: int = 16,
        height: int = 64,
        width: int = 64,
        guidance_scale: float = 1.0,
        guidance_interval: list[float] | tuple[float, float] = (0.0, 1.0),
        num_inference_steps: int = 25,
        sampler: str = "dpmpp_sde",
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer, vae=vae)
        self.register_to_config(
            builtin_text=builtin_text,
            max_text_tokens=max_text_tokens,
            latents_mean=latents_mean,
            latents_std=latents_std,
            num_frames=num_frames,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str = "",
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        guidance_parallel: float = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        sampler: str | None = None,
        thresholding: str | None = None,
        window_frames: int | None = None,
        window_overlap: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
    ) -> TextToVideoOutput | tuple:
        """Videos of the prompts; for the settings see TextToVideoDiffusion.sample.

        generator: on the CPU, one for each prompt or one for all; the generator of seed s draws the video that
        `generate_text2video.py --seed s` draws. output_type: "np", (B, T, H, W, 3) in [0, 1]; "pt", (B, T, 3, H, W) in
        [0, 1]; "pil", a list of pictures for each video. Raises ValueError for generators of another number or on
        another device, and for frames or sizes that the model does not take.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        generators = generator if isinstance(generator, list) else [generator] * len(prompts)
        generators = [each or torch.Generator().manual_seed(int(torch.randint(2**62, ()))) for each in generators]
        if len(generators) != len(prompts) or any(each.device.type != "cpu" for each in generators):
            raise ValueError(f"generator: needs {len(prompts)}, one for each prompt, on the CPU")
        num_inference_steps = num_inference_steps or self.config.num_inference_steps
        precision = self.unet.dtype
        autocast = torch.autocast(self._execution_device.type, precision, enabled=precision != torch.float32)
        with autocast, self.progress_bar(total=num_inference_steps) as bar:
            videos = self._model().sample(
                prompts,
                generators,
                negative_prompt,
                num_frames=num_frames or self.config.num_frames,
                height=height or self.config.height,
                width=width or self.config.width,
                num_inference_steps=num_inference_steps,
                guidance_scale=self.config.guidance_scale if guidance_scale is None else guidance_scale,
                guidance_rescale=guidance_rescale,
                guidance_parallel=guidance_parallel,
                guidance_interval=tuple(guidance_interval or self.config.guidance_interval),
                sampler=sampler or self.config.sampler,
                thresholding=thresholding,
                window_frames=window_frames,
                window_overlap=window_overlap,
                on_step=lambda clips: bar.update(),
            )
        self.maybe_free_model_hooks()
        frames = VideoProcessor().postprocess_video(videos, output_type)
        return TextToVideoOutput(frames) if return_dict else (frames,)

    def _model(self) -> CaptionedDiffusion:
        """The parts as the model that was trained."""
        device = self._execution_device
        name = BUILTIN if self.config.builtin_text else "text_encoder"
        encoder = TextEncoder(name, self.tokenizer, self.text_encoder, False, self.config.max_text_tokens)
        diffusion = TextToVideoDiffusion(
            self.unet, scheduler_config=dict(self.scheduler.config), latents=self.vae is not None
        )
        diffusion.alphas_cumprod = diffusion.alphas_cumprod.to(device)
        autoencoder = None
        if self.vae is not None:
            mean, std = self.config.latents_mean, self.config.latents_std
            autoencoder = VideoAutoencoder(self.vae, torch.tensor(mean).to(device), torch.tensor(std).to(device))
        return CaptionedDiffusion(diffusion, encoder, autoencoder).eval()
