"""Stands for training in a sweep: a second of DVC, and an AP that goes by the learning rate alone."""

import json
import os
import sys
import time
from pathlib import Path

import yaml

from sandwatch.running import end_with_dvc

BEST = 0.002
"""Learning rate of AP 1; from five times as much on, training fails."""

if __name__ == "__main__":
    end_with_dvc()
    told = Path(os.environ["TOY"])
    rate = yaml.safe_load(Path("params.yaml").read_text())["train"]["learning_rate"]
    with (told / "ran").open("a") as file:
        file.write(f"{rate}\n")
    while (told / "hold").exists():
        time.sleep(0.05)
    if rate > 5 * BEST or (told / "broken").exists():
        print(
            f"error: training: got scores that are no numbers at {rate}; expected weights that settle", file=sys.stderr
        )
        sys.exit(1)
    results = Path("results/train")
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics.json").write_text(json.dumps({"val_ap": round(1 / (1 + abs(rate - BEST) / BEST), 6)}))
