"""Our own architectures as timm models."""

import pytest
import timm
import torch as th

from pearl_sb3.encoders.networks import PearlConv


def make(num_classes: int = 0) -> PearlConv:
    network = timm.create_model("pearl_conv_tiny", num_classes=num_classes)
    assert isinstance(network, PearlConv)
    return network.eval()


@pytest.mark.parametrize(("size", "side"), [(36, 1), (84, 7), (85, 7), (96, 8), (128, 12)])
def test_map_follows_the_input_size(size: int, side: int) -> None:
    network = make()
    tokens = network.forward_features(th.zeros(2, 1, size, size))
    assert tokens.shape == (2, network.num_features, side, side)
    assert network.forward_head(tokens, pre_logits=True).shape == (2, network.num_features)


def test_tokens_of_a_screen_stay_small() -> None:
    network = make()
    channels, rows, columns = network.forward_features(th.zeros(1, 1, 84, 84)).shape[1:]
    assert 2 * channels * (rows * columns + 1) <= 6_500


def test_data_config_is_that_of_gray_screens() -> None:
    config = timm.data.resolve_model_data_config(make())
    assert config["input_size"] == (1, 84, 84)
    assert len(config["mean"]) == len(config["std"]) == 1


def test_random_weights_follow_the_seed() -> None:
    def draw(seed: int) -> th.Tensor:
        th.manual_seed(seed)
        return make().forward_features(th.linspace(-1, 1, 84 * 84).view(1, 1, 84, 84))

    assert th.equal(draw(0), draw(0))
    assert not th.equal(draw(0), draw(1))


def test_tokens_are_not_rectified() -> None:
    tokens = make().forward_features(th.randn(4, 1, 84, 84))
    negative = (tokens < 0).float().mean((0, 2, 3))
    assert (negative > 0.01).all()
    assert (negative < 0.99).all()


def test_a_pixel_changes_only_the_tokens_around_it() -> None:
    network = make()
    image = th.zeros(1, 1, 84, 84)
    changed = image.clone()
    changed[..., 2, 2] = 3.0
    difference = (network.forward_features(changed) - network.forward_features(image)).abs().amax((0, 1))
    assert difference[0, 0] > 0
    assert difference[-1, -1] == 0


def test_classifier_can_be_added_and_removed() -> None:
    network = make(num_classes=5)
    assert network(th.zeros(2, 1, 84, 84)).shape == (2, 5)
    network.reset_classifier(0)
    assert network(th.zeros(2, 1, 84, 84)).shape == (2, network.num_features)
