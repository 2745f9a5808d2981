"""Layers of every kind that networks are made of, against explicit dense Hessians."""

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_problems import (
    assert_is_hessian,
    build,
    dense_hessian,
    every_device,
    integers,
    normal,
)

from hessops_torch import hessian

PADDING = torch.tensor([[False, False, True], [False, True, True]])


def images(*shape):
    return lambda device: (normal(1, *shape, device=device),)


def between_convolutions(*layers):
    return lambda: nn.Sequential(
        nn.Conv2d(1, 2, 2), *(layer() for layer in layers), nn.Tanh(), nn.Conv2d(2, 1, 1)
    )


def between_linears(layer):
    return lambda: nn.Sequential(nn.Linear(3, 3), layer(), nn.Tanh(), nn.Linear(3, 2))


class Attends(nn.Module):
    """Self-attention by the module, with or without weights, masks and biases."""

    def __init__(self, *, need_weights=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, **options)
        self.need_weights = need_weights

    def forward(self, x, padding=None):
        options = {"need_weights": self.need_weights, "key_padding_mask": padding}
        return self.attention(x, x, x, **options)[0]


class Encodes(nn.Module):
    """The encoder, which packs padded sequences into nested tensors where it may."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 3, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=True)

    def forward(self, x, padding):
        return self.encoder(x, src_key_padding_mask=padding)


class Grouped(nn.Module):
    """Queries of two heads that share one head of keys and values, by the functional form."""

    def __init__(self, **options):
        super().__init__()
        self.queries, self.others = nn.Linear(4, 4), nn.Linear(4, 4)
        self.options = options

    def forward(self, x, mask=None):
        q = self.queries(x).unflatten(-1, (2, 2)).transpose(1, 2)
        k, v = (part.unsqueeze(1) for part in self.others(x).chunk(2, -1))
        options = {"attn_mask": mask, "enable_gqa": True, **self.options}
        return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(-2)


class Recurrent(nn.Module):
    """All outputs of a recurrent layer, of sequences of one length or packed."""

    def __init__(self, kind, *, lengths=None, **options):
        super().__init__()
        self.recurrent = kind(2, 2, batch_first=True, **options)
        self.lengths = lengths

    def forward(self, x):
        if self.lengths is None:
            return self.recurrent(x)[0]
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(self.lengths), batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)[0]


class Cells(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cell = kind(2, 2)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0] if isinstance(state, tuple) else state


def vectors(device):
    return (normal(1, 4, 3, device=device),)


def sequences(device, width=4):
    return (normal(1, 2, 3, width, device=device),)


def short_sequences(device):
    return sequences(device, 2)


def padded(device):
    return *sequences(device), PADDING.to(device)


def two_sequences(device):
    return *sequences(device), normal(2, 2, 2, 4, device=device)


def biased(device):
    return *sequences(device), normal(2, 2, 1, 3, 3, device=device)


PICTURES = images(3, 1, 4, 4)
CONVOLUTIONS = {
    "1-d, dilated": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2, dilation=2), nn.Tanh(), nn.Conv1d(3, 2, 1)),
        images(3, 2, 5),
    ),
    "3-d": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Conv3d(2, 1, 1)),
        images(2, 1, 3, 3, 3),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 2, 2, stride=2), nn.Tanh(), nn.Conv2d(2, 1, 2)),
        images(2, 2, 2, 2),
    ),
    "grouped, reflected": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 2, 2, groups=2, padding_mode="reflect", padding=1), nn.Tanh(),
            nn.Conv2d(2, 2, 2),
        ),
        images(2, 2, 3, 3),
    ),
    "maximum": (between_convolutions(lambda: nn.MaxPool2d(2)), PICTURES),
    "adaptive": (between_convolutions(lambda: nn.AdaptiveAvgPool2d(1)), PICTURES),
    "upsampled": (
        between_convolutions(lambda: nn.Upsample(scale_factor=2, mode="bilinear")), PICTURES,
    ),
}  # fmt: skip
NORMS = {
    "batch, 1-d": (between_linears(lambda: nn.BatchNorm1d(3)), vectors),
    "batch, 3-d": (
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Tanh(), nn.Conv3d(2, 1, 1)),
        images(2, 1, 3, 3, 3),
    ),
    "layer": (between_linears(lambda: nn.LayerNorm(3)), vectors),
    "root mean square": (between_linears(lambda: nn.RMSNorm(3)), vectors),
    "group": (between_convolutions(lambda: nn.GroupNorm(2, 2)), PICTURES),
    "instance": (between_convolutions(lambda: nn.InstanceNorm2d(2, affine=True)), PICTURES),
    "instance, tracked": (
        between_convolutions(lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True)),
        PICTURES,
    ),
    "local response": (between_convolutions(lambda: nn.LocalResponseNorm(2)), PICTURES),
    "spectral": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 2)
        ),
        vectors,
    ),
    "orthogonal": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), nn.Tanh(), nn.Linear(3, 2)
        ),
        vectors,
    ),
}
ATTENTION = {
    "with weights": (lambda: Attends(need_weights=True), sequences),
    "padded": (Attends, padded),
    "padded, with weights": (lambda: Attends(need_weights=True), padded),
    "biases of keys": (lambda: Attends(add_bias_kv=True, add_zero_attn=True), sequences),
    "encoder, padded": (Encodes, padded),
    "decoder layer": (
        lambda: nn.TransformerDecoderLayer(4, 2, 3, dropout=0.0, batch_first=True), two_sequences,
    ),
    "grouped queries": (lambda: Grouped(is_causal=True), sequences),
    "a mask of numbers": (lambda: Grouped(scale=0.3), biased),
}  # fmt: skip
RECURRENT = {
    f"{kind.__name__}, {name}": (
        lambda kind=kind, options=options: Recurrent(kind, **options), short_sequences,
    )
    for kind in (nn.RNN, nn.GRU, nn.LSTM)
    for name, options in {
        "both ways": {"bidirectional": True},
        "two layers": {"num_layers": 2},
        "packed": {"lengths": [3, 2]},
    }.items()
}  # fmt: skip
RECURRENT["LSTM, projected"] = (lambda: Recurrent(nn.LSTM, proj_size=1), short_sequences)
RECURRENT["LSTM cell"] = (lambda: Cells(nn.LSTMCell), short_sequences)
RECURRENT["GRU cell"] = (lambda: Cells(nn.GRUCell), short_sequences)
EVERYTHING = {**CONVOLUTIONS, **NORMS, **ATTENTION, **RECURRENT}
# What its eval and train modes compute differs, without random numbers.
BY_MODE = ["batch, 1-d", "batch, 3-d", "instance, tracked", "encoder, padded", "LSTM, two layers"]


def assert_layer_has_its_hessian(model, inputs, **options):
    targets = normal(9, *model(*inputs).shape, device=str(inputs[0].device))

    def loss(model, batch):
        return F.mse_loss(model(*batch[0]), batch[1], reduction="sum"), batch[1].numel()

    # The reference is of the model as it was: its own running statistics move.
    expected = dense_hessian(model, lambda f: F.mse_loss(f(*inputs), targets))
    operator = hessian(model, loss, [(inputs, targets)], **options)
    assert_is_hessian(operator, expected)
    assert_is_hessian(operator, expected)


@every_device
@pytest.mark.parametrize("name", EVERYTHING)
def test_in_eval_mode(device, name):
    factory, inputs = EVERYTHING[name]
    assert_layer_has_its_hessian(build(factory, 0, device).eval(), inputs(device))


@every_device
@pytest.mark.parametrize("memory_budget", [None, 0])
@pytest.mark.parametrize("name", BY_MODE)
def test_in_train_mode(device, name, memory_budget):
    factory, inputs = EVERYTHING[name]
    model = build(factory, 0, device).train()
    assert_layer_has_its_hessian(model, inputs(device), memory_budget=memory_budget)


@every_device
def test_a_fused_kernel_that_the_model_asks_for_itself(device):
    class Insists(Grouped):
        def forward(self, x):
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                return super().forward(x)

    if device == "cuda":
        pytest.skip("flash attention takes no double precision there")
    model = build(Insists, 0, device)
    (x,) = sequences(device)
    operator = hessian(model, nn.MSELoss(), (x, x))
    with pytest.raises(RuntimeError, match=r"fused attention kernel .*leave the choice out"):
        operator.to_dense()


@every_device
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_token_labels_that_are_ignored(device, reduction):
    """The criterion counts tokens over all batches, of which one has none to count."""

    class Classifies(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(4, 3), nn.Linear(3, 4)

        def forward(self, tokens):
            return self.head(torch.tanh(self.embedding(tokens))).transpose(1, 2)

    model = build(Classifies, 0, device)
    tokens, labels = (integers(seed, 4, 5, 3, device=device) for seed in (1, 2))
    labels[integers(3, 2, 5, 3, device=device) == 0] = -100
    labels[2] = -100
    batches = [(tokens[a:b], labels[a:b]) for a, b in ((0, 2), (2, 3), (3, 5))]
    criterion = nn.CrossEntropyLoss(ignore_index=-100, reduction=reduction)
    expected = dense_hessian(model, lambda f: criterion(f(tokens), labels))
    assert_is_hessian(hessian(model, criterion, batches), expected)
