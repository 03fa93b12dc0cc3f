"""Which encoders can be used on this machine right now."""

from dataclasses import dataclass

import timm
from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound
from timm.models import get_pretrained_cfg

from pearl_sb3.encoders.source import bundled_encoders


@dataclass(frozen=True)
class EncoderRow:
    """
    One line of ``pearl encoders``.

    :param name: What to pass as ``encoder=``
    :param kind: ``"bundled"`` or ``"timm (cached)"``
    :param parameters: Their number, None where only loading would tell
    :param licence: Of the weights
    :param note: What it was trained on, or where it lies
    """

    name: str
    kind: str
    parameters: int | None
    licence: str
    note: str


def list_encoders(cache_dir: str | None = None) -> list[EncoderRow]:
    """
    List bundled encoders and timm encoders whose weights are in the Hugging Face cache.

    :param cache_dir: Cache folder, None for the default
    :return: Bundled ones first, then by name
    """
    bundled = [
        EncoderRow(name, "bundled", facts.get("parameters"), facts.get("licence", "unknown"), facts.get("summary", ""))
        for name, facts in bundled_encoders().items()
    ]
    try:
        repositories = {repo.repo_id: repo for repo in scan_cache_dir(cache_dir).repos}
    except CacheNotFound:
        return bundled
    cached = []
    for name in timm.list_pretrained():
        config = get_pretrained_cfg(name)
        if config is not None and config.hf_hub_id in repositories:
            size = repositories[config.hf_hub_id].size_on_disk
            cached.append(
                EncoderRow(name, "timm (cached)", None, config.license or "unknown", f"{size / 1e6:.0f} MB in the cache")
            )
    return bundled + sorted(cached, key=lambda row: row.name)
