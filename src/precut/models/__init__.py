"""The zoo: networks of plain ``torch.nn`` modules, by name.

Importing a family's module registers its members; the registry drives the lists, the command line and the tests.
"""

from precut.models import cifar_resnet, mobilenet, resnet, shufflenet, speednet, vgg, wide_resnet  # noqa: F401
from precut.models._registry import create_model, list_models, model_options, register
from precut.models.speednet import init_whitening_

__all__ = ["create_model", "init_whitening_", "list_models", "model_options", "register"]
