from hypothesis import given
from hypothesis import strategies as st

from sandwatch.share import chosen

OBS_IDS = st.lists(st.integers(0, 10_000).map(lambda number: f"s{number}_2020-01-01"), min_size=1, unique=True)
SHARES = st.floats(0.001, 1)


@given(OBS_IDS, st.data(), SHARES, SHARES, st.integers(0, 9))
def test_shares_are_nested_and_hold_a_mine(
    obs_ids: list[str], data: st.DataObject, one: float, other: float, seed: int
) -> None:
    mined = set(data.draw(st.lists(st.sampled_from(obs_ids))))
    small, large = (chosen(obs_ids, mined, share=share, seed=seed) for share in sorted((one, other)))
    assert small <= large <= set(obs_ids)
    assert len(small) == max(round(min(one, other) * len(obs_ids)), 1)
    assert not mined or small & mined
    assert chosen(obs_ids, mined, share=1.0, seed=seed) == set(obs_ids)


def test_the_order_goes_by_the_seed_and_not_by_the_list() -> None:
    obs_ids = [f"s{number}_2020-01-01" for number in range(40)]
    half = chosen(obs_ids, [], share=0.5, seed=0)
    assert chosen(reversed(obs_ids), [], share=0.5, seed=0) == half
    assert chosen(obs_ids, [], share=0.5, seed=1) != half
    assert 5 < len(half & set(obs_ids[:20])) < 15  # of both halves of the list


def test_an_observation_that_is_added_moves_no_other() -> None:
    obs_ids = [f"s{number}_2020-01-01" for number in range(40)]
    before = chosen(obs_ids, [], share=0.5, seed=0)
    after = chosen([*obs_ids, "new_2020-01-01", "newer_2020-01-01"], [], share=0.5, seed=0)
    assert len(before - after) <= 1
