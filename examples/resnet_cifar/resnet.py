"""Residual networks for 32 x 32 images, small enough to study their Hessians on a laptop.

The networks of section 4.2 of He, Zhang, Ren and Sun, *Deep residual learning for image
recognition*, 2015: one 3 x 3 convolution, three stages of n blocks with 16, 32 and 64 channels,
global average pooling and a linear layer, 6 n + 2 layers with weights in all. Batch norm and the
shortcuts can be switched off one by one, to see what each does to the curvature.

No operation works in place: a second derivative needs what the forward pass saw.
"""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BasicBlock", "ResNet"]

_CHANNELS = (16, 32, 64)


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6 n + 2 with parameter-free shortcuts (option A).

    Weights start from He's normal initialisation, biases from zero.

    Parameters
    ----------
    depth
        Number of layers with weights: 8, 14, 20, 26, 32, and so on in steps of 6.
    batch_norm
        Normalise after each convolution. Where it is off, the convolutions carry a bias instead.
    residual
        Add each block's input to its output. The shortcuts have no parameters, so networks with
        and without them share their weights' names and shapes.
    num_classes
        Number of outputs.

    Raises
    ------
    ValueError
        If `depth` is not 6 n + 2 with n >= 1.

    Notes
    -----
    With shortcuts but no batch norm the variance of the activations about doubles with every
    block of the untrained network, so that its loss and curvature grow quickly with the depth.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        batch_norm: bool = True,
        residual: bool = True,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        num_blocks = _blocks_per_stage(depth)
        self.conv1 = _convolution(3, _CHANNELS[0], bias=not batch_norm)
        self.bn1 = _normalisation(_CHANNELS[0], batch_norm=batch_norm)

        def stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
            widths = [in_channels] + [out_channels] * num_blocks
            strides = [stride] + [1] * (num_blocks - 1)
            return nn.Sequential(
                *(
                    BasicBlock(*shape, batch_norm=batch_norm, residual=residual)
                    for shape in zip(widths[:-1], widths[1:], strides, strict=True)
                )
            )

        self.layer1 = stage(_CHANNELS[0], _CHANNELS[0], 1)
        self.layer2 = stage(_CHANNELS[0], _CHANNELS[1], 2)
        self.layer3 = stage(_CHANNELS[1], _CHANNELS[2], 2)
        self.linear = nn.Linear(_CHANNELS[2], num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of a batch of images.

        Parameters
        ----------
        images
            Normalised images, (batch, 3, 32, 32).

        Returns
        -------
        Tensor
            Logits, (batch, num_classes).
        """
        hidden: Tensor = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(hidden.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions, and the shortcut around them where `residual` is on.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the input and of the output.
    stride
        Stride of the first convolution and of the shortcut.
    batch_norm, residual
        As for `ResNet`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        batch_norm: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, out_channels, stride, bias=not batch_norm)
        self.bn1 = _normalisation(out_channels, batch_norm=batch_norm)
        self.conv2 = _convolution(out_channels, out_channels, bias=not batch_norm)
        self.bn2 = _normalisation(out_channels, batch_norm=batch_norm)
        self.stride = stride
        self.residual = residual
        self.extra_channels = out_channels - in_channels

    def forward(self, images: Tensor) -> Tensor:
        """Return the block's output.

        Parameters
        ----------
        images
            Feature maps, (batch, in_channels, height, width).

        Returns
        -------
        Tensor
            Feature maps, (batch, out_channels, height / stride, width / stride).
        """
        hidden = functional.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        if self.residual:
            hidden = hidden + self._shortcut(images)
        return functional.relu(hidden)

    def _shortcut(self, images: Tensor) -> Tensor:
        # The paper leaves open where the zero channels go. Half before and half after is the
        # layout that published weights were trained with.
        before = self.extra_channels // 2
        after = self.extra_channels - before
        strided = images[:, :, :: self.stride, :: self.stride]
        return functional.pad(strided, (0, 0, 0, 0, before, after))


def _blocks_per_stage(depth: int) -> int:
    num_blocks, remainder = divmod(depth - 2, 6)
    if remainder or num_blocks < 1:
        raise ValueError(
            f"depth {depth} is no CIFAR ResNet: the depth must be 6 n + 2, "
            "that is 8, 14, 20, 26, 32, 38, 44, 50, 56 or more in steps of 6"
        )
    return num_blocks


def _convolution(in_channels: int, out_channels: int, stride: int = 1, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


def _normalisation(channels: int, *, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
