"""Reading a page back: its addresses, its text, its tables."""

import re
from html.parser import HTMLParser

ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "xlink:href", "background")


class Parts(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, page: str) -> None:
        """Parse `page`."""
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images_without_text = 0
        self.text: list[str] = []
        self._skip = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note tags, ids and addresses."""
        self.tags.append(tag)
        values = dict(attrs)
        self._skip = tag == "style"
        self.ids += [values["id"] or ""] if "id" in values else []
        self.addresses += [value or "" for name, value in attrs if name in ADDRESSES]
        if tag == "img" and not values.get("alt"):
            self.images_without_text += 1

    def handle_data(self, data: str) -> None:
        """Note text."""
        if not self._skip:
            self.text.append(data)


def external(page: str) -> list[str]:
    """Everything the page would load from elsewhere: addresses that are not its own, and those in its style."""
    parts = Parts(page)
    found = [address for address in parts.addresses if not address.startswith(("data:", "#"))]
    found += re.findall(r"url\([^)]*\)|@import[^;]*", page)
    found += [tag for tag in parts.tags if tag in ("script", "iframe", "object", "embed", "base")]
    return found
