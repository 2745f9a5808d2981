"""Programs on several ranks, started as users start them, by mpirun; and ended, whatever they do."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).with_name("mpi_programs.py")
# Of the launcher beside the interpreter, which is that of the extra `mpi`, or of any that is there.
LAUNCHER = shutil.which("mpirun", path=Path(sys.executable).parent) or shutil.which("mpirun")
# A rank has to load Python first, on a machine that others may use.
TIMEOUT = 240.0

needs_mpi = pytest.mark.skipif(
    LAUNCHER is None or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and mpirun, the extra 'mpi'",
)

# Open MPI counts cores, and refuses the root of a container.
_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    # Ranks that wait leave the cores, which are fewer, to those that work.
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass
class Ended:
    """How a job ended."""

    code: int
    out: str
    err: str
    at: float

    @property
    def answer(self):
        """What the one rank that prints has printed, as JSON."""
        assert self.code == 0, self.err
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def words(self):
        """What launcher and ranks have said; launchers complain on one stream or on the other."""
        return self.out + self.err

    @property
    def seconds_after_fault(self):
        """How long the job went on after a rank had said that it goes wrong."""
        return self.at - float(re.search(r"goes wrong at (\S+)", self.err)[1])


def start(size, *command, **environment):
    """Start a command on so many ranks."""
    return subprocess.Popen(
        [LAUNCHER, "-n", str(size), *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **_ENVIRONMENT, **environment},
        start_new_session=True,
    )


def end(job, timeout=TIMEOUT):
    """Wait for a job; one that does not end is killed, and fails the test."""
    try:
        out, err = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        out, err = job.communicate()
        pytest.fail(f"the ranks did not end within {timeout} s: {out}{err}")
    return Ended(job.returncode, out, err, time.time())


def run(size, *command, timeout=TIMEOUT, **environment):
    return end(start(size, *command, **environment), timeout)


def run_program(size, name, *arguments, timeout=TIMEOUT, **environment):
    """Run a function of mpi_programs.py on so many ranks."""
    command = [sys.executable, PROGRAMS, name, *arguments]
    return run(size, *command, timeout=timeout, **environment)
