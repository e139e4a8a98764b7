"""The clips that the tests of this folder share."""

from tests.text2video.conftest import data  # noqa: F401  (a fixture)
