"""The embedded backbone: a CLIP of a few million parameters that sees real images and needs no download."""

from igsp_deploy.backbones.nano.model import NANO_CONFIG, build_nano, nano_weights_path

__all__ = ["NANO_CONFIG", "build_nano", "nano_weights_path"]
