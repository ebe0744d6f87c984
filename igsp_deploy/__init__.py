"""igsp-deploy: keep teaching one frozen CLIP new recognition tasks, and ship it as one ONNX bundle.

import igsp_deploy as igsp

model = igsp.Model.create("model")
model.learn("shoes", "data/shoes", steps=200)
model.export("bundle")
igsp.Classifier("bundle").classify("photo.jpg")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igsp_deploy.doors import Classifier, Client, Model

__version__ = "0.1.0"
__all__ = ["Classifier", "Client", "Model", "__version__"]


def __getattr__(name: str) -> Any:
    """A name of the API, loaded when it is first asked for: what classifies needs no torch."""
    from igsp_deploy.doors import NAMES

    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
