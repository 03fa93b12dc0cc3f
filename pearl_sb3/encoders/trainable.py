"""An encoder that is trained along with the policy: whole, its last layers, or low-rank adapters."""

import re
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.policies import BasePolicy
from timm.models import group_parameters
from torch import nn

from pearl_sb3.encoders.parts import EncoderRequest, load_parts

LORA_RANK = 8


class TrainableEncoder(nn.Module):
    """
    A pretrained network as a registered, trained part of the policy.

    * It is always in evaluation mode: a batch norm keeps its pretrained statistics and a dropout stays off, so that PPO's
      update sees the function that acted.
    * SB3's ``ortho_init`` passes it by.
    * Its trained parameters carry ``lr_factor``, which :class:`~pearl_sb3.optimizers.PearlAdam` and its siblings obey.
    * Its state dict holds what is trained, nothing else.

    :param request: Which encoder
    :param tuning: ``"full"``, ``"last-n"`` for the last n layers (blocks of a vision transformer, stages or blocks of a
        convolutional net, as timm groups them), or ``"lora"`` for adapters of rank 8 (Hu et al., 2022)
    :param lr_factor: Its learning rate as a fraction of the policy's; None is 0.1, and 1 for the fresh adapters of ``"lora"``
    :raises ValueError: for another ``tuning``, or more layers than there are
    :raises ImportError: for ``"lora"`` without peft
    """

    def __init__(self, request: EncoderRequest, tuning: str = "full", lr_factor: float | None = None) -> None:
        super().__init__()
        parts = load_parts(request)
        self.facts: dict[str, Any] = parts.facts
        self.tuning = tuning
        self.preprocess = parts.preprocess
        self.reader = parts.reader
        self.network = _choose_trained(parts.network, tuning, request.name)
        self.frames_encoded = 0
        if lr_factor is None:
            lr_factor = 1.0 if tuning == "lora" else 0.1
        for parameter in self.network.parameters():
            if parameter.requires_grad:
                parameter.lr_factor = lr_factor  # type: ignore[attr-defined]
        self._frozen = {f"network.{name}" for name, p in self.network.named_parameters() if not p.requires_grad}
        self._frozen |= {f"network.{name}" for name, _ in self.network.named_buffers()}
        self.register_state_dict_post_hook(_drop_frozen)
        self.register_load_state_dict_post_hook(_excuse_frozen)
        self.eval()

    @property
    def token_shape(self) -> tuple[int, int]:
        """(N, D): tokens per frame, the summary first, and channels per token."""
        return self.reader.token_shape

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid; N = 1 + rows * columns."""
        return self.reader.grid

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        :param frames: (B, C, H, W), values in [0, 255]
        :return: (B, N, D), fp32, with gradients
        """
        self.frames_encoded += len(frames)
        return self.reader(self.network, self.preprocess(frames))

    def train(self, mode: bool = True) -> "TrainableEncoder":
        """Stay in evaluation mode (see the class)."""
        return super().train(False)

    def apply(self, fn: Callable[[nn.Module], None]) -> "TrainableEncoder":
        """Apply ``fn`` to every submodule, unless it is SB3's re-initialisation."""
        if getattr(fn, "func", fn) is BasePolicy.init_weights:
            return self
        return super().apply(fn)


def _choose_trained(network: Any, tuning: str, name: str) -> Any:
    if tuning == "full":
        return network.requires_grad_(True)
    if tuning == "lora":
        return _add_adapters(network)
    match = re.fullmatch(r"last-(\d+)", tuning)
    if match is None or int(match[1]) < 1:
        raise ValueError(f'tuning={tuning!r}: choose "frozen", "full", "last-1", "last-2", … or "lora".')
    layers = group_parameters(network, network.group_matcher(coarse=False))
    depth, wanted = len(layers), int(match[1])
    if wanted > depth:
        raise ValueError(f'tuning={tuning!r}: {name!r} has {depth} layers. Use "last-{depth}" or less, or "full".')
    trained = {parameter for layer in sorted(layers)[depth - wanted :] for parameter in layers[layer]}
    for parameter_name, parameter in network.named_parameters():
        parameter.requires_grad_(parameter_name in trained)
    return network


def _add_adapters(network: Any) -> Any:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('tuning="lora" needs peft. Install it with: pip install "pearl_sb3[lora]"') from error
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    dense_convs = [
        n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and m.kernel_size != (1, 1)
    ]
    # A transformer's patch embedding is a convolution too; its adapters belong on the linear layers of its blocks.
    targets = [name for name in linear if "head" not in name] or dense_convs
    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=targets)
    return inject_adapter_in_model(config, network)


def _drop_frozen(module: nn.Module, state: dict[str, Any], prefix: str, _metadata: dict[str, Any]) -> None:
    for name in module._frozen:  # type: ignore[union-attr]
        state.pop(prefix + name, None)


def _excuse_frozen(module: nn.Module, incompatible: Any) -> None:
    # The prefix under which this module was loaded is not passed on, so that names are compared by their end.
    frozen = tuple(module._frozen)  # type: ignore[arg-type]
    incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith(frozen)]
