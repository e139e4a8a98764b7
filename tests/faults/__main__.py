"""See tests/faults/__init__.py."""

import sys

from tests.faults import ROWS, Place, Shared
from tests.table import run_table

if __name__ == "__main__":
    sys.exit(run_table("Let faults befall the scripts and see what is lost.", ROWS, "F", Shared, Place))
