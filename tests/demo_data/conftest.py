"""The demo dataset that the tests of this folder share."""

import pytest

from tests.data.folders import demo


@pytest.fixture(scope="module")
def demo_dir(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("data") / "demo")
