"""See tests/badinput/__init__.py."""

import sys

from tests.badinput import ROWS, Place, Shared
from tests.table import run_table

if __name__ == "__main__":
    sys.exit(run_table("Give the scripts bad inputs and see what they make of them.", ROWS, "VCIKAP", Shared, Place))
