"""Every kind of architecture builds at small sizes, and bad ones are refused in one line."""

import pytest
import torch
from torch import nn

from sensweep.tasks.api import TaskError
from sensweep.tasks.models import build

VIT32 = {"patch_size": 4, "depth": 4, "embed_dim": 96, "num_heads": 3}
VIT8 = {"patch_size": 2, "depth": 2, "embed_dim": 48, "num_heads": 3}
SWIN = {"window_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4]}
STAGES = {"depths": [1, 1, 2, 1], "dims": [16, 32, 48, 64]}
RESNET = {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128]}
MIXER = {"num_blocks": 3, "embed_dim": 64}


def model(name, size, colours=3, **kwargs):
    return build(
        {"name": name, **kwargs},
        num_classes=10,
        in_chans=colours,
        img_size=size,
        mean=[0.4] * colours,
        std=[0.2] * colours,
    )


@pytest.mark.parametrize(
    ("name", "size", "kwargs"),
    [
        ("mlp", 8, {}),
        ("mlp", 28, {"hidden": [20]}),
        ("cnn", 8, {"width": 8}),
        ("cnn", 28, {}),
        ("vit_tiny_patch16_224", 32, VIT32),
        ("vit_tiny_patch16_224", 8, VIT8),
        ("deit_tiny_patch16_224", 32, VIT32),
        ("deit3_small_patch16_224", 32, VIT32),
        ("eva02_tiny_patch14_224", 8, VIT8),
        ("cait_xxs24_224", 32, VIT32),
        ("vit_small_patch16_dinov3", 32, VIT32),
        ("swin_tiny_patch4_window7_224", 32, {**SWIN, "patch_size": 2}),
        ("swin_tiny_patch4_window7_224", 8, {**SWIN, "patch_size": 1}),
        ("swinv2_tiny_window8_256", 32, {**SWIN, "patch_size": 2}),
        ("convnext_atto", 32, {**STAGES, "patch_size": 2}),
        ("convnextv2_atto", 32, {**STAGES, "patch_size": 2}),
        ("convnext_atto", 8, {**STAGES, "patch_size": 1}),
        ("mambaout_femto", 32, STAGES),
        ("resnet18", 32, RESNET),
        ("resnet18", 8, RESNET),
        ("resnet18d", 8, RESNET),
        ("test_vit", 32, {}),
        ("test_resnet", 32, {}),
        ("mixer", 32, {**MIXER, "patch_size": 4}),
        ("resmlp", 32, {**MIXER, "patch_size": 4}),
        ("gmlp", 8, {**MIXER, "patch_size": 2}),
        ("convmixer", 32, {"dim": 64, "depth": 4, "kernel_size": 5, "patch_size": 2}),
    ],
)
def test_builds_and_learns_in_all_its_weights(name, size, kwargs):
    colours = 1 if size in (8, 28) else 3
    net = model(name, size, colours, **kwargs)
    assert net.training
    x = torch.rand(4, colours, size, size)
    logits = net(x)
    assert logits.shape == (4, 10)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for key, weight in net.named_parameters():
        assert weight.grad is not None, key
        assert weight.grad.isfinite().all(), key


def test_inputs_are_standardised_inside_the_model():
    net = model("mlp", 8, colours=3)
    x = torch.rand(5, 3, 8, 8)
    assert torch.allclose(net(x), net.network((x - 0.4) / 0.2), atol=1e-6)
    assert {"normalise.mean", "normalise.std"} <= net.state_dict().keys()


def test_mlp_and_cnn_are_the_papers_on_28x28():
    widths = [layer.out_features for layer in model("mlp", 28, 1).network if hasattr(layer, "bias")]
    assert widths == [512, 128, 10]
    dense = [it for it in model("cnn", 28, 1).network if isinstance(it, nn.Linear)]
    assert [(it.in_features, it.out_features) for it in dense] == [(4608, 128), (128, 10)]


@pytest.mark.parametrize("name", ["resnet18", "resnet18d"])
def test_resnets_keep_the_resolution_of_small_images_in_the_stem(name):
    def first_stage(net, size):
        seen = []
        net.network.layer1.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
        net(torch.rand(2, 3, size, size))
        return seen[0]

    assert first_stage(model(name, 32, **RESNET), 32) == 32
    assert first_stage(model(name, 32, **RESNET, small_stem=False), 32) == 8
    assert first_stage(model(name, 96, **RESNET), 96) == 24


def test_weights_come_from_torchs_generator():
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(model("vit_tiny_patch16_224", 8, **VIT8).parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


USERS = """
import torch
def linear(num_classes, in_chans, img_size, bias=True):
    layer = torch.nn.Linear(in_chans * img_size**2, num_classes, bias=bias)
    return torch.nn.Sequential(torch.nn.Flatten(), layer)
def number(num_classes, in_chans, img_size):
    return 3
def headless(num_classes, in_chans, img_size):
    return torch.nn.Flatten()
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    (tmp_path / "users_models.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_users_function_is_called_with_the_facts_and_its_arguments(users):
    net = model("users_models:linear", 8, colours=2, bias=False)
    assert [tuple(weight.shape) for weight in net.parameters()] == [(10, 128)]


@pytest.mark.parametrize(
    ("name", "size", "kwargs", "message"),
    [
        ("resnet81", 32, {}, "unknown arch 'resnet81'; did you mean 'resnet"),
        ("convnext_atto", 8, STAGES, "on images of 3x8x8 .* small images want small patches"),
        ("vit_tiny_patch16_224", 8, {}, "on images of 3x8x8"),
        ("vit_tiny_patch16_224", 32, {"pach": 4}, "unexpected keyword argument 'pach'"),
        ("mixer_s32_224", 32, {"patch_size": 4}, "fixes it in this entry point, not in mixer"),
        ("convnext_atto", 32, {"small_stem": True}, "small_stem"),
        ("test_efficientnet", 32, {"small_stem": True}, "has no small_stem"),
        ("cnn", 4, {}, "on images of 3x4x4"),
        ("nosuch:model", 8, {}, "No module named 'nosuch'; wanted module:function"),
        ("users_models:nosuch", 8, {}, "has no attribute 'nosuch'"),
        ("users_models:number", 8, {}, "returned int, not a torch Module"),
        ("users_models:headless", 8, {}, r"logits of shape \(2, 192\), not \(2, 10\)"),
    ],
)
def test_a_bad_architecture_gets_one_line(users, name, size, kwargs, message):
    with pytest.raises(TaskError, match=message) as caught:
        model(name, size, **kwargs)
    assert "\n" not in str(caught.value)
