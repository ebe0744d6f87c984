"""Where experts can stand: a block of one of the two towers. Needs no torch."""

from typing import Literal, get_args

Tower = Literal["vision", "text"]
TOWERS: tuple[Tower, ...] = get_args(Tower)
Site = tuple[Tower, int]
"""A block: its tower and its index."""


def site_name(site: Site) -> str:
    """`vision.3`: a site as files and figures name it."""
    return f"{site[0]}.{site[1]}"


def read_site(name: str) -> Site:
    """What `site_name` wrote."""
    tower, _, block = name.partition(".")
    return ("vision" if tower == "vision" else "text", int(block))
