"""Hypothesis strategies for grids, windows and places."""

from hypothesis import strategies as st
from shapely import Point, Polygon

from sandwatch.grid import RESOLUTION_M, Grid, Window


@st.composite
def grids(draw: st.DrawFn, max_px: int = 400) -> Grid:
    """Grids snapped to 10 m, in either hemisphere."""
    zone = draw(st.integers(1, 60))
    return Grid(
        crs=f"EPSG:{draw(st.sampled_from((32600, 32700))) + zone}",
        left=RESOLUTION_M * draw(st.integers(20_000, 75_000)),
        top=RESOLUTION_M * draw(st.integers(100_000, 700_000)),
        width=draw(st.integers(1, max_px)),
        height=draw(st.integers(1, max_px)),
    )


@st.composite
def windows(draw: st.DrawFn, grid: Grid) -> Window:
    """Windows that lie in a grid."""
    row, col = draw(st.integers(0, grid.height - 1)), draw(st.integers(0, grid.width - 1))
    return Window(
        row=row,
        col=col,
        height=draw(st.integers(1, grid.height - row)),
        width=draw(st.integers(1, grid.width - col)),
    )


@st.composite
def places(draw: st.DrawFn, spread: float = 3.0, at: tuple[float, float] = (85.0, 20.0)) -> Point | Polygon:
    """Points and small quadrilaterals within ``spread`` degrees of a position, a few of them far apart."""
    degrees = st.floats(-spread, spread, allow_nan=False).map(lambda value: round(value, 5))
    x, y = at[0] + draw(degrees), at[1] + draw(degrees)
    if draw(st.booleans()):
        return Point(x, y)
    size = draw(st.floats(0.001, 0.08))
    return Polygon([(x, y), (x + size, y + 0.3 * size), (x + 0.8 * size, y + size), (x - 0.1 * size, y + 0.6 * size)])
