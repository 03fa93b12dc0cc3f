"""Our own architectures, registered with timm so that `timm.create_model` makes them like any other."""

import math
from typing import Any, cast

import torch as th
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F


class PearlConv(nn.Module):
    """
    The convolutions of NatureCNN (Mnih et al., 2015), read before the last ReLU.

    A rectified map has lost half of what a linear layer could read. Cells lie 8 pixels apart and see 36 pixels each, so that
    every object is in several cells' view.

    :param in_chans: Channels of the input; the weights that come with this package are for gray images.
    :param num_classes: 0 for none, else a linear classifier on the mean token.
    :param stem_width: Channels at a quarter of the input's resolution.
    :param width: Channels at an eighth.
    :param token_width: Channels of the map that comes out.
    """

    def __init__(
        self, in_chans: int = 1, num_classes: int = 0, stem_width: int = 32, width: int = 64, token_width: int = 64
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = token_width
        self.num_classes = num_classes
        self.feature_info = [dict(num_chs=token_width, reduction=8, module="readout")]
        self.stem = nn.Conv2d(in_chans, stem_width, kernel_size=8, stride=4)
        self.down = nn.Conv2d(stem_width, width, kernel_size=4, stride=2)
        self.readout = nn.Conv2d(width, token_width, kernel_size=3)
        self.head = nn.Linear(token_width, num_classes) if num_classes else nn.Identity()
        self._initialise()

    def _initialise(self) -> None:
        """
        Draw weights that are useful features before any training, because they are the control as well.

        Orthogonal as SB3 draws NatureCNN's; the read-out of the rectified map has zero sum, which centres the tokens without
        data.
        """
        for layer in (self.stem, self.down, self.readout):
            nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
            nn.init.zeros_(cast(th.Tensor, layer.bias))
        with th.no_grad():
            self.readout.weight -= self.readout.weight.mean((1, 2, 3), keepdim=True)

    def forward_features(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: Normalised images, (B, in_chans, H, W), H and W at least 36.
        :return: Map of tokens, (B, token_width, rows, columns); 7 rows and columns at 84x84.
        """
        return self.readout(F.relu(self.down(F.relu(self.stem(x)))))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """
        Say which parameters make a layer, for ``tuning="last-n"``.

        :param coarse: As in timm; there is nothing coarser.
        :return: Patterns by layer.
        """
        return dict(stem=r"^stem", blocks=[(r"^down", None), (r"^readout", (99999,))])

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
            min_input_size=(1, 36, 36),
            pool_size=(7, 7),
            num_classes=0,
            mean=(0.0,),
            std=(1.0,),
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
    Make the architecture of `pearl-tiny`: 7x7 tokens of 64 channels from an 84x84 gray image.

    :param pretrained: Whether to load the weights that the config names.
    :param kwargs: Passed on to timm and to the network.
    :return: The network.
    """
    # timm fills in 3 channels and 1000 classes where a model's own config says nothing; ours says.
    return build_model_with_cfg(PearlConv, "pearl_conv_tiny", pretrained, **kwargs)
