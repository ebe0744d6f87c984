"""Base64 as clients write it: what differs from the letter of the standard is taken, what is not base64 is not."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igsp_serve.base64_text import from_base64

FILE = bytes(range(256)) + b"\xff\xfe\xfd>>>???"


@given(st.binary(max_size=300), st.integers(1, 90), st.sampled_from(["\n", "\r\n", " ", "\t"]))
def test_every_way_of_writing_is_read(data: bytes, width: int, gap: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(data).decode()
        for written in (text, text.rstrip("=")):
            lines = gap.join(written[at : at + width] for at in range(0, len(written), width))
            for whole in (written, lines, f"{lines}{gap}", f"data:image/png;base64,{lines}"):
                assert from_base64(whole) == data


@pytest.mark.parametrize("text", ["#", "AAAA#", "A", "AAAAA", "AB==C", "A==", "AB===", "====", "AÄAA", "ＡＡＡＡ"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    for whole in (text, f"data:image/png;base64,{text}"):
        with pytest.raises(ValueError, match="not base64"):
            from_base64(whole)


@pytest.mark.parametrize("text", [None, 5, b"AAAA", ["AAAA"], "data:image/png,AAAA", "data:AAAA"])
def test_other_values_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="base64"):
        from_base64(text)
