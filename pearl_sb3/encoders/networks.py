"""Our own architectures, registered with timm so that `timm.create_model` makes them like any other."""

from typing import Any

import torch as th
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F


class PearlConv(nn.Module):
    """
    A small convolutional net whose last map is meant to be read cell by cell.

    One cell covers 8x8 pixels. Its channels are a linear reading of three depths at once (edges and where in the cell they
    are, shapes, shapes in context), before any ReLU: a rectified map has lost half of what a linear layer could read.

    :param in_chans: Channels of the input; the weights that come with this package are for gray images.
    :param num_classes: 0 for none, else a linear classifier on the mean token.
    :param stem_width: Channels at a quarter of the input's resolution.
    :param width: Channels at an eighth.
    :param depth: Residual 3x3 convolutions at an eighth.
    :param token_width: Channels of the map that comes out.
    """

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 0,
        stem_width: int = 32,
        width: int = 64,
        depth: int = 2,
        token_width: int = 32,
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = token_width
        self.num_classes = num_classes
        self.feature_info = [dict(num_chs=token_width, reduction=8, module="readouts.2")]
        self.stem = nn.Conv2d(in_chans, stem_width, kernel_size=8, stride=4)
        self.down = nn.Conv2d(stem_width, width, kernel_size=4, stride=2, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in range(depth))
        self.readouts = nn.ModuleList(
            [
                nn.Conv2d(stem_width, token_width, kernel_size=2, stride=2),
                nn.Conv2d(width, token_width, kernel_size=1),
                nn.Conv2d(width, token_width, kernel_size=1),
            ]
        )
        self.head = nn.Linear(token_width, num_classes) if num_classes else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        """
        Draw weights that are useful features before any training, because they are the control as well.

        Biases of the stem are spread, so that its units switch at different gray levels. Each reading of a rectified map has
        zero sum, which centres the tokens without data.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.stem.bias, std=0.3)
        with th.no_grad():
            for readout in self.readouts:
                readout.weight -= readout.weight.mean((1, 2, 3), keepdim=True)

    def forward_features(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: Normalised images, (B, in_chans, H, W), H and W at least 12.
        :return: Map of tokens, (B, token_width, rows, columns); 10 rows and columns at 84x84.
        """
        fine = F.relu(self.stem(x))
        shapes = F.relu(self.down(fine))
        context = shapes
        for block in self.blocks:
            context = context + F.relu(block(context))
        maps = (fine, shapes, context)
        return th.stack([readout(each) for readout, each in zip(self.readouts, maps, strict=True)]).sum(0)

    def forward_head(self, x: th.Tensor, pre_logits: bool = False) -> th.Tensor:
        """
        :param x: Map of tokens, (B, token_width, rows, columns).
        :param pre_logits: Whether to stop before the classifier.
        :return: Mean token, (B, token_width), or logits.
        """
        pooled = x.mean((2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: Normalised images, (B, in_chans, H, W).
        :return: Mean token, (B, token_width), or logits where there are classes.
        """
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """
        :return: The classifier, an identity where there is none.
        """
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """
        Replace the classifier.

        :param num_classes: 0 for none.
        """
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()


default_cfgs = generate_default_cfgs(
    {
        "pearl_conv_tiny": dict(
            input_size=(1, 84, 84),
            min_input_size=(1, 12, 12),
            pool_size=(10, 10),
            num_classes=0,
            mean=(0.25,),
            std=(0.25,),
            interpolation="bilinear",
            crop_pct=1.0,
            fixed_input_size=False,
            first_conv="stem",
            classifier="head",
            license="mit",
        )
    }
)


@register_model
def pearl_conv_tiny(pretrained: bool = False, **kwargs: Any) -> PearlConv:
    """
    Make the architecture of `pearl-tiny`: 10x10 tokens of 32 channels from an 84x84 gray image.

    :param pretrained: Whether to load the weights that the config names.
    :param kwargs: Passed on to timm and to the network.
    :return: The network.
    """
    # timm fills in 3 channels and 1000 classes where a model's own config says nothing; ours says.
    return build_model_with_cfg(PearlConv, "pearl_conv_tiny", pretrained, **kwargs)
