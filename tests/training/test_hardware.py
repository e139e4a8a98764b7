"""What is chosen by the hardware."""

import pytest

from utils.cli import UserError
from utils.hardware import choose_precision


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="--mixed_precision: fp16 needs a GPU"):
        choose_precision("fp16", on_cpu=True)
