"""What a hostile file, name or text can do to the scripts, and what of your secrets a run keeps.

    python -m tests.security [--json FILE]

Counts unsafe calls in the code, hostile checkpoints and models that are executed, fuzzed prompts whose files leave the
output folder, inputs whose control characters reach the terminal, and secrets in the files of a run. All must be 0. If
pip-audit is there (`make audit` installs it) also the known vulnerabilities of the installed packages.
"""
