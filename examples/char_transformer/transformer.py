"""A small transformer that predicts the next character."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

__all__ = ["CharTransformer", "train"]


class CharTransformer(nn.Module):
    """Causal attention over characters, with a read-out tied to the embedding.

    Parameters
    ----------
    num_characters
        Size of the alphabet.
    length
        Longest window.
    width, heads, depth
        Of the blocks.
    """

    def __init__(
        self, num_characters: int, length: int, *, width: int = 32, heads: int = 4, depth: int = 2
    ) -> None:
        super().__init__()
        self.characters = nn.Embedding(num_characters, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
                norm_first=True,
            )
            for _ in range(depth)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_characters, bias=False)
        nn.init.normal_(self.characters.weight, std=0.02)
        self.head.weight = self.characters.weight

    def forward(self, windows: Tensor) -> Tensor:
        """Return logits of the next character for each place, (count, num_characters, length)."""
        length = windows.shape[1]
        x = self.characters(windows) + self.places[:length]
        later = nn.Transformer.generate_square_subsequent_mask(length, windows.device, x.dtype)
        for block in self.blocks:
            x = block(x, src_mask=later, is_causal=True)
        return self.head(self.norm(x)).transpose(1, 2)


def train(
    model: CharTransformer,
    batches: list[tuple[Tensor, Tensor]],
    *,
    steps: int,
    learning_rate: float = 3e-3,
) -> list[float]:
    """Train a model by Adam, its learning rate falling to zero, and return the loss of every step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(steps, 1))
    losses = []
    for step in range(steps):
        windows, following = batches[step % len(batches)]
        loss = F.cross_entropy(model(windows), following)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
