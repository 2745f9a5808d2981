"""A program that runs another one in a child process and kills it, again and again, until it is done.

Children are forks of a process that has imported everything, so that a life costs no start. Called as
``python killer.py PROGRAM FOLDER KILLS``: ``run(folder)`` of the file PROGRAM is run in FOLDER,
killed after random times at most KILLS times, and then left to end. Prints a JSON list of what FOLDER
held at each kill.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def main(program: str, folder: str, kills: str) -> None:
    run = imported(program).run
    chance = random.Random(0)
    longest, held = 0.1, []
    for _ in range(int(kills)):
        child = started(run, folder)
        if killed(child, after=chance.uniform(0.0, longest)):
            held.append(sorted(path.name for path in Path(folder).glob("*")))
        else:
            break
        # Replays take longer as the record grows: every life should have a chance to add to it.
        if len(held) > 1 and len(held[-1]) <= len(held[-2]):
            longest *= 2
    assert ended(started(run, folder)) == 0
    sys.stdout.write(json.dumps(held))


def imported(program: str):
    spec = importlib.util.spec_from_file_location("program", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(run, folder: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            run(folder)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return child


def killed(child: int, after: float) -> bool:
    """Kill a child after some seconds, and tell whether it was still alive."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        time.sleep(0.001)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
    os.kill(child, signal.SIGKILL)
    code = ended(child)
    assert code in {0, -signal.SIGKILL}
    return code != 0


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
