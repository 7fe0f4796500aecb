"""Files that vanish, end early or are others, before a stage reads them or while it does."""

from __future__ import annotations

import shutil
import threading
import uuid
from collections import Counter
from pathlib import Path
from random import Random

from tests.torture import fuzz
from tests.torture.attack import expect
from tests.torture.processes import end_all
from tests.torture.sample import RUN_MARK, Sample, last_line, traceback_in

STAGES = ("export", "annotations", "chips", "chips", "train", "evaluate", "infer", "infer")


class Attack:
    """Harms one input of a stage and runs it: an error in a line, or outputs that the lock tells the truth of."""

    share = 3.0
    deadline_s = 600.0

    def __init__(self, scratch: Path) -> None:
        """Runs the pipeline once."""
        self._sample = Sample(scratch)

    def attempt(self, draw: Random, folder: Path) -> Counter[str]:
        sample, mark = self._sample, uuid.uuid4().hex
        stage = draw.choice(STAGES)
        victim = draw.choice(sample.given(stage))
        moment = draw.choice((0.0, draw.uniform(0.1, 1.0))) * sample.seconds[stage]
        how = draw.choice(("removed", "cut off", "emptied", "spoilt", "replaced", "made a folder"))
        what = f"{victim} {how} {f'{moment:.1f} s into' if moment else 'before'} {stage}"
        path = sample.root / victim
        others = [name for name in sample.given(stage) if Path(name).suffix == path.suffix and name != victim]
        other = sample.root / draw.choice(others) if others else path
        content = _harmed(draw, how, path.read_bytes(), other.read_bytes())
        try:
            if not moment:
                _put(path, content)
            run = sample.start("repro", "--force", "--single-item", "--no-run-cache", stage, mark=mark)
            late = threading.Timer(moment, _put, (path, content))
            if moment:
                late.start()
            said, _ = run.communicate()
            late.cancel()
            expect(not traceback_in(said), "traceback", f"{traceback_in(said)}; {what}")
            if run.returncode:
                expect("rror" in last_line(said), "unreadable error", f"{last_line(said)!r}; {what}")
                return Counter(refused=1)
            try:
                sample.judge_lock(stage, victim)
            except Exception as error:
                error.args = (f"{error}; {what}",)
                raise
            return Counter(right=1)
        finally:
            end_all(mark, RUN_MARK)
            sample.restore(sample.stages)


def _harmed(draw: Random, how: str, content: bytes, other: bytes) -> bytes | Path | None:
    """What is put in its place: None for nothing, a path for a folder."""
    if how == "removed":
        return None
    if how == "made a folder":
        return Path()
    if how == "emptied":
        return b""
    if how == "cut off":
        return content[: draw.randrange(len(content))] if content else b""
    return fuzz.spoilt_bytes(draw, content) if how == "spoilt" else other


def _put(path: Path, content: bytes | Path | None) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.mkdir()
