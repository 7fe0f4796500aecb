import numpy as np
import pytest
import torch

from sandwatch.train.augment import augment


def orientations(*, flips: bool, quarter_turns: bool, samples: int = 400) -> list[bytes]:
    """What became of one asymmetric image, after checking that mask and every band went the same way."""
    image = torch.arange(16, dtype=torch.int16).view(4, 4)
    pixels = torch.stack([image, image + 100]).expand(samples, 2, 4, 4)
    mask = image.to(torch.uint8).expand(samples, 4, 4)
    turned, turned_mask = augment(
        pixels, mask, torch.Generator().manual_seed(0), flips=flips, quarter_turns=quarter_turns
    )
    assert (turned.dtype, turned_mask.dtype) == (torch.int16, torch.uint8)
    torch.testing.assert_close(turned[:, 0].to(torch.uint8), turned_mask)
    torch.testing.assert_close(turned[:, 1] - 100, turned[:, 0])
    return [sample.numpy().tobytes() for sample in turned_mask]


IMAGE = np.arange(16, dtype=np.uint8).reshape(4, 4)
TURNS = {np.rot90(IMAGE, k).tobytes() for k in range(4)}
MIRRORS = {image.tobytes() for image in (IMAGE, IMAGE[::-1], IMAGE[:, ::-1], IMAGE[::-1, ::-1])}
BOTH = TURNS | {np.rot90(IMAGE[::-1], k).tobytes() for k in range(4)}


@pytest.mark.parametrize(
    ("flips", "quarter_turns", "expected"),
    [(False, False, {IMAGE.tobytes()}), (False, True, TURNS), (True, False, MIRRORS), (True, True, BOTH)],
)
def test_augmentation_gives_each_orientation_as_often(flips: bool, quarter_turns: bool, expected: set[bytes]) -> None:
    found = orientations(flips=flips, quarter_turns=quarter_turns)
    assert set(found) == expected
    times = [found.count(image) for image in expected]
    assert min(times) > 0.6 * len(found) / len(expected)


def test_augmentation_depends_on_the_seed_alone() -> None:
    assert orientations(flips=True, quarter_turns=True) == orientations(flips=True, quarter_turns=True)
