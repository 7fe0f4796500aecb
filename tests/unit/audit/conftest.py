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
