"""A program that runs another one in a child process and kills it, again and again.

Children are forks of a process that has imported everything, so that a life costs no start. Called as
``python killer.py PROGRAM KILLS``: ``run("killed")`` of the file PROGRAM is killed so many times, and
then left to end, as ``run("plain")`` is. Prints a JSON list of what the folder ``killed`` held after
each kill.
"""

import importlib.util
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

_POLL = 0.001
_NEW_FILES = 5
_SECONDS = 0.02


def main(program: str, kills: str) -> None:
    run, folder = imported(program).run, "killed"
    Path(folder).mkdir()
    chance = random.Random(0)
    held = []
    for _ in range(int(kills)):
        child = started(run, folder)
        # At once, while it reads back what there is, or after some new products.
        wait_for(child, folder, len(names(folder)) + chance.randint(0, _NEW_FILES))
        time.sleep(chance.uniform(0.0, _SECONDS))
        os.kill(child, signal.SIGKILL)
        if exit_code(child) == 0:
            break
        held.append(names(folder))
    code = exit_code(started(run, folder)) or exit_code(started(run, "plain"))
    sys.stdout.write(json.dumps(held))
    sys.exit(code)


def imported(program: str):
    spec = importlib.util.spec_from_file_location("program", program)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def started(run, folder: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            run(folder)
        except BaseException as error:  # of a fork, nothing else may run on
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    return child


def wait_for(child: int, folder: str, files: int) -> None:
    """Wait until there are so many files, or the child has ended by itself."""
    while len(names(folder)) < files:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(_POLL)


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
