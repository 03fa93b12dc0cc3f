import copy
import gc
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch as th
from safetensors.torch import save_file
from timm.models import save_for_hf

from pearl_sb3 import load_encoder
from pearl_sb3.encoders import TrainableEncoder
from pearl_sb3.encoders.cache import FrameHash, TokenCache
from pearl_sb3.encoders.catalogue import list_encoders
from pearl_sb3.encoders.parts import EncoderRequest
from pearl_sb3.encoders.preprocess import Preprocess

MODELS = ["test_vit", "test_vit2", "test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(36, 36, 1), (50, 40, 3), (3, 44, 36)])
def test_any_model_and_any_frame_give_small_tokens(name, shape):
    encoder = load_encoder(name, weights="random", precision="fp32")
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    tokens = encoder.encode(images)
    assert tokens.shape == (3, *encoder.token_shape)
    assert encoder.token_shape[0] == 1 + encoder.grid[0] * encoder.grid[1]
    assert encoder.cache.bytes_per_frame <= 10_240
    assert th.isfinite(tokens).all() and tokens.float().std() > 0


def test_bundled_encoder_is_the_default_and_takes_an_atari_screen_as_it_is():
    encoder = load_encoder()
    assert encoder.facts["name"] == "pearl-tiny"
    assert encoder.facts["image_size"] == 84
    assert encoder.cache.bytes_per_frame <= 10_240
    assert "licence" in repr(encoder) and f"{encoder.facts['parameters']:,} parameters" in repr(encoder)
    gray = np.random.default_rng(0).integers(0, 256, (2, 84, 84, 1), dtype=np.uint8)
    assert th.equal(encoder.encode(gray), encoder.encode(gray.repeat(3, axis=3)).to(th.float16)) or th.allclose(
        encoder.encode(gray).float(), encoder.encode(gray.repeat(3, axis=3)).float(), atol=0.1
    )


def test_tokens_are_the_models_own(frames):
    encoder = load_encoder("test_vit", weights="random", precision="fp32", image_size=96)
    with th.random.fork_rng():
        th.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=0, img_size=96).eval()
    images = th.as_tensor(frames[:2]).permute(0, 3, 1, 2).float() / 255
    images = th.nn.functional.interpolate(images, (96, 96), mode="bicubic", antialias=True).clamp(0, 1).expand(-1, 3, -1, -1)
    mean, std = (th.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with th.inference_mode():
        features = model.forward_features((images - mean) / std)
        summary = model.forward_head(features, pre_logits=True)
    tokens = encoder.encode(frames[:2]).float()
    assert th.allclose(tokens[:, 0], summary, atol=5e-3)
    assert th.allclose(tokens[:, 1:], features[:, 1:], atol=5e-3)


def test_each_distinct_frame_is_encoded_once_whatever_the_batch(frames):
    encoder = load_encoder("test_vit", weights="random", precision="fp32")
    first = encoder.encode(frames)
    assert encoder.frames_encoded == 8
    order = [3, 3, 0, 7, 1, 0]
    again = encoder.encode(frames[order])
    assert encoder.frames_encoded == 8
    assert th.equal(again, first[order])
    assert (encoder.cache.hits, encoder.cache.misses) == (6, 8)
    encoder.encode(np.concatenate([frames[:2], frames[:2] ^ 1, frames[:2] ^ 1]))
    assert encoder.frames_encoded == 10


def test_cached_tokens_agree_with_fresh_ones(frames):
    cached = load_encoder("test_resnet", weights="random", precision="fp32")
    cached.encode(frames)
    kept = cached.encode(frames[2:5]).float()
    cached.cache.clear()
    assert th.allclose(cached.encode(frames[2:5]).float(), kept, atol=2e-3, rtol=2e-3)


def test_without_a_cache_every_frame_is_encoded_every_time(frames):
    encoder = load_encoder("test_vit", weights="random", precision="fp32", grid=2, cache_bytes=0)
    encoder.encode(frames)
    tokens = encoder.encode(frames)
    assert encoder.frames_encoded == 16 and len(encoder.cache) == 0
    tokens.float().requires_grad_().sum().backward()


def test_chunks_do_not_change_tokens(frames, monkeypatch):
    whole = load_encoder("test_convnext", weights="random", precision="fp32", cache_bytes=0).encode(frames)
    monkeypatch.setattr("pearl_sb3.encoders.frozen.CHUNK_BYTES", 3 * 4 * 3 * 128 * 128)
    parts = load_encoder("test_convnext", weights="random", precision="fp32", cache_bytes=0).encode(frames)
    assert th.allclose(whole.float(), parts.float(), atol=2e-3)


def test_one_instance_per_process():
    encoder = load_encoder("test_vit", weights="random", precision="fp32")
    assert load_encoder("test_vit", weights="random", precision="fp32", image_size=96) is encoder
    assert load_encoder("test_vit", weights="random", precision="fp32", image_size=64) is not encoder
    assert load_encoder("test_vit", weights="random", precision="bf16") is not encoder
    assert copy.deepcopy(encoder) is encoder
    assert pickle.loads(pickle.dumps(encoder)) is encoder
    larger = load_encoder("test_vit", weights="random", precision="fp32", cache_bytes=2**31)
    assert larger is encoder and encoder.cache.max_bytes == 2**31


def test_threads_share_an_encoder():
    encoder = load_encoder("test_resnet", weights="random", precision="fp32", image_size=64)
    images = np.random.default_rng(0).integers(0, 256, (96, 36, 36, 1), dtype=np.uint8)
    expected = encoder.encode(images)
    encoder.cache.clear()
    batches = [np.random.default_rng(i).permutation(96)[:24] for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda batch: encoder.encode(images[batch]), batches))
    for batch, tokens in zip(batches, results, strict=True):
        assert th.allclose(tokens.float(), expected[batch].float(), atol=2e-3, rtol=2e-2)
    assert len(encoder.cache) <= 96


