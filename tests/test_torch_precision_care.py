"""Products in a lower precision when weights change, something is raised, or a batch says nothing."""

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")

import torch
from doubles import run_on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from test_torch_precision import Cancelling, classification
from torch import nn
from torch_problems import every_device, mlp, normal

import hessops_torch
from hessops_torch import SplitLoss, hessian


class Failing(nn.Module):
    """Fails in its n-th rounded forward pass."""

    def __init__(self):
        super().__init__()
        self.net = mlp(8, outputs=3)
        self.error, self.left = None, 0

    def forward(self, x):
        if torch.is_autocast_enabled(x.device.type) and self.error is not None:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return self.net(x)


@every_device
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=repr)
def test_what_was_interrupted_does_not_pass_for_exact(device, error):
    model, loss, batches = classification(device, make=Failing)
    operator = hessian(model, loss, batches, precision="bf16")
    before = copy.deepcopy(model.state_dict())
    model.error = error
    with pytest.raises(type(error)):
        operator.to_dense()
    assert not torch.is_autocast_enabled(device)
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())
    model.error = None
    assert operator.product_error >= 2.0**-8


@every_device
@pytest.mark.parametrize("error", [TypeError("of it"), ArithmeticError("of it")], ids=repr)
def test_whatever_lower_precision_raises_exact_products_do_without(device, error):
    model, loss, batches = classification(device, make=Failing)
    operator = hessian(model, loss, batches, precision="bf16")
    model.error = error
    with pytest.warns(RuntimeWarning, match=r"'bf16' fails .*of it.*float32 instead"):
        found = operator.to_dense()
    assert torch.equal(found, hessian(model, loss, batches).to_dense())


@every_device
@pytest.mark.parametrize("parts", [False, True])
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 3.0, 10.0]))
def test_errors_are_those_of_the_weights_as_they_are(device, parts, seed, scale):
    model, loss, batches = classification(device, seed)
    operator = hessian(model, loss, batches, precision="bf16")
    if parts:
        operator = hessops_torch.block_diagonal(operator, each="tensor")
    operator @ normal(0, operator.shape[0], 2, device=device).float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    fresh = hessian(model, loss, batches, precision="bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # It may be given up, or not.
        assert operator.product_error == fresh.product_error
        assert operator.precision == fresh.precision
        if parts:
            fresh = hessops_torch.block_diagonal(fresh, each="tensor")
        V = normal(1, operator.shape[0], 2, device=device).float()
        assert torch.equal(operator @ V, fresh @ V)
    exact = hessian(model, loss, batches)
    if parts:
        exact = hessops_torch.block_diagonal(exact, each="tensor")
    assert torch.equal(operator.in_full_precision() @ V, exact @ V)


@every_device
def test_micro_batches_that_do_not_take_part_say_nothing(device):
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.other = nn.Linear(3, 3), Cancelling()

        def forward(self, x):
            return self.first(x) if len(x) == 5 else self.other(x)

    arguments = classification(device, make=Either)
    operator = hessian(*arguments, params="other.*", precision="bf16")
    with pytest.warns(RuntimeWarning, match="instead"):
        found = operator.to_dense()
    assert torch.equal(found, hessian(*arguments, params="other.*").to_dense())


@every_device
def test_a_rounded_loss_is_refused_with_what_to_do(device):
    model, _, batches = classification(device)
    arguments = model, lambda m, b: (m(b[0]).square().sum(), len(b[0])), batches
    with pytest.raises(ValueError, match=r"precision='bf16'.*model\(x\)\.float\(\).*SplitLoss"):
        hessian(*arguments, precision="bf16")
    split = SplitLoss(lambda m, b: m(b[0]), lambda o, b: (o.square().sum(), len(b[0])))
    assert hessian(model, split, batches, precision="bf16").product_error > 0


@pytest.mark.parametrize("changed", [(0, 1), (1,)])
def test_ranks_look_again_together(changed):
    """Of three, of which the last has no data; also where the weights of one alone have changed."""
    model, loss, batches = classification("cpu")

    def program(comm):
        mine = copy.deepcopy(model)
        H = hessian(
            mine, loss, [[batches[0]], batches[1:], []][comm.rank], precision="bf16", comm=comm
        )
        V = torch.ones(H.shape[0], 2)
        before = H.product_error, H @ V
        with torch.no_grad():
            if comm.rank in changed or len(changed) > 1:
                mine[0].weight.mul_(3.0)
        H @ V
        return before[0], H.product_error, H.precision

    found = run_on_ranks(program, 3)
    assert len(set(found)) == 1
    assert found[0][0] != found[0][1]


@every_device
@pytest.mark.parametrize("make", [lambda: mlp(8, outputs=3), Cancelling], ids=["kept", "given up"])
def test_threads_agree_on_the_first_product(device, make):
    arguments = classification(device, make=make)
    operator = hessian(*arguments, precision="bf16")
    V = normal(1, operator.shape[0], 2, device=device).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: operator @ V, range(8)))
    assert all(torch.equal(found[0], product) for product in found)
    assert torch.equal(found[0], operator @ V)
    assert (operator.product_error > 0) == (operator.precision == "bf16")


@every_device
def test_a_warning_made_an_error_leaves_exact_products(device):
    arguments = classification(device, make=Cancelling)
    operator = hessian(*arguments, precision="bf16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="instead"):
            operator.to_dense()
        assert operator.precision is None
        assert torch.equal(operator.to_dense(), hessian(*arguments).to_dense())


@every_device
def test_errors_are_measured_in_inference_mode(device):
    arguments = classification(device)
    with torch.inference_mode():
        operator = hessian(*arguments, precision="bf16")
        found = operator.product_error
    assert found == hessian(*arguments, precision="bf16").product_error > 0
