"""From a name to a timm model with its weights: the one place that knows where encoders come from."""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import timm
import torch as th
from safetensors import SafetensorError, safe_open

from pearl_sb3.encoders import networks  # noqa: F401  (registers our architectures with timm)

BUNDLED = files("pearl_sb3.encoders.bundled")
# Side of the patch grid we choose for an encoder whose `image_size` is left open: 36 tokens hold where things are in an
# 84x84 game screen, and encoding time grows with the square of this.
DEFAULT_GRID_SIDE = 6
# Convolutional nets that halve the image five times need more pixels than a game screen before their last map has any room
# left.
MIN_CONV_MAP_SIDE = 4
SCREEN_SIDE = 84


@dataclass(frozen=True)
class EncoderSource:
    """
    Where an encoder's architecture and weights come from.

    :param name: What the user asked for
    :param architecture: Name that ``timm.create_model`` understands (with its ``hf-hub:`` or ``local-dir:`` prefix, if any)
    :param file: Weight file to load instead of the ones timm would find, or None
    :param manifest: Facts recorded beside the weights when we made them; empty for other people's weights
    """

    name: str
    architecture: str
    file: Path | None
    manifest: dict[str, Any]


def bundled_encoders() -> dict[str, dict[str, Any]]:
    """
    Read the manifests of the encoders that come with this package.

    :return: Manifest of every bundled encoder, by name
    """
    manifests = sorted((entry for entry in BUNDLED.iterdir() if entry.name.endswith(".json")), key=lambda entry: entry.name)
    return {entry.name[: -len(".json")]: json.loads(entry.read_text()) for entry in manifests}


def find_source(name: str, weights: str = "pretrained") -> EncoderSource:
    """
    Find out what an encoder's name stands for.

    :param name: Bundled name, timm name, ``hf-hub:…``, ``local-dir:…``, a ``.safetensors`` file made by timm or by us, or a
        folder that holds ``encoder.safetensors`` and ``manifest.json``
    :param weights: ``"pretrained"``, ``"random"`` or a weight file for the architecture that ``name`` stands for
    :return: The source
    :raises ValueError: if no encoder has that name; the closest names are offered
    :raises FileNotFoundError: if a file or folder is named that does not exist
    """
    source = _find_named(name)
    if weights in ("pretrained", "random"):
        return source
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'weights={weights!r} is neither "pretrained" nor "random" nor an existing file. Give the path of a weight file made '
            f"for {source.architecture!r}."
        )
    return EncoderSource(f"{name} with {path}", source.architecture, path, {})


def _find_named(name: str) -> EncoderSource:
    bundled = bundled_encoders()
    if name in bundled:
        manifest = bundled[name]
        return EncoderSource(name, manifest["architecture"], Path(str(BUNDLED / f"{name}.safetensors")), manifest)
    if name.startswith(("hf-hub:", "local-dir:")):
        folder = name.removeprefix("local-dir:")
        if folder != name and not Path(folder).expanduser().is_dir():
            raise FileNotFoundError(
                f"{name!r}: there is no folder {folder!r}. Make one with timm's `save_for_hf(model, folder)`."
            )
        return EncoderSource(name, name, None, {})
    path = Path(name).expanduser()
    if path.is_dir() and (path / "manifest.json").is_file():
        path = path / "encoder.safetensors"
    if path.suffix == ".safetensors" or path.is_file():
        return _find_file(name, path)
    if timm.is_model(name):
        return EncoderSource(name, name, None, {})
    known = [*bundled, *timm.list_models(), *timm.list_pretrained()]
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    offer = f"Did you mean {', '.join(repr(n) for n in close)}?" if close else "None comes close."
    raise ValueError(
        f"Unknown encoder {name!r}. {offer} Bundled: {', '.join(bundled)}. `timm.list_pretrained()` lists the others; "
        '"hf-hub:…", "local-dir:…" and paths of .safetensors files work too.'
    )


def _find_file(name: str, path: Path) -> EncoderSource:
    if not path.is_file():
        raise FileNotFoundError(f"There is no weight file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a readable .safetensors file ({error}). Copy or export it again.") from error
    if "architecture" in metadata:
        manifest_file = path.with_name("manifest.json")
        manifest = json.loads(manifest_file.read_text()) if manifest_file.is_file() else {}
        return EncoderSource(name, metadata["architecture"], path, manifest)
    config_file = path.with_name("config.json")
    if config_file.is_file():
        return EncoderSource(name, json.loads(config_file.read_text())["architecture"], path, {})
    raise ValueError(
        f"{str(path)!r} does not say which architecture it is for: there is no `architecture` in its metadata and no timm "
        f'config.json beside it. Name the architecture, load_encoder("<timm name>", weights={str(path)!r}).'
    )


def default_image_size(source: EncoderSource, cache_dir: str | None = None) -> int:
    """
    Choose the input size for an encoder whose ``image_size`` was left open.

    A patch-based model gets a grid of 6x6 patches, a convolutional one its own size up to 128 pixels: large enough for the
    objects of an 84x84 screen, small enough to be encoded once per environment step.

    :param source: Where the encoder comes from
    :param cache_dir: Folder in which timm looks for downloaded files
    :return: Side of the square input, in pixels
    """
    model = _blueprint(source, cache_dir)
    native = model.pretrained_cfg["input_size"][-1]
    patch = patch_size(model)
    if patch is not None:
        return patch * DEFAULT_GRID_SIDE
    if model.pretrained_cfg.get("fixed_input_size", False):
        return native
    return min(native, max(SCREEN_SIDE, MIN_CONV_MAP_SIDE * model.feature_info[-1]["reduction"]))