def test_an_encoder_nobody_uses_is_freed():
    encoder = load_encoder("test_vit", weights="random", precision="fp32", token_dim=8)
    encoder.encode(np.zeros((1, 36, 36, 1), np.uint8))
    del encoder
    gc.collect()
    assert load_encoder("test_vit", weights="random", precision="fp32", token_dim=8).frames_encoded == 0


def test_random_weights_are_seeded_and_leave_the_generator_alone():
    th.manual_seed(3)
    expected = th.rand(1)
    th.manual_seed(3)
    first = load_encoder("test_resnet", weights="random").weights_hash
    assert th.equal(th.rand(1), expected)
    gc.collect()
    assert load_encoder("test_resnet", weights="random", precision="fp32").weights_hash == first
    bundled = load_encoder("pearl-tiny")
    assert load_encoder("pearl-tiny", weights="random").weights_hash != bundled.weights_hash


def test_files_made_by_timm(tmp_path, frames):
    model = timm.create_model("test_vit", num_classes=10)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    by_folder = load_encoder(f"local-dir:{tmp_path}", precision="fp32")
    by_file = load_encoder(str(tmp_path / "model.safetensors"), precision="fp32")
    by_weights = tmp_path / "bare.safetensors"
    save_file({k: v for k, v in timm.create_model("test_vit").state_dict().items()}, by_weights)
    named = load_encoder("test_vit", weights=str(by_weights), precision="fp32")
    assert by_folder.weights_hash == by_file.weights_hash != named.weights_hash
    assert th.equal(by_folder.encode(frames), by_file.encode(frames))
    pixels = model.patch_embed.proj.weight
    assert th.equal(by_file._network.patch_embed.proj.weight, pixels)


def test_files_made_by_us(tmp_path):
    model = timm.create_model("pearl_conv_tiny")
    save_file(model.state_dict(), tmp_path / "encoder.safetensors", metadata={"architecture": "pearl_conv_tiny"})
    (tmp_path / "manifest.json").write_text(json.dumps({"architecture": "pearl_conv_tiny", "licence": "MIT"}))
    by_folder = load_encoder(str(tmp_path))
    assert by_folder.facts["licence"] == "MIT"
    assert load_encoder(str(tmp_path / "encoder.safetensors")) is by_folder


def test_unknown_names_offer_the_closest():
    with pytest.raises(ValueError, match="'resnet18'.*Bundled: pearl-tiny"):
        load_encoder("resnet81")
    with pytest.raises(ValueError, match="'pearl-tiny'"):
        load_encoder("pearl-tony")


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2.lvd142m", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_missing_weights_say_how_to_fetch_them(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="(?s)save_for_hf.*local-dir.*[Rr]andom weights are never used") as error:
        load_encoder(name, image_size=84 if "dinov2" in name else None, cache_dir=str(tmp_path))
    assert "\n" in str(error.value)


def test_a_model_without_pretrained_weights_is_not_filled_with_random_ones():
    with pytest.raises(ValueError, match="no pretrained weights"):
        load_encoder("convnextv2_small")


def test_broken_and_foreign_weight_files(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(FileNotFoundError, match="no weight file"):
        load_encoder(str(path))
    with pytest.raises(FileNotFoundError, match='neither "pretrained" nor "random"'):
        load_encoder("test_vit", weights=str(path))
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="not a readable .safetensors"):
        load_encoder(str(path))
    with pytest.raises(ValueError, match="corrupted|does not hold"):
        load_encoder("test_vit", weights=str(path))
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(ValueError, match="does not say which architecture"):
        load_encoder(str(path))
    with pytest.raises(ValueError, match="does not hold weights of 'test_vit'"):
        load_encoder("test_vit", weights=str(path))
    whole = timm.create_model("test_vit").state_dict()
    save_file({name: tensor for name, tensor in whole.items() if "blocks.0" not in name}, path)
    with pytest.raises(ValueError, match="does not hold weights of 'test_vit'"):
        load_encoder("test_vit", weights=str(path))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(image_size=8), "too small .* at least 16"),
        (dict(image_size=100), "Use 96 or 112"),
        (dict(grid=9), "finer than the encoder's own 6x6"),
        (dict(token_dim=1000), "wider than the encoder's 64"),
        (dict(precision="int8"), "choose one of"),
    ],
)
def test_settings_that_do_not_fit(kwargs, message):
    with pytest.raises(ValueError, match=message):
        load_encoder("test_vit", weights="random", **kwargs)


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 36, 36, 1), np.float32), "uint8"),
        (np.zeros((2, 4, 36, 36), np.uint8), "one by one"),
        (np.zeros((2, 36), np.uint8), "Expected frames of shape"),
    ],
)
def test_frames_that_are_none(images, message):
    with pytest.raises(ValueError, match=message):
        load_encoder("test_vit", weights="random").encode(images)


