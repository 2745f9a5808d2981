"""Batches are copied to a device one ahead of the one in use, and from pinned memory."""

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hessops_torch
from hessops_torch.data import copies


@pytest.mark.parametrize(("device", "in_front"), [("cpu", 0), ("cuda", 1)])
@given(count=st.integers(0, 5))
def test_copies_are_begun_ahead_and_in_order(device, in_front, count):
    # A device by its name alone: no copy is made.
    begun, used = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            copies, "to_device", lambda tensor, device: begun.append(int(tensor)) or tensor
        )
        for (part,) in copies.ahead(
            [(torch.tensor(i),) for i in range(count)], torch.device(device)
        ):
            used.append(int(part))
            assert len(begun) == min(len(used) + in_front, count)
    assert begun == used == list(range(count))


def test_what_is_on_the_device_is_not_copied():
    tensor = torch.ones(3)
    assert copies.to_device(tensor, torch.device("cpu")) is tensor
    with torch.inference_mode():
        made = torch.ones(3)
    assert not copies.to_device(made, torch.device("cpu")).is_inference()


@pytest.mark.gpu
@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.ones(3, 2),
        lambda: torch.ones(0, 2),
        lambda: torch.ones(3, 2).pin_memory(),
        lambda: torch.ones(3, 2).T,
        lambda: torch.ones(3, 2).to_sparse(),
        lambda: torch.ones(3, 2, device="cuda"),
    ],
)
def test_all_kinds_of_tensors_reach_the_device(made):
    tensor = made()
    moved = copies.to_device(tensor, torch.device("cuda"))
    assert moved.is_cuda
    assert torch.equal(moved.cpu().to_dense(), tensor.cpu().to_dense())


@pytest.mark.gpu
def test_products_of_data_read_again_are_those_of_resident_data(monkeypatch):
    torch.manual_seed(0)
    model = nn.Linear(6, 4).cuda().double()
    batches = [(torch.randn(512, 6).double(), torch.randn(512, 4).double()) for _ in range(8)]
    resident = hessops_torch.hessian(model, nn.MSELoss(), batches)
    assert resident.objective.batches.resident is not None
    monkeypatch.setattr("hessops_torch.objective.objective.free_memory", lambda _: 0)
    again = hessops_torch.hessian(model, nn.MSELoss(), batches)
    assert again.objective.batches.resident is None
    torch.testing.assert_close(again.to_dense(), resident.to_dense(), rtol=1e-12, atol=1e-14)
