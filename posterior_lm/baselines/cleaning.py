"""One way to clean texts before they are compared, the same for every method."""

from __future__ import annotations


def clean(text: str, stop: str = "") -> str:
    """The text up to and with its first `stop`, white space collapsed to single spaces and stripped at both ends.

    Characters that stand for broken bytes (U+FFFD) go too, as no reader sees them. Without a stop the
    whole text is kept.
    """
    if stop:
        place = text.find(stop)
        text = text if place < 0 else text[: place + len(stop)]
    return " ".join(text.replace("\ufffd", "").split())
