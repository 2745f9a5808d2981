"""The command line, run from outside as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

HESSOPS = [sys.executable, "-c", "from hessops.cli import main; main()"]


def run(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HESSOPS, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "MPLBACKEND": "agg"},
    )
