"""A pretrained encoder as a frozen service: one per process, never a child of the policy, each frame encoded once."""

import threading
import weakref
from typing import Any

import numpy as np
import torch as th

from pearl_sb3.encoders.cache import DEFAULT_CACHE_BYTES, FrameHash, TokenCache
from pearl_sb3.encoders.parts import EncoderRequest, load_parts
from pearl_sb3.encoders.preprocess import as_frames

PRECISIONS = {"fp32": th.float32, "bf16": th.bfloat16, "fp16": th.float16}
# Network input encoded at a time, in bytes: bounds the activations, which take a small multiple of it.
CHUNK_BYTES = 8 * 2**20

_encoders: "weakref.WeakValueDictionary[tuple, FrozenEncoder]" = weakref.WeakValueDictionary()


def load_encoder(
    name: str = "pearl-tiny",
    weights: str = "pretrained",
    image_size: int | None = None,
    device: th.device | str = "auto",
    precision: str = "auto",
    grid: int | None = None,
    token_dim: int | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    cache_dir: str | None = None,
) -> "FrozenEncoder":
    """
    Load a frozen image encoder, or give the one that is already loaded.

    While it is in use there is one instance per (weights, input size, tokens, device, precision) in a process; all agents
    in the process share it and its token cache.

    :param name: A bundled encoder's name, any timm name, ``hf-hub:…``, ``local-dir:…``, a ``.safetensors`` file made by timm
        or by us, or a folder holding ``encoder.safetensors`` and ``manifest.json``
    :param weights: ``"pretrained"``; ``"random"`` for the control, seeded so that it is the same each time; or the path of a
        weight file for the architecture ``name``
    :param image_size: Side of the network's input in pixels; None chooses a 6x6 patch grid for a vision transformer
    :param device: Where it runs; ``"auto"`` is the GPU if there is one
    :param precision: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: bf16 where the device computes it natively, else fp32
    :param grid: Side of the token grid; None keeps the encoder's own up to 10x10
    :param token_dim: Channels per token; None keeps as many as fit in 10 KB per frame
    :param cache_bytes: Bound on the tokens kept; 0 keeps none. An encoder that is already loaded takes the larger bound
    :param cache_dir: Folder in which timm looks for downloaded files (default: the Hugging Face cache)
    :return: The encoder
    :raises ValueError: unknown name (the closest are offered), broken or foreign weight file, a size that does not fit
    :raises FileNotFoundError: weights not on this machine and not to be fetched; never replaced by random ones
    """
    where = th.device(("cuda" if th.cuda.is_available() else "cpu") if device == "auto" else device)
    dtype = choose_precision(precision, where)
    request = EncoderRequest(name, weights, image_size, grid, token_dim, cache_dir)
    key = (request, str(where), dtype)
    encoder = _encoders.get(key)
    if encoder is None:
        encoder = FrozenEncoder(request, where, precision, cache_bytes)
        # Two names of the same weights (a bundled name and its file, say) share one instance as well.
        encoder = _encoders.setdefault(encoder.identity, encoder)
        _encoders[key] = encoder
    encoder.reserve(cache_bytes)
    return encoder


def choose_precision(precision: str, device: th.device) -> th.dtype:
    """
    :param precision: ``"auto"`` or a name in ``PRECISIONS``
    :param device: Where is computed
    :return: The type; for ``"auto"`` bf16 where the device computes it natively, else fp32
    :raises ValueError: for another name
    """
    if precision == "auto":
        if device.type == "cuda":
            native = th.cuda.is_bf16_supported(including_emulation=False)
        else:
            native = device.type == "cpu" and bool(th.cpu.get_capabilities().get("avx512_bf16", False))
        return th.bfloat16 if native else th.float32
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}: choose one of {', '.join(map(repr, ['auto', *PRECISIONS]))}.")
    return PRECISIONS[precision]


