"""PEARL: pretrained encoders and spatiotemporal attention as features for Stable-Baselines3 agents."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pearl_sb3.encoders import load_encoder
    from pearl_sb3.extractor import PearlCombinedExtractor, PearlExtractor, pearl_policy_kwargs
    from pearl_sb3.probing.probe import ProbeResult, probe
    from pearl_sb3.ssl.callback import SSLCallback

__version__ = "0.1.0"

# Imported on first use: PyTorch runs our entry point while it is itself being imported (see zoo_hook.py), so that importing
# this package must not import PyTorch.
_LAZY = {
    "PearlExtractor": "pearl_sb3.extractor",
    "PearlCombinedExtractor": "pearl_sb3.extractor",
    "pearl_policy_kwargs": "pearl_sb3.extractor",
    "load_encoder": "pearl_sb3.encoders",
    "probe": "pearl_sb3.probing.probe",
    "ProbeResult": "pearl_sb3.probing.probe",
    "SSLCallback": "pearl_sb3.ssl.callback",
}

__all__ = [
    "PearlCombinedExtractor",
    "PearlExtractor",
    "ProbeResult",
    "SSLCallback",
    "load_encoder",
    "pearl_policy_kwargs",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'pearl_sb3' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