def test_nan_tokens_name_encoder_and_precision(frames):
    encoder = load_encoder("test_vit", weights="random", precision="fp32", token_dim=16)
    encoder._network.norm.weight[0] = float("nan")
    with pytest.raises(FloatingPointError, match="'test_vit' in precision torch.float32"):
        encoder.encode(frames)
    assert len(encoder.cache) == 0


def test_hash_is_a_function_of_content():
    frame_hash = FrameHash()
    images = th.randint(0, 256, (50, 1, 7, 9), dtype=th.uint8)  # 63 bytes: needs padding
    images[1] = images[0]
    keys = frame_hash(images)
    assert keys[0] == keys[1] and len(set(keys)) == 49
    assert frame_hash(images.flip(0)) == keys[::-1]
    assert [frame_hash(image[None])[0] for image in images] == keys
    one_off = images[:1].clone()
    one_off[0, 0, 6, 8] ^= 1
    assert frame_hash(one_off) != keys[:1]
    # Pairs of pixels exchanged, the weak spot of sums of products.
    exchanged = images[:1].clone()
    exchanged[0, 0, 0, :2] = images[0, 0, 0, [1, 0]]
    assert frame_hash(exchanged) != keys[:1] or images[0, 0, 0, 0] == images[0, 0, 0, 1]


def test_cache_forgets_the_least_recently_used():
    cache = TokenCache((2, 4), max_bytes=3 * 16)
    tokens = th.arange(5).view(5, 1, 1).expand(5, 2, 4).half()
    cache.insert([10, 11, 12], tokens[:3])
    assert cache.find_missing([10]) == {}
    cache.insert([13], tokens[3:4])
    assert cache.find_missing([10, 13, 11]) == {11: 2}
    assert len(cache) == 3 and cache.nbytes == 48
    assert th.equal(cache.gather([13, 10, 13]), tokens[[3, 0, 3]])
    cache.resize(5 * 16)
    cache.insert([11, 14], tokens[[1, 4]])
    assert th.equal(cache.gather([10, 11, 12, 13, 14]), tokens)


def test_cache_smaller_than_a_batch_says_what_it_needs():
    cache = TokenCache((2, 4), max_bytes=40)
    with pytest.raises(ValueError, match="holds 2 frames.*3 distinct.*at least 48"):
        cache.find_missing([1, 2, 3, 1])


def test_gray_is_the_luma_of_rgb():
    rgb = th.randint(0, 256, (2, 3, 8, 8), dtype=th.uint8)
    gray = (rgb.float() * th.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    preprocess = Preprocess(8, (0.0,), (1.0,), "bilinear")
    assert th.allclose(preprocess(rgb), gray / 255, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("tuning", ["full", "last-1", "last-2", "lora"])
def test_trainable_encoders_save_only_what_is_trained(name, tuning):
    encoder = TrainableEncoder(EncoderRequest(name, "random"), tuning)
    trained = {n for n, p in encoder.named_parameters() if p.requires_grad}
    total = sum(p.numel() for p in encoder.parameters())
    assert set(encoder.state_dict()) == trained
    assert (len(trained) == len(list(encoder.parameters()))) == (tuning == "full")
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    statistics = {n: b.clone() for n, b in encoder.named_buffers()}
    tokens = encoder(th.randint(0, 256, (2, 1, 36, 36)).float())
    assert tokens.shape == (2, *encoder.token_shape)
    tokens.square().sum().backward()
    assert all(p.grad is not None for n, p in encoder.named_parameters() if n in trained)
    assert all(th.equal(b, statistics[n]) for n, b in encoder.named_buffers())
    other = TrainableEncoder(EncoderRequest(name, "random"), tuning)
    changed = {n: v + 1 for n, v in encoder.state_dict().items()}
    assert not other.load_state_dict(changed).missing_keys
    assert all(th.equal(v, changed[n]) for n, v in other.state_dict().items())
    assert sum(v.numel() for v in changed.values()) <= total


@pytest.mark.parametrize(
    "tuning, message", [("last-50", 'has 7 layers. Use "last-7"'), ("half", "choose"), ("last-0", "choose")]
)
def test_tunings_that_do_not_exist(tuning, message):
    with pytest.raises(ValueError, match=message):
        TrainableEncoder(EncoderRequest("test_vit", "random"), tuning)


def test_lora_without_peft_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "pearl_sb3\[lora\]"'):
        TrainableEncoder(EncoderRequest("test_vit", "random"), "lora")


def test_bundled_encoders_are_listed():
    assert {row.name: row.kind for row in list_encoders()}["pearl-tiny"] == "bundled"