class FrozenEncoder:
    """
    A pretrained network that turns frames into tokens and never changes.

    It is deliberately not an ``nn.Module``: held by a policy it is not registered, so that no optimizer sees it, SB3's
    ``ortho_init`` cannot overwrite it, target networks do not copy it and a saved agent does not contain it.
    Make one with :func:`load_encoder`.

    :param request: Which encoder
    :param device: Where it runs
    :param precision: As for :func:`load_encoder`
    :param cache_bytes: Bound on the tokens kept
    """

    def __init__(self, request: EncoderRequest, device: th.device, precision: str, cache_bytes: int) -> None:
        parts = load_parts(request)
        self.request = request
        self.device = device
        # Kept as asked for: on another device "auto" may mean another one.
        self.precision = precision
        self.dtype = dtype = choose_precision(precision, device)
        self.facts = parts.facts
        self.reader = parts.reader.to(device)
        self.preprocess = parts.preprocess.to(device)
        self._network = parts.network.to(device, dtype, memory_format=th.channels_last).requires_grad_(False)
        self._hash = FrameHash()
        # rl_zoo3's `-optimize --n-jobs` trains several agents in threads, which share this encoder.
        self._lock = threading.Lock()
        self.cache = TokenCache(self.token_shape, cache_bytes, device=device)
        #: Images really run through the network
        self.frames_encoded = 0

    @property
    def token_shape(self) -> tuple[int, int]:
        """(N, D): tokens per frame, the summary first, and channels per token."""
        return self.reader.token_shape

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the token grid; N = 1 + rows * columns."""
        return self.reader.grid

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights, see :func:`~pearl_sb3.encoders.parts.weights_hash`."""
        return self.facts["weights_hash"]

    @property
    def identity(self) -> tuple:
        """What decides which tokens come out."""
        facts = self.facts
        return (facts["weights_hash"], facts["image_size"], self.grid, self.token_shape, str(self.device), self.dtype)

    def reserve(self, cache_bytes: int) -> None:
        """
        Make room for at least so many bytes of tokens; what is stored stays.

        :param cache_bytes: The new bound, if it is larger than the present one
        """
        with self._lock:
            if cache_bytes > self.cache.max_bytes:
                self.cache.resize(cache_bytes)

    def to(self, device: th.device | str) -> "FrozenEncoder":
        """
        Give this encoder on another device.

        :param device: Where
        :return: The process's instance there
        """
        if th.device(device) == self.device:
            return self
        r = self.request
        return load_encoder(
            r.name, r.weights, r.image_size, device, self.precision, r.grid, r.token_dim, self.cache.max_bytes, r.cache_dir
        )

    def encode(self, frames: np.ndarray | th.Tensor, remember: bool = True) -> th.Tensor:
        """
        Give the tokens of frames, encoding only those that are not in the cache.

        :param frames: (B, H, W, C) or (B, C, H, W) or (B, H, W), uint8, gray or RGB, any size
        :param remember: False encodes them all and leaves the cache as it is: for frames that will not be seen again
        :return: (B, N, D), fp16, on the encoder's device
        :raises ValueError: for frames of another shape or type, or if the cache is smaller than the batch
        :raises FloatingPointError: if the network gives NaN or infinity
        """
        images = as_frames(th.as_tensor(frames)).to(self.device)
        if not remember or not self.cache.max_bytes:
            self.cache.misses += len(images)
            # Cloned, because tensors made in inference mode cannot take part in a backward pass.
            return self._run(images).clone()
        keys = self._hash(images)
        with self._lock:
            missing = self.cache.find_missing(keys)
            if missing:
                positions = th.as_tensor(list(missing.values()), device=self.device)
                self.cache.insert(list(missing), self._run(images[positions]))
            return self.cache.gather(keys)

    @th.inference_mode()
    def _run(self, images: th.Tensor) -> th.Tensor:
        size, channels = self.preprocess.image_size, self.preprocess.channels
        chunk = max(1, CHUNK_BYTES // (4 * channels * size * size))
        tokens = th.cat([self._run_chunk(part) for part in images.split(chunk)]).to(self.cache.dtype)
        self.frames_encoded += len(images)
        if not th.isfinite(tokens).all():
            raise FloatingPointError(
                f"Encoder {self.facts['name']!r} in precision {self.dtype} gave NaN or infinite tokens. "
                'Try precision="fp32"; if that fails too, its weights are broken.'
            )
        return tokens

    def _run_chunk(self, images: th.Tensor) -> th.Tensor:
        inputs = self.preprocess(images).to(self.dtype, memory_format=th.channels_last)
        return self.reader(self._network, inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenEncoder":
        return self

    def __reduce__(self) -> tuple:
        r = self.request
        args = (
            r.name,
            r.weights,
            r.image_size,
            "auto",
            self.precision,
            r.grid,
            r.token_dim,
            self.cache.max_bytes,
            r.cache_dir,
        )
        return load_encoder, args

    def __repr__(self) -> str:
        facts, (n_tokens, token_dim) = self.facts, self.token_shape
        return (
            f"FrozenEncoder({facts['name']!r}, {facts['parameters']:,} parameters, {facts['image_size']} px, "
            f"tokens {n_tokens}x{token_dim} = {self.cache.bytes_per_frame:,} bytes, {self.dtype} on {self.device}, "
            f"licence {facts['licence']}, source {facts['source']}, sha256 {facts['weights_hash'][:12]})"
        )
