"""The pipeline that the tests of this folder share."""

import pytest

from tests.tiny_svd import tiny_svd_pipeline


@pytest.fixture(scope="module")
def pipeline():
    """Not to be changed by a test; those that change weights build their own."""
    return tiny_svd_pipeline()


@pytest.fixture
def scheduler(pipeline):
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(25)
    return scheduler
