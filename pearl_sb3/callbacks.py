"""SB3 callbacks for PEARL agents."""

from stable_baselines3.common.callbacks import BaseCallback

from pearl_sb3.encoders import FrozenEncoder
from pearl_sb3.extractor import PearlExtractor


class EncoderLogCallback(BaseCallback):
    """
    Log what frozen encoders did, beside SB3's own figures.

    * ``pearl/frames_encoded``: images run through the network since training began
    * ``pearl/frames_encoded_per_step``: the same per env step; near 1 when every frame is encoded once
    * ``pearl/cache_hit_rate``: share of frames found in the token cache, 0 to 1
    * ``pearl/cache_hits``, ``pearl/cache_misses``: their numbers
    * ``pearl/cache_mb``: tokens now stored, in MiB

    The agents of a process share an encoder, and so these figures.

    :param verbose: As in SB3
    """

    def _on_training_start(self) -> None:
        self.encoded_before = sum(encoder.frames_encoded for encoder in self._encoders())
        self.steps_before = self.model.num_timesteps

    def _encoders(self) -> list[FrozenEncoder]:
        """Actor, critic and target network hold the same one; moving the policy to a GPU exchanges it."""
        extractors = [module for module in self.model.policy.modules() if isinstance(module, PearlExtractor)]
        encoders = [extractor.encoder for extractor in extractors if isinstance(extractor.encoder, FrozenEncoder)]
        return list({id(encoder): encoder for encoder in encoders}.values())

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        encoders = self._encoders()
        if not encoders:
            return
        hits = sum(encoder.cache.hits for encoder in encoders)
        misses = sum(encoder.cache.misses for encoder in encoders)
        encoded = sum(encoder.frames_encoded for encoder in encoders) - self.encoded_before
        self.logger.record("pearl/frames_encoded", encoded)
        self.logger.record("pearl/frames_encoded_per_step", encoded / max(1, self.num_timesteps - self.steps_before))
        self.logger.record("pearl/cache_hit_rate", hits / max(1, hits + misses))
        self.logger.record("pearl/cache_hits", hits)
        self.logger.record("pearl/cache_misses", misses)
        self.logger.record("pearl/cache_mb", sum(encoder.cache.nbytes for encoder in encoders) / 2**20)
