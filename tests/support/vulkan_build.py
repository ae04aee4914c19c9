"""Builds the Vulkan backend for the tests, as `edgellm gpu setup` does, into build/vulkan; once.

Where something is missing for it, says so and ends well: the tests of group "vulkan" are skipped then, with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys

from support.lavapipe import HOME, backend


def main() -> int:
    """Status of the build; 0 where there is nothing to do."""
    from edgellm_gguf.device_build import toolchain

    if backend() is not None:
        return 0
    if missing := [need.text for need in (*toolchain.common(), *toolchain.vulkan())]:
        print(f"No Vulkan backend is built, so tests with one are skipped: no {'; no '.join(missing)}.", flush=True)
        return 0
    command = [sys.executable, "-m", "edgellm", "gpu", "setup", "--vulkan"]
    return subprocess.run(command, env={**os.environ, "EDGELLM_HOME": str(HOME)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
