"""The clips that the tests of this folder share."""

from pathlib import Path

import pytest

from tests.text2video.conftest import data  # noqa: F401  (a fixture)
from tests.tiny_models import tiny_stable_diffusion

V2 = {"attention_head_dim": (2, 4), "use_linear_projection": True}  # of Stable Diffusion 2


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sd")
    return {
        "v1": tiny_stable_diffusion(folder / "v1"),
        "v2": tiny_stable_diffusion(folder / "v2", unet=V2, scheduler={"prediction_type": "v_prediction"}),
    }
