"""The processes of torchrun as ranks, by gloo: started as users start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed")
if not torch.distributed.is_available():
    pytest.skip("needs a PyTorch with torch.distributed", allow_module_level=True)

import hessops  # noqa: E402
import hessops_torch  # noqa: E402

PROGRAM = Path(__file__).with_name("torchrun_program.py")


def torchrun(size, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={size}", str(PROGRAM), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_processes_have_the_answer_of_one():
    from torchrun_program import answers

    ended = torchrun(3)
    assert ended.returncode == 0, ended.stderr
    found, serial = json.loads(ended.stdout.splitlines()[-1]), answers(hessops.SerialComm())
    assert found["trace"] == pytest.approx(serial["trace"], rel=1e-12)
    assert found["eigenvalues"] == pytest.approx(serial["eigenvalues"], rel=1e-12)
    assert found["split"] == pytest.approx(serial["eigenvalues"], rel=1e-12)
    assert found["repr"] == serial["repr"]


FAULTS = {
    "fail": "KeyError: 'what process 1 has to say'",
    "hang": "Timed out",
    "kill": "SIGKILL",
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_in_one_process_ends_all(what):
    ended = torchrun(2, what)
    assert ended.returncode != 0
    assert FAULTS[what].lower() in ended.stderr.lower()
    assert "nothing has gone wrong" not in ended.stdout + ended.stderr


def test_without_torchrun_there_is_one_process():
    assert hessops_torch.distributed_comm() == hessops.SerialComm()
    assert hessops_torch.rank_device(hessops.SerialComm()).type in {"cpu", "cuda"}
    with pytest.raises(RuntimeError, match="torchrun"):
        hessops_torch.TorchComm()
    with pytest.raises(ValueError, match="timeout=0"):
        hessops_torch.distributed_comm(timeout=0)


@pytest.mark.parametrize(("local", "gpus", "index"), [(0, 1, 0), (2, 4, 2), (5, 4, 1)])
def test_every_rank_gets_a_gpu_by_its_number_on_its_machine(local, gpus, index, monkeypatch):
    class Comm(hessops.SerialComm):
        def local_rank(self):
            return local

    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    device = hessops_torch.rank_device(Comm())
    assert device == torch.device("cuda", index)
    assert chosen == [device]
