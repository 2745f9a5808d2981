"""Messages name what the user called and gave, and say what to do; what they say to do works."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch_problems import seeded

from hessops_torch import (
    SplitLoss,
    empirical_fisher,
    fisher,
    ggn,
    gradient_covariance,
    hessian,
    jacobian,
    ntk,
    residual_curvature,
)


class WithHidden(nn.Module):
    """A model that returns a tuple, as recurrent layers do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x), x


def inputs(*shape):
    with seeded(0):
        return torch.randn(*shape)


@pytest.mark.parametrize("make", [ggn, empirical_fisher, gradient_covariance])
def test_what_was_called_is_named(make):
    x = inputs(4, 3)

    def loss(model, batch):
        return model(batch[0]).square().sum(), 4

    with pytest.raises(TypeError, match=rf"^{make.__name__} is not for this loss: .*SplitLoss"):
        make(nn.Linear(3, 2), loss, [(x, x)])


def test_others_are_named_in_neutral_words():
    x = inputs(4, 3)

    def loss(model, batch):
        return model(batch[0]).square().sum(), 4

    for make, words in (
        (fisher, "of this loss it is not known"),
        (residual_curvature, "the residual"),
    ):
        with pytest.raises(TypeError, match=f"^{words}"):
            make(nn.Linear(3, 2), loss, [(x, x)])


@pytest.mark.parametrize("make", [jacobian, ntk])
@pytest.mark.parametrize("paired", [False, True])
def test_a_model_that_returns_a_tuple_has_a_jacobian_by_forward(make, paired):
    model, x = WithHidden(), inputs(4, 3)
    data = [(x, x) if paired else x]
    advice = r"returned a tuple of 2, not a tensor; pass forward=, a function of \(model, batch\)"
    with pytest.raises(TypeError, match=advice):
        make(model, data)
    operator = make(
        model, data, forward=lambda model, batch: model(batch[0] if paired else batch)[0]
    )
    torch.testing.assert_close(operator.to_dense(), make(model.layer, data).to_dense())


def test_a_forward_that_returns_a_tuple_is_told_so():
    with pytest.raises(TypeError, match=r"the forward function returned a tuple of 2, .* alone"):
        jacobian(WithHidden(), [inputs(4, 3)], forward=lambda model, batch: model(batch))


def test_a_criterion_of_a_model_that_returns_a_tuple_goes_by_split_loss():
    model, batch = WithHidden(), (inputs(4, 3), inputs(4, 2))
    with pytest.raises(TypeError, match=r"model returned a tuple of 2.*SplitLoss\(forward, crit"):
        ggn(model, nn.MSELoss(), [batch])
    split = SplitLoss(lambda f, b: f(b[0])[0], nn.MSELoss(), target=lambda b: b[1])
    expected = ggn(model.layer, nn.MSELoss(), [batch]).to_dense()
    torch.testing.assert_close(ggn(model, split, [batch]).to_dense(), expected)


@pytest.mark.parametrize("make", [hessian, ggn])
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_target_that_is_no_tensor(make, kind):
    model, x = nn.Linear(3, 2), inputs(4, 3)
    message = (
        rf"the target is a {kind.__name__} of 4, and CrossEntropyLoss takes a tensor: .*as_tensor"
    )
    with pytest.raises(TypeError, match=message):
        make(model, nn.CrossEntropyLoss(), [(x, kind([0, 1, 1, 0]))])
    rows = kind(inputs(4, 2))
    with pytest.raises(TypeError, match=r"MSELoss takes a tensor: convert it by torch\.stack"):
        make(model, nn.MSELoss(), [(x, rows)])
    assert make(model, nn.MSELoss(), [(x, torch.stack(tuple(rows)))]).shape == (8, 8)


def test_a_criterion_of_the_users_own_may_take_a_list():
    class Pairs(nn.Module):
        reduction = "mean"

        def forward(self, outputs, target):
            values = (outputs - torch.stack(target, dim=1)).square()
            return values if self.reduction == "none" else values.mean()

    y = inputs(4, 2)
    found = hessian(nn.Linear(3, 2), Pairs(), [(inputs(4, 3), list(y.T))])
    assert found.shape == (8, 8)


@pytest.mark.parametrize("make", [hessian, ggn])
def test_a_target_with_more_axes_than_the_outputs(make):
    """PyTorch's own message says 'multi-target not supported', and no more."""
    model, x = nn.Linear(3, 5), inputs(4, 3)
    classes = torch.arange(4)
    message = r"multi-target not supported; the target has an axis .*target\.squeeze\(1\)"
    for target in (classes[:, None], classes[:, None].expand(4, 6)):
        with pytest.raises(RuntimeError, match=message):
            make(model, nn.CrossEntropyLoss(), [(x, target)])
    with pytest.raises(RuntimeError, match=r"class probabilities.*; .*target\.argmax\(1\)"):
        make(model, nn.CrossEntropyLoss(), [(x, torch.eye(5, dtype=torch.long)[classes])])
    assert make(model, nn.CrossEntropyLoss(), [(x, classes)]).shape == (20, 20)


@pytest.mark.parametrize("make", [hessian, ggn])
def test_outputs_whose_classes_are_the_last_axis(make):
    model, tokens = nn.Embedding(5, 5), torch.arange(15).reshape(3, 5)[:, :4] % 5
    with pytest.raises(RuntimeError, match=r"xpected target size.*transpose\(1, 2\) the outputs"):
        make(model, nn.CrossEntropyLoss(), [(tokens, tokens)])
    split = SplitLoss(
        lambda f, b: f(b[0]).transpose(1, 2), nn.CrossEntropyLoss(), target=lambda b: b[1]
    )
    assert make(model, split, [(tokens, tokens)]).shape == (25, 25)


@pytest.mark.parametrize(
    "error", [RuntimeError(), ValueError("\n"), NotImplementedError()], ids=repr
)
def test_an_error_without_a_message_has_a_name(error):
    class Raises(nn.Linear):
        def forward(self, _x):
            raise error

    with pytest.raises(Exception, match=rf"cannot be applied .*: {type(error).__name__}$"):
        hessian(Raises(3, 2), nn.MSELoss(), [(inputs(4, 3), inputs(4, 2))])
