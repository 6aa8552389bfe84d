"""The datasets that have a name: one entry each. The readers and the loader take everything from here."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from precut._registry import Registry

__all__ = ["KNOWN", "Known", "list_datasets"]


@dataclass(frozen=True)
class Known:
    """What is known of a dataset before any file is read.

    Attributes:
        places: files and folders to look for under the data root, the likeliest first.
        num_classes: labels are below this; None where the files tell (ImageNet parts).
        mean, std: published constants of the training split, one a channel, on the 0..1 scale.
        classes: names in order of label, where the files may lack them.
        hub: the repository on the hub.
        hub_test: its split to test on.
        image_size: side that pictures are brought to unless another is asked; None leaves them as they are.
        lazy: pictures stay on disk and are decoded while training.
        bundled: it comes with the package.
    """

    places: tuple[str, ...]
    num_classes: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None = None
    hub: str | None = None
    hub_test: str = "test"
    image_size: int | None = None
    lazy: bool = False
    bundled: bool = False

    @property
    def channels(self) -> int:
        return len(self.mean)


KNOWN: Registry[Known] = Registry("dataset", "precut.data.list_datasets()")


def list_datasets(pattern: str = "*") -> list[str]:
    """The names that :func:`load` knows, and that match the glob ``pattern``. It also takes any path, and synthetic points
    in any number of segments ("linear-25")."""
    from precut.data._points import LISTED

    return sorted([*KNOWN.names(pattern), *fnmatch.filter(LISTED, pattern)])


_GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

KNOWN.register("fashion-mnist-sample")(
    Known(places=("fashion-mnist",), num_classes=10, mean=(0.2860,), std=(0.3530,), classes=_GARMENTS, bundled=True)
)
KNOWN.register("mnist")(
    Known(
        places=("mnist", "mnist/raw", "MNIST", "MNIST/raw"),
        num_classes=10,
        mean=(0.1307,),
        std=(0.3081,),
        classes=tuple("0123456789"),
        hub="ylecun/mnist",
    )
)
KNOWN.register("fashion-mnist")(
    Known(
        places=("fashion-mnist", "fashion-mnist/raw", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw"),
        num_classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        classes=_GARMENTS,
        hub="zalando-datasets/fashion_mnist",
    )
)
KNOWN.register("cifar10")(
    Known(
        places=(
            "cifar10", "cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz", "cifar10/cifar-10-batches-py", "cifar10/cifar-10-python.tar.gz",
            "cifar10/cifar-10-batches-bin", "cifar10/cifar-10-binary.tar.gz", "CIFAR10",
        ),
        num_classes=10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        classes=_CIFAR10,
        hub="uoft-cs/cifar10",
    )
)  # fmt: skip
KNOWN.register("cifar100")(
    Known(
        places=(
            "cifar100", "cifar-100-python", "cifar-100-python.tar.gz", "cifar-100-binary", "cifar-100-binary.tar.gz",
            "cifar100/cifar-100-python", "cifar100/cifar-100-python.tar.gz", "cifar100/cifar-100-binary",
            "cifar100/cifar-100-binary.tar.gz", "CIFAR100",
        ),
        num_classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        hub="uoft-cs/cifar100",
    )
)  # fmt: skip
KNOWN.register("tiny-imagenet")(
    Known(
        places=(
            "tiny-imagenet", "tiny-imagenet-200", "tiny-imagenet-200.zip", "tiny-imagenet/tiny-imagenet-200",
            "tiny-imagenet/tiny-imagenet-200.zip", "tiny-imagenet-200-sample",
        ),
        num_classes=None,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        hub="zh-plus/tiny-imagenet",
        hub_test="valid",
    )
)  # fmt: skip
KNOWN.register("imagenet")(
    Known(
        places=("imagenet", "imagenet-1k", "ILSVRC2012", "ImageNet"),
        num_classes=None,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        hub="ILSVRC/imagenet-1k",
        hub_test="validation",
        image_size=224,
        lazy=True,
    )
)
