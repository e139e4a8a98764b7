"""Known vulnerabilities of the packages that are installed beside this Python: python -m tests.security.audit

pip-audit asks PyPI; `make audit` installs it into a folder of its own, .audit, where it changes no package of ours.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from utils.cli import printable

ROOT = Path(__file__).parents[2]


class NotLookedUp(Exception):
    """Why nothing is known of any package."""


def vulnerabilities() -> tuple[list[str], list[str]]:
    """("package: name of a vulnerability", packages that PyPI does not know, such as a torch for CPUs alone).

    Raises NotLookedUp.
    """
    tool = shutil.which("pip-audit", path=ROOT / ".audit" / "bin") or shutil.which("pip-audit")
    if tool is None:
        raise NotLookedUp("pip-audit is not installed, see make audit")
    command = [tool, "--path", sysconfig.get_path("purelib"), "--format", "json", "--progress-spinner", "off"]
    process = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(process.stdout)["dependencies"]
    except (ValueError, KeyError):
        raise NotLookedUp(f"pip-audit says {' '.join(process.stderr.split())[-200:]}") from None
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if len(unknown) == len(packages):
        raise NotLookedUp("this index of packages keeps no list of vulnerabilities; ask pypi.org itself")
    return [f"{package['name']}: {known['id']}" for package in packages for known in package.get("vulns", ())], unknown


if __name__ == "__main__":
    try:
        known, unknown = vulnerabilities()
    except NotLookedUp as reason:
        sys.exit(f"not looked up: {printable(reason)}")
    print("".join(f"{each}\n" for each in known), end="")
    print(f"{len(known)} known vulnerabilities; not looked up: {', '.join(unknown) or 'none'}")
    sys.exit(int(bool(known)))
