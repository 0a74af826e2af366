"""Models by name: this file's own, any of timm's, or a user's function.

`build` gives `Sequential(normalise, network)`: inputs are pixels in [0, 1] for every model, and
attacks and perturbations are measured in those units.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sensweep.tasks.api import TaskError
from sensweep.tasks.architectures import OWN, architectures
from sensweep.tasks.names import unknown

Arch = str | Mapping[str, Any]
# Images up to this side get a stem that keeps their resolution (see `_keep_resolution`).
SMALL_IMAGE = 64


class Normalise(nn.Module):
    """Standardise each channel, [N, C, H, W] in [0, 1] to about zero mean and unit variance."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (x - mean) / std, of the shape of x."""
        return (x - self.mean) / self.std


def mlp(
    num_classes: int, in_chans: int, img_size: int, hidden: Sequence[int] = (512, 128)
) -> nn.Module:
    """Fully connected LeakyReLU network on the flattened image.

    `hidden` lists the widths of the hidden layers. The default is the deeper MLP of Vasudeva et
    al. (ICLR 2025): 784-512-128-10 on images of 28x28.
    """
    widths = [in_chans * img_size**2, *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))


def cnn(
    num_classes: int, in_chans: int, img_size: int, width: int = 32, hidden: int = 128
) -> nn.Module:
    """Two unpadded 3x3 convolutions of `width` channels, 2x2 max-pooling, two dense layers.

    After Vasudeva et al. (ICLR 2025), whose network on images of 28x28 has width 32 and a dense
    layer of 4608 to 128. LeakyReLU throughout; images must be at least 6x6.
    """
    side = (img_size - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_chans, width, 3),
        nn.LeakyReLU(),
        nn.Conv2d(width, width, 3),
        nn.LeakyReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(width * side**2, hidden),
        nn.LeakyReLU(),
        nn.Linear(hidden, num_classes),
    )


def _mixer(family: str, **kwargs: Any) -> nn.Module:
    # timm's entry points of this family fix patch_size, width and depth; its class takes them.
    from timm.models import mlp_mixer as timm_mixer

    parts: dict[str, dict[str, Any]] = {
        "mixer": {},
        "resmlp": {
            "mlp_ratio": 4,
            "block_layer": partial(timm_mixer.ResBlock, init_values=1e-4),
            "norm_layer": timm_mixer.Affine,
        },
        "gmlp": {
            "mlp_ratio": 6,
            "block_layer": timm_mixer.SpatialGatingBlock,
            "mlp_layer": timm_mixer.GatedMlp,
        },
    }
    return timm_mixer.MlpMixer(**parts[family], **kwargs)


def _convmixer(img_size: int, **kwargs: Any) -> nn.Module:
    # Fully convolutional: any size will do.
    from timm.models.convmixer import ConvMixer

    return ConvMixer(**kwargs)


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "mixer": partial(_mixer, "mixer"),
    "resmlp": partial(_mixer, "resmlp"),
    "gmlp": partial(_mixer, "gmlp"),
    "convmixer": _convmixer,
}
assert set(_BUILDERS) == set(OWN)


