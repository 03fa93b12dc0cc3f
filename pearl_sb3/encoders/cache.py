"""Tokens of frames already seen, least recently used out first."""

from collections import OrderedDict

import torch as th

# Enough for a replay buffer of 100,000 frames at 10 KB each.
DEFAULT_CACHE_BYTES = 2**30
HASHED_AT_ONCE = 64


class FrameHash:
    """
    Name each frame by a 64-bit key of its content.

    Two multilinear hashes over the frame's 32-bit words, each the upper half of a sum modulo 2**64 (Lemire and Kaser,
    "Strongly universal string hashing is fast", 2014): two different frames share a key with probability 2**-64. Integer
    sums modulo 2**64 are the same in any order, so that neither the batch a frame comes in nor the device changes its key.
    """

    def __init__(self) -> None:
        self._weights: dict[tuple[th.Size, th.device], th.Tensor] = {}

    def __call__(self, frames: th.Tensor) -> list[int]:
        """
        :param frames: (B, ...) uint8
        :return: One key per frame
        """
        flat = frames.reshape(len(frames), -1)
        padding = -flat.shape[1] % 4
        if padding:
            flat = th.nn.functional.pad(flat, (0, padding))
        words = flat.contiguous().view(th.int32)
        weights = self._weights_for(frames.shape[1:], words)
        # In pieces, so that the 64-bit intermediates stay in the processor's cache.
        return [key for piece in words.split(HASHED_AT_ONCE) for key in self._keys(piece, weights)]

    @staticmethod
    def _keys(words: th.Tensor, weights: th.Tensor) -> list[int]:
        unsigned = words.to(th.int64).bitwise_and_(0xFFFFFFFF)
        high, low = ((unsigned * each).sum(1) for each in weights)
        return (((high >> 32) << 32) | ((low >> 32) & 0xFFFFFFFF)).tolist()

    def _weights_for(self, shape: th.Size, words: th.Tensor) -> th.Tensor:
        key = (shape, words.device)
        if key not in self._weights:
            # Seeded by the shape: a gray 84x84 frame and an RGB frame of as many bytes get unrelated keys.
            generator = th.Generator().manual_seed(hash(tuple(shape)) % 2**31)
            weights = th.randint(-(2**63), 2**63 - 1, (2, words.shape[1]), generator=generator)
            self._weights[key] = weights.to(words.device)
        return self._weights[key]


class TokenCache:
    """
    Byte-bounded store of tokens on the encoder's device.

    :param token_shape: (N, D) of one frame's tokens
    :param max_bytes: Bound on the stored tokens; 0 stores nothing
    :param dtype: Precision tokens are stored in
    :param device: Where they are stored
    """

    def __init__(
        self, token_shape: tuple[int, int], max_bytes: int, dtype: th.dtype = th.float16, device: th.device | str = "cpu"
    ) -> None:
        self.token_shape = token_shape
        self.dtype = dtype
        self.max_bytes = max_bytes
        self.bytes_per_frame = token_shape[0] * token_shape[1] * dtype.itemsize
        self.capacity = max_bytes // self.bytes_per_frame
        self.hits = 0
        self.misses = 0
        self._slots: OrderedDict[int, int] = OrderedDict()
        # The CPU commits memory only when it is written to; elsewhere the store grows as it fills.
        rows = self.capacity if th.device(device).type == "cpu" else min(self.capacity, 1024)
        self._store = th.empty((rows, *token_shape), dtype=dtype, device=device)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens now stored."""
        return len(self._slots) * self.bytes_per_frame

    def find_missing(self, keys: list[int]) -> dict[int, int]:
        """
        Look keys up, marking those found as just used.

        :param keys: Keys of frames, repeats allowed
        :return: The missing keys, each with its first position in ``keys``
        :raises ValueError: if the bound is smaller than the distinct frames of one batch
        """
        distinct = len(set(keys))
        if distinct > self.capacity:
            raise ValueError(
                f"The token cache holds {self.capacity} frames ({self.max_bytes / 2**20:.1f} MiB, {self.bytes_per_frame} bytes "
                f"a frame), one batch has {distinct} distinct ones. Set cache_bytes to at least {distinct * self.bytes_per_frame}, "
                "or to 0 for no cache."
            )
        missing: dict[int, int] = {}
        for position, key in enumerate(keys):
            if key in self._slots:
                self._slots.move_to_end(key)
            else:
                missing.setdefault(key, position)
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        return missing

    def insert(self, keys: list[int], tokens: th.Tensor) -> None:
        """
        Store the tokens of new frames.

        :param keys: Their keys, none of them stored yet
        :param tokens: (B, N, D)
        """
        slots = []
        for key in keys:
            full = len(self._slots) >= self.capacity
            slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
            self._slots[key] = slot
            slots.append(slot)
        if slots and max(slots) >= len(self._store):
            self._grow(max(slots) + 1)
        self._store[th.as_tensor(slots, device=self._store.device)] = tokens.to(self._store.dtype)

    def gather(self, keys: list[int]) -> th.Tensor:
        """
        :param keys: Keys that are stored
        :return: (B, N, D), in the precision of the store
        """
        slots = th.as_tensor([self._slots[key] for key in keys], device=self._store.device)
        return self._store.index_select(0, slots)

    def resize(self, max_bytes: int) -> None:
        """
        Change the bound, keeping what is stored.

        :param max_bytes: The new bound, not below the bytes now stored
        """
        self.max_bytes = max_bytes
        self.capacity = max_bytes // self.bytes_per_frame
        if self._store.device.type == "cpu":
            self._grow(self.capacity)

    def clear(self) -> None:
        """Forget all tokens; the counters stay."""
        self._slots.clear()

    def _grow(self, rows: int) -> None:
        grown = self._store.new_empty((min(self.capacity, max(rows, 2 * len(self._store))), *self.token_shape))
        # Slots are filled in order: rows beyond the stored frames have never been written.
        grown[: len(self._slots)] = self._store[: len(self._slots)]
        self._store = grown
