"""The zoo: networks of plain ``torch.nn`` modules, by name.

Importing a family's module registers its members; the registry drives the lists, the command line and the tests.
"""

from precut.models import (  # noqa: F401
    cifar_resnet,
    dense_mlp,
    mobilenet,
    random_densenet,
    resnet,
    shufflenet,
    speednet,
    vgg,
    wide_resnet,
)
from precut.models._links import LEAST_DEPTH
from precut.models._registry import create_model, list_models, model_options, register
from precut.models.speednet import init_whitening_

__all__ = ["LEAST_DEPTH", "create_model", "init_whitening_", "list_models", "model_options", "register"]
