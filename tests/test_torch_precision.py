"""Products in a lower precision on request: how far they are off is measured, and told by all verbs."""

import copy
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from doubles import run_on_ranks
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch_problems import Encoder, build, convolutional, cut, every_device, integers, mlp, normal

import hessops
import hessops_torch
from hessops_torch import SplitLoss, hessian

OPERATORS = {
    name: getattr(hessops_torch, name)
    for name in (
        "hessian", "ggn", "fisher", "empirical_fisher", "gradient_covariance", "residual_curvature",
    )
}  # fmt: skip

LOSS = nn.CrossEntropyLoss()
SWITCHES = [
    torch.backends.cuda.matmul,
    torch.backends.cudnn.conv,
    torch.backends.mkldnn.matmul,
    torch.backends.mkldnn.conv,
]


def classification(device, seed=0, make=lambda: mlp(8, outputs=3)):
    model = build(make, seed, device, torch.float32).eval()
    x, y = normal(seed + 1, 12, 3, device=device).float(), integers(seed + 2, 3, 12, device=device)
    return model, LOSS, cut([5, 4, 3], x, y)


def images(device, seed=0):
    model = build(lambda: convolutional(4), seed, device, torch.float32).eval()
    x, y = normal(seed, 8, 1, 4, 4, device=device).float(), integers(seed, 3, 8, device=device)
    return model, LOSS, cut([5, 3], x, y)


def sentences(device, seed=0):
    model = build(lambda: Encoder(vocabulary=5, width=8), seed, device, torch.float32).eval()
    tokens = integers(seed, 5, 6, 4, device=device)

    def loss(model, batch):
        logits = model(batch)
        return F.cross_entropy(
            logits.flatten(0, 1), batch.flatten(), reduction="sum"
        ), batch.numel()

    return model, loss, [tokens[:4], tokens[4:]]


def off(found, exact):
    return float(torch.linalg.norm(found - exact) / torch.linalg.norm(exact))


