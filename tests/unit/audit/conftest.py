import shutil
from pathlib import Path

import pytest

from tests.audit_history import Made, write_history


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """20 commits with 6 models on 3 snapshots of the labels, and 2 experiments."""
    return write_history(
        tmp_path_factory.mktemp("history") / "clone",
        labels=300,
        revisions=20,
        experiments=2,
        snapshots=3,
        models=6,
        shifted=2,
    )


@pytest.fixture(scope="session")
def in_a_row(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of 150 labels; one of 50 of them that began with it; and one of those 50 that began with that."""
    root = tmp_path_factory.mktemp("in-a-row") / "clone"
    return write_history(root, labels=150, revisions=3, experiments=0, snapshots=3, models=3, begun=2)


@pytest.fixture
def spoilt(in_a_row: Made, tmp_path: Path) -> Path:
    """A copy of that repository, cache and all, that a test may spoil."""
    root = tmp_path / "clone"
    shutil.copytree(in_a_row.root, root)
    return root
