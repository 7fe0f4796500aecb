"""Chance made into text, JSON and spoilt bytes."""

from __future__ import annotations

import json
from random import Random
from typing import Any

POOLS = (
    (0x20, 0x7E),  # ASCII
    (0x00, 0x1F),  # controls
    (0x7F, 0x9F),  # more of them
    (0xA0, 0x2FFF),  # letters of many scripts, marks, directions
    (0x2000, 0x206F),  # blanks, joiners, directions
    (0xD800, 0xDFFF),  # surrogates, alone
    (0xE000, 0xFFFF),  # private, BOM, specials
    (0x10000, 0x10FFFF),
)
NUMBERS = (
    0, -0.0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**64), 10**400, 1e-320, 1e308, float("inf"), float("-inf"),
    float("nan"), 90, 180, -180.0000001, 0.1, 1e-9,
)  # fmt: skip
DATES = (
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "9999-12-31T23:59:60Z", "2024-02-30T00:00:00Z",
    "2024-13-01", "-0001-01-01T00:00:00Z", "+12345-01-01T00:00:00Z", "2024-01-01T24:00:00Z",
    "2024-01-01T00:00:00+99:99",
    "1e308", "0", "-1", "NaN", "2024-01-01 00:00", "2024-01-01T00:00:00.0000000000000001Z", "",
    "0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z", "253402300800", "2024-W01-1T00:00:00Z", "12:00",
)  # fmt: skip
DEEP = 3_000


def text(draw: Random, most: int = 24) -> str:
    """Any characters at all, of one pool or of several."""
    pools = draw.choices(POOLS, k=draw.randint(1, 3))
    return "".join(chr(draw.randint(*draw.choice(pools))) for _ in range(draw.randint(0, most)))


def value(draw: Random, depth: int = 3) -> Any:
    """Any JSON value: all its types, edges of dates and numbers, depths."""
    choice = draw.randrange(12 if depth else 9)
    if choice < 2:
        return text(draw)
    if choice == 2:
        return draw.choice(DATES)
    if choice == 3:
        return draw.choice(NUMBERS)
    if choice == 4:
        return draw.choice((None, True, False))
    if choice == 5:
        return draw.uniform(-200, 200)
    if choice == 6:
        return draw.choice(
            ("", " ", "null", "../../etc/passwd", "a\nb", "=1+1", "|", "<b>", "%00", "\ufeff", "\x1b[2J")
        )
    if choice == 7:
        return [] if draw.random() < 0.5 else {}
    if choice == 8:
        return text(draw, 4_000) if draw.random() < 0.1 else draw.randint(-(10**6), 10**6)
    if choice == 9 and draw.random() < 0.1:
        deep: Any = text(draw)
        for _ in range(draw.randint(1, DEEP)):
            deep = [deep] if draw.random() < 0.5 else {"a": deep}
        return deep
    if choice < 11:
        return [value(draw, depth - 1) for _ in range(draw.randint(0, 5))]
    return {text(draw, 8): value(draw, depth - 1) for _ in range(draw.randint(0, 5))}


def spoilt(draw: Random, tree: Any) -> Any:
    """The JSON value itself, with one to three places of it replaced, removed, doubled, renamed or wrapped."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return value(draw)
        box, key = draw.choice(places)
        change = draw.randrange(8)
        if change < 4:
            box[key] = value(draw)
        elif change == 4:
            del box[key]
        elif change == 5:
            box[key] = [box[key]] if draw.random() < 0.5 else {"a": box[key]}
        elif isinstance(box, list):
            box.insert(key, box[draw.randrange(len(box))])
        elif change == 6:
            box[text(draw, 8)] = box.pop(key)
        else:
            box[key] = box[draw.choice(list(box))]
    return tree


def _places(tree: Any) -> Any:
    """(container, key) of everything in it, without following what stands in it twice."""
    waiting, seen = [tree], set()
    while waiting:
        box = waiting.pop()
        if id(box) in seen:
            continue
        seen.add(id(box))
        for key in list(box) if isinstance(box, dict) else range(len(box)) if isinstance(box, list) else ():
            yield box, key
            waiting.append(box[key])


def dumped(draw: Random, tree: Any) -> bytes:
    """JSON, escaped or not; a surrogate alone is written as whoever doesn't care would. One line without its end."""
    try:
        if draw.random() < 0.7:
            return json.dumps(tree).encode()
        return json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):  # deeper than json writes, or a circle
        return b"[" * DEEP + b"]" * DEEP


def spoilt_bytes(draw: Random, data: bytes, most: int = 3) -> bytes:
    """Bits flipped, bytes set, parts cut out, doubled, zeroed or exchanged, or the end cut off."""
    spoilt = bytearray(data)
    for _ in range(draw.randint(1, most)):
        if not spoilt:
            return bytes(draw.randbytes(draw.randint(0, 20)))
        at = draw.randrange(len(spoilt))
        if draw.random() < 0.3:  # headers and footers are where it hurts
            at = (
                min(at, draw.randrange(256))
                if draw.random() < 0.5
                else max(at, len(spoilt) - 1 - draw.randrange(256), 0)
            )
        end = min(at + draw.choice((1, 2, 4, 8, 100, len(spoilt) // 3 + 1)), len(spoilt))
        change = draw.randrange(7)
        if change < 2:
            spoilt[at] ^= 1 << draw.randrange(8)
        elif change == 2:
            spoilt[at] = draw.choice((0, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif change == 3:
            del spoilt[at:]
        elif change == 4:
            del spoilt[at:end]
        elif change == 5:
            spoilt[at:end] = bytes(end - at) if draw.random() < 0.5 else draw.randbytes(end - at)
        else:
            spoilt[at:at] = spoilt[at:end]
    return bytes(spoilt)
