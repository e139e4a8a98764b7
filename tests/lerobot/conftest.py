"""The pipeline and the folders of frames that the tests of this folder share with others."""

from tests.svd.conftest import dataset, pipeline_dir  # noqa: F401  (fixtures)