class Cancelling(nn.Module):
    """Small differences of large numbers, of which bfloat16 leaves nothing."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        outputs = self.linear(x + 1000.0)
        return outputs - outputs.mean(0)


@every_device
@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_products_are_off_by_what_is_told(device, make, seed):
    arguments = classification(device, seed)
    operator, exact = make(*arguments, precision="bf16"), make(*arguments)
    # Given up else, with a warning: of few parameters the difference H - G may be rounding.
    assume(operator.product_error > 0)
    V = normal(seed + 3, operator.shape[0], 16, device=device).float()
    found, expected = operator @ V, exact @ V
    # Of 16 vectors and all the data, where three and the first micro-batch were looked at.
    assert 0 < off(found, expected) <= 3 * operator.product_error
    assert 2.0**-8 <= operator.product_error <= 2.0**-3.5
    # Rounded alike, so the sum of terms is the operator.
    terms = sum(term @ V for term in operator.terms())
    assert off(terms, found) < 1e-4


@every_device
@pytest.mark.parametrize("problem", [classification, images, sentences])
@pytest.mark.parametrize(
    "product", ["backward", "forward-over-reverse", "reverse-over-forward", "auto"]
)
def test_every_way_to_multiply_is_rounded(device, problem, product):
    arguments = problem(device)
    with warnings.catch_warnings():
        # What cannot go another way goes the plain one, as in full precision.
        warnings.filterwarnings("ignore", "product=", RuntimeWarning)
        operator = hessian(*arguments, precision="bf16", product=product)
        V = normal(5, operator.shape[0], 4, device=device).float()
        assert 1e-4 < off(operator @ V, hessian(*arguments) @ V) <= 3 * operator.product_error
    assert operator.precision == "bf16"


@every_device
@pytest.mark.parametrize(
    ("problem", "product"),
    # PyTorch 2.13 casts a convolution's weights in forward mode and not what it convolves.
    [
        (classification, "backward"),
        (classification, "forward"),
        (images, "backward"),
        (images, None),
    ],
)
def test_jacobians_of_both_kinds_are_rounded(device, problem, product):
    arguments = problem(device)
    operator = hessops_torch.ggn(*arguments, precision="bf16", product=product)
    V = normal(5, operator.shape[0], 4, device=device).float()
    assert 1e-4 < off(operator @ V, hessops_torch.ggn(*arguments) @ V) <= 3 * operator.product_error


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_eigenvalues_are_within_their_bounds(seed):
    arguments = classification("cpu", seed)
    operator = hessian(*arguments, precision="bf16")
    result = hessops.eigsh(operator, k=3, rng=seed)
    exact = np.linalg.eigvalsh(hessian(*arguments).to_dense().double().numpy())
    distance = np.abs(exact[:, None] - result.eigenvalues).min(axis=0)
    assert np.all(distance <= result.error_bounds)
    assert np.all(result.error_bounds >= 2 * operator.product_error * exact.max() * 0.9)


@every_device
def test_full_precision_is_that_of_an_operator_without(device):
    arguments = classification(device)
    operator = hessian(*arguments, precision="bf16", weight_decay=0.1)
    plain = hessian(*arguments, weight_decay=0.1)
    assert torch.equal(operator.in_full_precision().to_dense(), plain.to_dense())
    assert operator.in_full_precision().product_error == plain.product_error == 0
    assert operator.precision == "bf16"
    assert plain.precision is None
    assert "bf16" in repr(operator)
    assert "bf16" not in repr(operator.in_full_precision())


@every_device
@pytest.mark.parametrize("make", [hessian, hessops_torch.ggn, hessops_torch.empirical_fisher])
def test_what_is_too_far_off_is_given_up(device, make):
    arguments = classification(device, make=Cancelling)
    operator = make(*arguments, precision="bf16")
    with pytest.warns(
        RuntimeWarning,
        match=r"'bf16' (gives products .* off by .* %|fails .NotSelf).*float32 instead",
    ):
        found = operator.to_dense()
    assert torch.equal(found, make(*arguments).to_dense())
    assert operator.precision is None
    assert operator.product_error == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        operator.to_dense()


@every_device
def test_switches_of_training_change_nothing(device):
    seen = []

    class Looking(nn.Linear):
        def forward(self, x):
            seen.append([switch.fp32_precision for switch in SWITCHES])
            if x.isnan().any():
                raise ValueError("NaN")
            return super().forward(x)

    arguments = classification(device, make=lambda: Looking(3, 3))
    plain = hessian(*arguments).to_dense()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        states = [switch.fp32_precision for switch in SWITCHES]
        seen.clear()
        assert torch.equal(hessian(*arguments).to_dense(), plain)
        used = slice(0, 2) if device == "cuda" else slice(2, 4)
        assert {state for states in seen for state in states[used]} == {"ieee"}
        with pytest.raises(ValueError, match="NaN"):
            hessian(arguments[0], LOSS, (torch.full((2, 3), torch.nan, device=device),
                                         integers(0, 3, 2, device=device)))  # fmt: skip
        assert [switch.fp32_precision for switch in SWITCHES] == states
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@every_device
def test_model_and_loss_are_left_as_they_were(device):
    model, _, batches = classification(device)
    loss = SplitLoss(lambda m, b: m(b[0]), LOSS, lambda b: b[1])
    unsplit = SplitLoss(
        lambda m, b: m(b[0]), lambda o, b: (F.cross_entropy(o, b[1], reduction="sum"), len(o))
    )
    before = copy.deepcopy(model.state_dict())
    dtypes = set()
    handle = model.register_forward_hook(lambda _m, _i, out: dtypes.add(out.dtype))
    for given_loss in (loss, unsplit):
        plain = hessian(model, given_loss, batches)
        expected = plain.to_dense()
        rounded = hessian(model, given_loss, batches, precision="bf16")
        assert off(rounded.to_dense(), expected) > 1e-4
        # The same loss object serves both.
        assert torch.equal(hessian(model, given_loss, batches).to_dense(), expected)
    handle.remove()
    assert dtypes == {torch.float32, torch.bfloat16}
    assert not torch.is_autocast_enabled(device)
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())


def test_ranks_tell_the_same():
    model, loss, batches = classification("cpu")

    def program(comm):
        H = hessian(
            copy.deepcopy(model),
            loss,
            hessops_torch.shard(batches, comm),
            precision="bf16",
            comm=comm,
        )
        errors = {H.product_error, *(term.product_error for term in H.terms())}
        return errors, hessops.eigsh(H, k=2, rng=0).eigenvalues

    (first, values), (second, others) = run_on_ranks(program, 2)
    assert first == second
    assert len(first) == 1
    np.testing.assert_array_equal(values, others)


@every_device
def test_parts_and_compositions_have_an_error(device):
    H = hessian(*classification(device), precision="bf16")
    blocks = hessops_torch.block_diagonal(H, each="tensor")
    part = H.restricted("0.*")
    assert blocks.product_error == H.product_error > 0
    assert part.product_error > 0
    assert part.precision == "bf16"
    assert (H - H.in_full_precision()).product_error == H.product_error
    metric = hessops_torch.preconditioned(H, torch.ones(H.shape[0], device=device))
    assert metric.product_error == H.product_error


def test_verbs_without_an_error_for_it_say_so():
    arguments = classification("cpu")
    H, G = hessian(*arguments, precision="bf16"), hessops_torch.ggn(*arguments, precision="bf16")
    with pytest.raises(
        ValueError, match=r"hessian_trace knows no error .*'bf16'.*in_full_precision"
    ):
        hessops_torch.hessian_trace(H, max_products=16)
    with pytest.raises(ValueError, match=r"gauss_newton_trace knows no error .*in_full_precision"):
        hessops_torch.gauss_newton_trace(G)
    with pytest.raises(TypeError, match=r"in the precision of the model.*method='probes'"):
        hessops_torch.layer_curvature(H, method="gauss-newton")
    with pytest.raises(ValueError, match=r"tol=1e-06 is not to be had: .* off by 0.0"):
        hessops.eigsh(H, k=2, tol=1e-6)
    assert hessops_torch.layer_curvature(H, max_products=16, rng=0).num_products > 0


@pytest.mark.parametrize(
    ("precision", "sentence"),
    [
        ("tf32", r"'tf32' needs an NVIDIA GPU .*on the cpu.*use 'bf16'"),
        ("fp16", r"precision='fp16' is unknown; choose one of tf32, bf16"),
        (torch.bfloat16, r"precision=torch.bfloat16 is unknown"),
    ],
)
def test_what_is_not_to_be_had_is_refused(precision, sentence):
    with pytest.raises(ValueError, match=sentence):
        hessian(*classification("cpu"), precision=precision)


def test_double_precision_is_not_rounded_in_silence():
    model, loss, batches = classification("cpu")
    doubles = [(x.double(), y) for x, y in batches]
    with pytest.raises(ValueError, match=r"rounds what is in torch.float32.*in torch.float64"):
        hessian(model.double(), loss, doubles, precision="bf16")


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="no TF32"
)
@pytest.mark.parametrize("problem", [images, sentences])
def test_tf32_on_a_gpu(problem):
    arguments = problem("cuda")
    operator, exact = hessian(*arguments, precision="tf32"), hessian(*arguments)
    V = normal(5, operator.shape[0], 8, device="cuda").float()
    assert off(operator @ V, exact @ V) <= 3 * operator.product_error
    assert 2.0**-11 <= operator.product_error <= 2.0**-5
