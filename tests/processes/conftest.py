"""The data and the models that the tests of this folder share."""

from tests.conditions.conftest import data as known_clips  # noqa: F401  (a fixture)
from tests.latents.conftest import pipelines  # noqa: F401  (a fixture)
from tests.svd.conftest import dataset, pipeline_dir  # noqa: F401  (fixtures)
from tests.text2video.conftest import data  # noqa: F401  (a fixture)