def build(
    arch: Arch,
    *,
    num_classes: int,
    in_chans: int,
    img_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Sequential:
    """Build a freshly initialised model; weights are drawn from torch's global generator.

    Args:
        arch: a name from `sensweep.tasks.architectures.architectures`, or ``module:function``,
            or a mapping of ``name`` and the keyword arguments of that model (``patch_size``,
            ``embed_dim``, ``depth``, ``dims``, ...). A user's function is called with
            (num_classes, in_chans, img_size, **kwargs) and returns a module that maps
            [N, in_chans, img_size, img_size] to logits [N, num_classes].
            Models of timm's ResNet class also take ``small_stem`` (bool): keep the resolution
            in the stem; by default so for images up to 64x64.
        num_classes: number of classes.
        in_chans: number of colour channels.
        img_size: height and width in pixels.
        mean: mean of each channel, for the normalisation in front.
        std: standard deviation of each channel.

    Raises:
        TaskError: unknown name, wrong arguments, or a model that cannot take such images.
    """
    name, kwargs = parse_arch(arch)
    facts = {"num_classes": num_classes, "in_chans": in_chans, "img_size": img_size}
    if ":" in name:
        network = _user_function(name)(**facts, **kwargs)
        if not isinstance(network, nn.Module):
            raise TaskError(f"arch {name!r} returned {type(network).__name__}, not a torch Module")
    else:
        try:
            network = _build_known(name, facts, kwargs)
        except TaskError:
            raise
        except Exception as error:  # whatever a model's constructor raises on bad arguments
            raise TaskError(f"arch {arch!r}: {_reason(error)}") from error
    model = nn.Sequential(OrderedDict(normalise=Normalise(mean, std), network=network))
    _check_shape(model, arch, (in_chans, img_size, img_size), num_classes)
    return model


def parse_arch(arch: Arch) -> tuple[str, dict[str, Any]]:
    """Part an arch into its name and keyword arguments; lists become tuples, as timm wants."""
    if isinstance(arch, str):
        return arch, {}
    kwargs = {key: _tuples(value) for key, value in arch.items() if key != "name"}
    return str(arch["name"]), kwargs


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _build_known(name: str, facts: dict[str, int], kwargs: dict[str, Any]) -> nn.Module:
    if name in _BUILDERS:
        return _BUILDERS[name](**facts, **kwargs)
    import timm

    if not timm.is_model(name):
        raise TaskError(unknown("arch", name, architectures()))
    kwargs = {"num_classes": facts["num_classes"], "in_chans": facts["in_chans"], **kwargs}
    small_stem = kwargs.pop("small_stem", None)
    # timm's own mark of the models that must be told the size of their images.
    defaults = timm.get_pretrained_cfg(name)
    if defaults is not None and defaults.fixed_input_size:
        kwargs["img_size"] = facts["img_size"]
    network = timm.create_model(name, **kwargs)
    is_resnet = isinstance(network, timm.models.resnet.ResNet)
    if small_stem is not None and not is_resnet:
        raise TaskError(f"arch {name!r} has no small_stem; only models of timm's ResNet class do")
    if is_resnet and (facts["img_size"] <= SMALL_IMAGE if small_stem is None else small_stem):
        _keep_resolution(network)
    return network


def _keep_resolution(network: Any) -> None:
    """Replace a ResNet's stem, which divides the resolution by four, by one that keeps it.

    The ImageNet stem leaves 2x2 of an image of 8x8 to the first stage. This is the usual stem for
    CIFAR (He et al. 2016, section 4.2): a 3x3 convolution of stride 1, and no pooling.
    """
    if isinstance(network.conv1, nn.Conv2d):
        before = network.conv1
        network.conv1 = nn.Conv2d(before.in_channels, before.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    else:  # a deep stem of three 3x3 convolutions
        network.conv1[0].stride = (1, 1)
    network.maxpool = nn.Identity()


def _user_function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise TaskError(
            f"arch {name!r}: {error}; wanted module:function, importable where trials run"
        ) from error


def _check_shape(
    model: nn.Module, arch: Arch, image: tuple[int, int, int], num_classes: int
) -> None:
    asked = f"arch {arch!r} on images of {'x'.join(map(str, image))} (channels, height, width)"
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, *image)).shape)
    except Exception as error:  # whatever a model's layers raise on images they cannot take
        raise TaskError(
            f"{asked}: {_reason(error)}; small images want small patches (patch_size) or few "
            f"stages (depths)"
        ) from error
    model.train()
    if shape != (2, num_classes):
        raise TaskError(f"{asked}: two gave logits of shape {shape}, not (2, {num_classes})")


def _reason(error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "multiple values for keyword" in reason:
        reason += "; timm fixes it in this entry point, not in mixer, resmlp, gmlp and convmixer"
    return reason