def patch_size(model: Any) -> int | None:
    """
    Look up the side of a vision transformer's patches.

    :param model: A timm model
    :return: Side in pixels, or None if the model's tokens are not the patches themselves
    """
    embed: Any = getattr(model, "patch_embed", None)
    if not hasattr(model, "num_prefix_tokens") or not hasattr(embed, "patch_size"):
        return None
    return int(embed.patch_size[0])


def create_network(source: EncoderSource, weights: str, image_size: int, cache_dir: str | None = None) -> Any:
    """
    Make the timm model of a source, without its classifier, with its weights loaded.

    :param source: Where it comes from
    :param weights: ``"random"`` for seeded random weights (the control); otherwise the weights of the source are loaded
    :param image_size: Side of the square input in pixels; timm resizes patch and position embeddings to it
    :param cache_dir: Folder in which timm looks for downloaded files
    :return: The model in evaluation mode, fp32, on the CPU
    :raises FileNotFoundError: if the weights are not on this machine and cannot be fetched
    :raises ValueError: if the weight file is broken or made for another architecture, or ``image_size`` does not fit
    """
    kwargs = _cache_dir(cache_dir)
    blueprint = _blueprint(source, cache_dir)
    _check_image_size(source.name, blueprint, image_size)
    # A folder saved by timm forgets `fixed_input_size`; patches tell as well.
    if blueprint.pretrained_cfg.get("fixed_input_size", False) or patch_size(blueprint) is not None:
        kwargs["img_size"] = image_size
    if weights == "random":
        # The generator's state is put back, so that making an encoder does not change the agent's own draws.
        with th.random.fork_rng(devices=[]):
            th.manual_seed(0)
            return timm.create_model(source.architecture, pretrained=False, num_classes=0, **kwargs).eval()
    if source.file is not None:
        kwargs["num_classes"] = _classes_in(source.file, blueprint)
        kwargs["pretrained_cfg_overlay"] = dict(file=str(source.file), source="", num_classes=kwargs["num_classes"])
    # With its classifier the model is loaded strictly: timm fills gaps with random weights once `num_classes` differs.
    with _explained(source):
        model: Any = timm.create_model(source.architecture, pretrained=True, **kwargs)
    model.reset_classifier(0)
    return model.eval()


def _blueprint(source: EncoderSource, cache_dir: str | None) -> Any:
    """Make the model without weights or memory, to look at its shape; the config of a hub model is fetched for it."""
    with _explained(source), th.device("meta"):
        return timm.create_model(source.architecture, pretrained=False, **_cache_dir(cache_dir))


def _classes_in(file: Path, blueprint: Any) -> int:
    """Read off a weight file how many classes its classifier has."""
    classifier = blueprint.pretrained_cfg.get("classifier")
    name = f"{classifier if isinstance(classifier, str) else (classifier or ['head'])[0]}.weight"
    if file.suffix != ".safetensors":
        return blueprint.num_classes
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.get_slice(name).get_shape()[0] if name in opened.keys() else 0
    except SafetensorError as error:
        raise ValueError(f"{str(file)!r} is corrupted ({error}). Copy or export it again.") from error


@contextmanager
def _explained(source: EncoderSource) -> Iterator[None]:
    """Turn what goes wrong while loading into errors that name the fix."""
    local = source.file is not None or source.architecture.startswith("local-dir:")
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"The weights of {source.name!r} are corrupted ({error}). Copy or download them again.") from error
    except (RuntimeError, KeyError, OSError, ValueError) as error:
        if local:
            where = source.file or source.name
            raise ValueError(f"{where} does not hold weights of {source.architecture!r}: {_first_line(error)}") from error
        if "No pretrained weights exist" in str(error):
            tags = timm.list_pretrained(f"{source.architecture.split('_')[0]}*")
            hint = f" Pretrained relatives: {', '.join(tags[:5])}." if tags else ""
            raise ValueError(f'timm has no pretrained weights for {source.name!r}.{hint} Or use weights="random".') from error
        raise FileNotFoundError(
            f"The weights of {source.name!r} are not on this machine and could not be fetched ({_first_line(error)}). On a "
            f"machine with a network run\n"
            f'  python -c "import timm; from timm.models import save_for_hf; '
            f"save_for_hf(timm.create_model('{source.architecture}', pretrained=True), 'encoder')\"\n"
            f'then copy the folder `encoder` here and use encoder="local-dir:encoder". Random weights are never used in their '
            f'place; ask for them with weights="random".'
        ) from error


def _check_image_size(name: str, model: Any, image_size: int) -> None:
    patch = patch_size(model)
    step = patch or max(info["reduction"] for info in model.feature_info)
    if image_size < step:
        raise ValueError(
            f"image_size={image_size} is too small for {name!r}: one patch or cell covers {step} pixels. Use at least {step}, "
            f"better {DEFAULT_GRID_SIDE * step}."
        )
    if patch is not None and image_size % patch:
        raise ValueError(
            f"image_size={image_size} does not divide into the {patch}-pixel patches of {name!r}. Use "
            f"{image_size // patch * patch} or {(image_size // patch + 1) * patch}."
        )


def _cache_dir(cache_dir: str | None) -> dict[str, Any]:
    return {} if cache_dir is None else {"cache_dir": cache_dir}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
