"""Bad inputs, a row for each: what a user may have, and what the scripts must make of it.

    python -m tests.badinput [--json FILE] [--only V1 V2]

A row makes its input in a folder of its own, runs the scripts on it in this process, and holds if they do what it says:
take it and get it right, or end with status 2 and one line that names the flag or the file. V are videos, C captions,
I images, K checkpoints and models, A values on the command line, P paths.
"""

from tests.badinput import arguments, captions, checkpoints, images, paths, videos  # noqa: F401  (they fill ROWS)
from tests.badinput.place import ROWS, Place, Shared  # noqa: F401
