"""A folder of chips that a small network learns in seconds: mines are bright in band 2, where band 1 is a gradient."""

from pathlib import Path

import numpy as np
import pandas as pd

from sandwatch import schemas, stack
from sandwatch.files import write_json

SIZE = 32
FINGERPRINT = "3" * 64
BANDS = ("B2", "B3", "B4")
FOLDS = {
    "a_2020-01-01": "train",
    "b_2020-01-01": "train",
    "n_2020-01-01": "train",
    "c_2020-01-01": "val",
    "t_2020-01-01": "test",
}
HEIGHT, WIDTH = 64, 112


def write(folder: Path, folds: dict[str, str] = FOLDS) -> Path:
    """Writes windows.parquet, about.json, pixels and masks; the observation named n has no mine."""
    rows = []
    for number, (obs_id, fold) in enumerate(folds.items()):
        generator = np.random.default_rng(number)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        if not obs_id.startswith("n"):
            for value, count in ((1, 2), (2, 5)):
                for _ in range(count):
                    row, col = generator.integers(0, (HEIGHT - 12, WIDTH - 16))
                    mask[row : row + 10, col : col + 14] = value
        pixels = generator.normal(0, 60, (len(BANDS), HEIGHT, WIDTH))
        pixels += np.array([800, 1200, 1500])[:, None, None] + np.arange(WIDTH) * np.array([3, 0, 1])[:, None, None]
        pixels[1] += 500 * (mask > 0)
        pixels = pixels.astype(np.int16)
        pixels[:, :5, :9] = stack.NODATA
        mask[:5, :9] = 255
        mask[60:, 100:] = 255
        for kind, array in (("pixels", pixels), ("masks", mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / kind / f"{obs_id}.npy", array)
        for row in (0, 16, 32):
            for col in (0, 16, 32, 48, 64):
                part = mask[row : row + SIZE, col : col + SIZE]
                rows.append(
                    {
                        "chip_id": f"{obs_id}_g{row}_{col}",
                        "obs_id": obs_id,
                        "site_id": obs_id[0],
                        "river": "r",
                        "group": number // 2,
                        "fold": fold,
                        "kind": "grid",
                        "row": row,
                        "col": col,
                        "size_px": SIZE,
                        **{
                            f"px_{name}": int((part == value).sum())
                            for name, value in (("other", 0), ("low", 1), ("high", 2), ("ignored", 255))
                        },
                        "aoi_fraction": 1.0,
                        "valid_fraction": 1.0,
                    }
                )
    schemas.Windows.write(pd.DataFrame(rows), folder / "windows.parquet")
    schemas.ChipLabels.write(
        pd.DataFrame({"chip_id": [], "feature_id": [], "pixels": []}).astype(
            {"chip_id": str, "feature_id": str, "pixels": int}
        ),
        folder / "chip_labels.parquet",
    )
    write_json(folder / "about.json", {"label_fingerprint": FINGERPRINT, "imagery": "synthetic", "labels": "synthetic"})
    return folder
