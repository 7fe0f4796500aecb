"""A painted world of meandering sand rivers and the mines on them: imagery without an account, truth included.

Everything is a function of the seed, the site's name, its grid and the river's line; the month moves the water, the
crops, the clouds and the sensor's noise, and opens and widens mines. Nothing else moves: a mine of one month lies where
it lay the month before.

What makes the region worth learning from: **a mined pixel has the colours of an untouched one.** Sand, dry to flooded,
lies on one path through the spectra (``_SAND``). On untouched bars the place on that path follows height above the
water, smooth and drawn out along the flow; in mines it follows pits, heaps and rows 20 to 60 m apart inside an angular
outline. Both are ranked to the same even distribution over the path, so only texture and shape tell them apart. For
the same reason all bands are painted at 10 m: real 20 m and 60 m bands would betray texture to a single pixel.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.geometry import WGS84, reproject, transformer
from sandwatch.grid import RESOLUTION_M
from sandwatch.imagery import Composite, Raster, Site, SourceImage
from sandwatch.imagery.noise import Floats, generator, normal, rank, smooth, triangle
from sandwatch.imagery.params import Synthetic

BANDS = (*params.S2_L2A_BANDS, *params.S1_BANDS)

# Medians of classes measured on real Sentinel-2 L2A (reflectance x 10000) and Sentinel-1 (dB) chips, in the order of
# BANDS. Source: TerraMesh chips (IBM/terramind, Apache-2.0; Copernicus Sentinel data), measured for this project.
_DEEP_WATER = (407, 488, 561, 203, 141, 51, 60, 55, 48, 30, 62, 51, -17.7, -22.3)
_SHALLOW_WATER = (1030, 1354, 1556, 1390, 1298, 887, 903, 874, 754, 381, 242, 144, -13.5, -20.4)
_WET_SAND = (998, 1024, 1238, 1308, 1371, 1290, 1357, 1380, 1369, 846, 830, 463, -14.5, -20.5)
_RIVERBED_SAND = (1040, 1505, 2030, 2722, 3064, 3268, 3437, 3472, 3677, 3462, 4803, 4034, -15.8, -21.9)
_WHITE_SAND = (1943, 2482, 2984, 3310, 3558, 3545, 3629, 3760, 3792, 3215, 4650, 4351, -18.0, -22.1)
_FOREST = (174, 172, 336, 183, 628, 2010, 2446, 2610, 2706, 2699, 1105, 447, -7.1, -13.5)
_RIPARIAN = (649, 447, 772, 804, 1554, 2524, 2863, 2980, 3201, 3056, 2966, 2053, -9.5, -14.8)
_SOIL = (609, 716, 1028, 1428, 1849, 2230, 2463, 2520, 2795, 2805, 3535, 2681, -12.2, -17.4)
_BARE_FIELD = (282, 523, 874, 1366, 1581, 1867, 2052, 2380, 2372, 2310, 2428, 1603, -10.0, -17.5)
_CROP = (89, 85, 462, 260, 942, 2824, 3319, 3666, 3638, 3663, 1859, 961, -12.1, -17.8)
_BUILT = (1382, 1452, 1592, 1727, 2003, 2565, 2806, 2998, 3045, 3059, 2968, 2426, -11.5, -17.1)

_SAND = np.array([_SHALLOW_WATER, _WET_SAND, _RIVERBED_SAND, _WHITE_SAND], dtype=np.float64)
_SAND_PLACES = np.array([0.0, 0.18, 0.62, 1.0])
"""Where each of the four spectra of ``_SAND`` lies on the path from flooded (0) to white and dry (1)."""

_WATER_LEVEL = (0.24, 0.19, 0.14, 0.11, 0.09, 0.22, 0.52, 0.72, 0.70, 0.50, 0.38, 0.30)
"""Of January to December, as a share of the height of the banks: a monsoon river, lowest in May, highest in August."""
_FIRST_MONTH = 2019 * 12
"""Mines open from January 2019 on, over 30 months; before it every site is untouched. In months."""
UNTOUCHED_SHARE = 0.15
"""Share of sites without a mine at any time."""
_SMALL_MINE_PX = 90
_MIN_MINE_PX = 12
"""A mine of which fewer pixels stand out of the water isn't seen at all."""


@dataclass(frozen=True, kw_only=True)
class Mine:
    """A sand mine in one month, as it truly is.

    Attributes:
        number: its value in the array of :func:`truth`, from 1.
        faint: small or abandoned: a careful annotator would mark it with low confidence.
        small: so small that an annotator may miss it.
    """

    number: int
    faint: bool
    small: bool


@dataclass(frozen=True, kw_only=True)
class Painter:
    """A source of imagery (``sandwatch.imagery.Source``); :func:`truth` tells where the mines are.

    Attributes:
        rivers: centrelines, EPSG:4326; the longest stretch within a site's grid becomes its river.
        bands: which bands to paint.
        synthetic: seed and cloudiness.
    """

    rivers: BaseGeometry
    bands: params.Bands
    synthetic: Synthetic

    def __call__(self, site: Site, month: date) -> Composite:
        """Paints ``site`` in the month that begins with ``month``.

        Raises:
            InputError: no line of ``rivers`` crosses the site's grid, or a band is asked for that Level-2A lacks.
        """
        if "B10" in self.bands.s2:
            raise InputError(
                "params.yaml: bands.s2", got="B10", expected="Level-2A bands", fix="remove B10, or use your own files"
            )
        world = _World(site, self.rivers, self.synthetic.seed)
        spectra = _paint(world, month)
        rng = generator(self.synthetic.seed, site.site_id, month, "sensor")
        s2 = spectra[[BANDS.index(band) for band in self.bands.s2]]
        # A 1.5 % calibration difference from scene to scene, thin haze that is stronger in the blue, read-out noise.
        haze = 60.0 * (1.0 + _fractal(rng, *world.metres, 3000.0))
        gain = 1.0 + 0.015 * normal(rng, (len(s2), 1, 1))
        blue = np.array([1.0, 0.8, 0.5, 0.4, *[0.2] * 8])[[params.S2_L2A_BANDS.index(band) for band in self.bands.s2]]
        s2 = s2 * gain + blue[:, None, None] * haze + 18.0 * normal(rng, s2.shape)
        s2 = np.rint(s2.clip(1.0, 16000.0)).astype(np.uint16)
        s2[:, _clouds(world, month, self.synthetic)] = 0
        return Composite(
            s2=Raster(pixels=s2, source_images=_sources(site, month, "S2", days=(3, 13, 23))),
            s1=self._radar(world, spectra, rng, site, month) if self.bands.s1 else None,
        )

    def inputs(self, site: Site, month: date) -> Any:
        """The rivers, and the world's seed and clouds."""
        rivers = hashlib.sha256(self.rivers.wkb).hexdigest()
        return {"rivers": rivers, "seed": self.synthetic.seed, "cloud_fraction": self.synthetic.cloud_fraction}

    def _radar(self, world: _World, spectra: Floats, rng: np.random.Generator, site: Site, month: date) -> Raster:
        s1 = spectra[[BANDS.index(band) for band in self.bands.s1]]
        # A month's mean of a few images: speckle of about 1 dB, near enough normal in dB.
        s1 = np.rint((s1 + 1.0 * normal(rng, s1.shape)) * 100.0) / 100.0
        return Raster(pixels=s1.astype(np.float32), source_images=_sources(site, month, "S1", days=(6, 18)))


def truth(
    site: Site, month: date, rivers: BaseGeometry, synthetic: Synthetic
) -> tuple[npt.NDArray[np.int32], list[Mine]]:
    """The mines of ``site`` in the month that begins with ``month``, as far as they stand out of the water.

    Args:
        site: where.
        month: when.
        rivers: as in :class:`Painter`.
        synthetic: as in :class:`Painter`.

    Returns:
        int32 (y, x) on the site's grid, 0 where there is no mine, else the number of one; and the mines in it.

    Raises:
        InputError: as when a painter is called.
    """
    mined = _mined(_World(site, rivers, synthetic.seed), month)
    return mined.numbers, mined.mines


class _World:
    """What of a site doesn't change from month to month. All arrays (y, x) on its grid, lengths in metres.

    Attributes:
        metres: coordinates of pixel centres from the grid's top left corner, down (y, 1) and right (1, x).
        along, across: along the channel from its upper end, and across it, positive to the left.
        half_width: of the river bed, between its banks.
        height: of the bed over its deepest point, as a share of the banks' height (above 1 beyond them).
        bed: whether a pixel is river bed.
        roads: how far from the bank a road runs, on the right (-1) and on the left (1).
    """

    def __init__(self, site: Site, rivers: BaseGeometry, seed: int) -> None:
        self.site, self.seed = site, seed
        grid = site.grid
        self.grid = grid
        self.metres = (
            (np.arange(grid.height, dtype=np.float64)[:, None] + 0.5) * RESOLUTION_M,
            (np.arange(grid.width, dtype=np.float64)[None, :] + 0.5) * RESOLUTION_M,
        )
        self.channel, bend = self._channel(_centreline(site, rivers))
        self.along, self.across, nearest = self._river_coordinates()
        rng = self.rng("bed")
        width = 185.0 + 80.0 * rng.random()
        line = np.zeros(len(self.channel)), np.arange(len(self.channel), dtype=np.float64) * RESOLUTION_M
        half_width = width * (1.0 + 0.28 * smooth(rng, *line, cell_y=1.0, cell_x=700.0))
        # The deepest line swings to the outer bank of each bend, so that the bar grows on the inner one.
        deepest = half_width * (0.55 * bend + 0.15 * smooth(rng, *line, cell_y=1.0, cell_x=500.0)).clip(-0.65, 0.65)
        self.half_width = half_width[nearest]
        ragged = 14.0 * smooth(rng, *self.metres, cell_y=60.0, cell_x=60.0)
        self.bed = np.abs(self.across) < self.half_width + ragged
        offset = (self.across - deepest[nearest]) / self.half_width
        bars = 0.30 * self.flow_noise(rng, 420.0, 75.0) + 0.12 * self.flow_noise(rng, 170.0, 35.0)
        self.roads = {
            bank: 380.0
            + 300.0 * rng.random()
            + 70.0 * smooth(rng, 0.0 * self.along, self.along, cell_y=1.0, cell_x=900.0)
            for bank in (-1.0, 1.0)
        }
        self.height = 0.75 * offset * offset / (0.35 + np.abs(offset)) + bars

    def rng(self, *names: object) -> np.random.Generator:
        return generator(self.seed, self.site.site_id, *names)

    def flow_noise(self, rng: np.random.Generator, length: float, width: float) -> Floats:
        """Noise drawn out along the flow."""
        return smooth(rng, self.across, self.along, cell_y=width, cell_x=length)

    def _channel(self, line: Floats) -> tuple[Floats, Floats]:
        """The meandering channel's middle, a point each 10 m, (point, (y, x)); and how far it swings there, -1 to 1."""
        rng = self.rng("channel")
        steps = np.arange(len(line), dtype=np.float64) * RESOLUTION_M
        swing = smooth(rng, np.zeros_like(steps), steps, cell_y=1.0, cell_x=900.0)
        swing = swing + 0.25 * smooth(rng, np.zeros_like(steps), steps, cell_y=1.0, cell_x=350.0)
        normal_y, normal_x = _normals(line)
        return line + 190.0 * swing[:, None] * np.stack([normal_y, normal_x], axis=1), swing

    def _river_coordinates(self) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
        from scipy.spatial import cKDTree

        y, x = np.broadcast_arrays(*self.metres)
        # The nearest point of every fourth pixel does for its neighbours: the projection below makes up for it.
        coarse = np.stack([y[::2, ::2].ravel(), x[::2, ::2].ravel()], axis=1)
        _, found = cKDTree(self.channel).query(coarse)
        found = found.reshape(y[::2, ::2].shape).astype(np.int64)
        nearest = found.repeat(2, axis=0).repeat(2, axis=1)[: y.shape[0], : y.shape[1]]
        normal_y, normal_x = _normals(self.channel)
        dy, dx = y - self.channel[nearest, 0], x - self.channel[nearest, 1]
        across = dy * normal_y[nearest] + dx * normal_x[nearest]
        along = nearest * RESOLUTION_M + dy * -normal_x[nearest] + dx * normal_y[nearest]
        return along, across, nearest


def _centreline(site: Site, rivers: BaseGeometry) -> Floats:
    """The site's river: a point each 10 m, (point, (y, x)) in metres from the grid's corner, drawn on beyond it."""
    grid = site.grid
    frame = box(*transformer(grid.crs, WGS84).transform_bounds(*grid.bounds))
    # Merged and turned the same way, so that neither other rivers nor how the file cuts and draws this one matters.
    lines = [line for line in shapely.get_parts(rivers) if line.geom_type == "LineString"]
    merged = shapely.line_merge(shapely.union_all(lines).intersection(frame))
    stretches = [part for part in shapely.get_parts(merged) if part.geom_type == "LineString"]
    if not stretches:
        raise InputError(
            f"rivers near site {site.site_id}",
            got="no line across the site's grid",
            expected="the river's centreline as a line, which is what the synthetic source paints along",
            fix="give lines in the region's river file, or use imagery.source: files",
        )
    longest = max(stretches, key=lambda stretch: stretch.length)
    if longest.coords[0] > longest.coords[-1]:
        longest = longest.reverse()
    x, y = np.asarray(reproject(longest, WGS84, grid.crs).coords).T
    # Rounded to the centimetre, so that no last bit of the projection's trigonometry lives on.
    points = np.rint(np.stack([grid.top - y, x - grid.left], axis=1) * 100.0) / 100.0
    points = np.concatenate([[_beyond(points[1], points[0])], points, [_beyond(points[-2], points[-1])]])
    dy, dx = np.diff(points, axis=0).T
    reached = np.concatenate([[0.0], np.cumsum(np.sqrt(dy * dy + dx * dx))])
    steps = np.arange(0.0, reached[-1], RESOLUTION_M)
    return np.stack([np.interp(steps, reached, points[:, axis]) for axis in (0, 1)], axis=1)


def _beyond(before: Floats, end: Floats) -> Floats:
    """A point 3 km after ``end``, straight on from ``before``."""
    dy, dx = end - before
    further: Floats = end + np.array([dy, dx]) * (3000.0 / max(math.sqrt(dy * dy + dx * dx), 1.0))
    return further


def _normals(line: Floats) -> tuple[Floats, Floats]:
    """Unit normals (y, x) of a line of points, to the left of its course, from a chord of 400 m around each point."""
    index = np.arange(len(line))
    chord = line[np.minimum(index + 20, len(line) - 1)] - line[np.maximum(index - 20, 0)]
    length = np.sqrt(chord[:, 0] * chord[:, 0] + chord[:, 1] * chord[:, 1])
    return -chord[:, 1] / length, chord[:, 0] / length


def _fractal(rng: np.random.Generator, y: Floats, x: Floats, cell: float, octaves: int = 3) -> Floats:
    """Value noise of several scales, each half as coarse and half as strong as the one before."""
    total = np.zeros(np.broadcast_shapes(y.shape, x.shape))
    for octave in range(octaves):
        scale = 2.0**octave
        total = total + smooth(rng, y, x, cell_y=cell / scale, cell_x=cell / scale) / scale
    return total


@dataclass(frozen=True, kw_only=True)
class _Mined:
    """The mines of a site in a month, above water; arrays (y, x).

    Attributes:
        numbers: number of the mine in a pixel, 0 where none is.
        relief: pits below 0, heaps above.
        tracks: ways from mines to a road.
        mines: those of ``numbers``.
    """

    numbers: npt.NDArray[np.int32]
    relief: Floats
    tracks: npt.NDArray[np.bool_]
    mines: list[Mine]


def _mined(world: _World, month: date) -> _Mined:
    now = month.year * 12 + month.month - 1
    y, x = world.metres
    numbers = np.zeros(world.grid.shape, dtype=np.int32)
    relief = np.zeros(world.grid.shape)
    tracks = np.zeros(world.grid.shape, dtype=np.bool_)
    above_water = ~world.bed | (world.height > _WATER_LEVEL[month.month - 1])
    rng = world.rng("mine edges")
    wiggle = 22.0 * smooth(rng, y, x, cell_y=150.0, cell_x=150.0)
    ragged = 9.0 * smooth(rng, y, x, cell_y=35.0, cell_x=35.0)
    mines: list[Mine] = []
    rng = world.rng("mines")
    untouched = rng.random() < UNTOUCHED_SHARE
    wanted = 0 if untouched else 6 + int(rng.integers(5))
    taken: list[tuple[float, float, float]] = []
    normal_y, normal_x = _normals(world.channel)
    # Every candidate draws as many deviates whether it is used or not, and whatever the month: mines don't move.
    for at, side, aside, size, breadth, turn, opened, worked, notch, style in rng.random((400, 10)):
        if len(taken) == wanted:
            break
        index = int(at * len(world.channel))
        radius = 95.0 + 160.0 * size * size
        wide = radius * (0.42 + 0.3 * breadth)
        bank = 1.0 if side < 0.5 else -1.0
        offset = bank * (45.0 + 185.0 * aside)
        centre_y = float(world.channel[index, 0] + normal_y[index] * offset)
        centre_x = float(world.channel[index, 1] + normal_x[index] * offset)
        row, col = int(centre_y // RESOLUTION_M), int(centre_x // RESOLUTION_M)
        margin = int(radius / RESOLUTION_M) + 2
        if not (margin <= row < world.grid.height - margin and margin <= col < world.grid.width - margin):
            continue
        if world.bed[row, col] and world.height[row, col] < 0.25:
            continue
        if any((centre_y - ty) ** 2 + (centre_x - tx) ** 2 < (radius + tr + 40.0) ** 2 for ty, tx, tr in taken):
            continue
        taken.append((centre_y, centre_x, radius))
        number = len(taken)
        age = now - (_FIRST_MONTH + int(opened * 30.0))
        if age < 0:
            continue
        grown = min(1.0, 0.7 + 0.02 * age)
        abandoned = worked < 0.25 and age > 10
        # Along and across the mine, whose axis is turned by up to 35 degrees from the river's.
        slope = 1.4 * (turn - 0.5)
        cos, sin = 1.0 / math.sqrt(1.0 + slope * slope), slope / math.sqrt(1.0 + slope * slope)
        axis_y, axis_x = -normal_x[index] * cos + normal_y[index] * sin, normal_y[index] * cos + normal_x[index] * sin
        window = (slice(row - margin, row + margin + 1), slice(col - margin, col + margin + 1))
        dy, dx = y[window[0]] - centre_y, x[:, window[1]] - centre_x
        a, b = dy * axis_y + dx * axis_x, dy * axis_x - dx * axis_y
        reach_a, reach_b = np.abs(a) + ragged[window], np.abs(b) + ragged[window]
        inside = (reach_a < radius * grown) & (reach_b < wide * grown)
        if notch < 0.6:  # a corner is missing
            inside &= ~((a > radius * (0.1 + 0.5 * notch)) & (b > wide * (notch - 0.1)))
        if notch > 0.4:  # a corner is cut off at a slant
            inside &= a - b < (radius + wide) * (0.55 + 0.3 * notch)
        inside &= above_water[window]
        pixels = int(inside.sum())
        if pixels < _MIN_MINE_PX:
            continue
        pattern = _pattern(world.rng("mine", number), a, b, style, worn=abandoned)
        numbers[window][inside] = number
        relief[window][inside] = pattern[inside]
        small = pixels < _SMALL_MINE_PX
        mines.append(Mine(number=number, faint=abandoned or small, small=small))
        # Straight away from the river, to where the road is about to be.
        outward = bank * ((y - centre_y) * normal_y[index] + (x - centre_x) * normal_x[index])
        sideways = (y - centre_y) * normal_x[index] - (x - centre_x) * normal_y[index]
        reach = world.half_width[row, col] + world.roads[bank][row, col] - abs(offset)
        tracks |= (np.abs(sideways + wiggle) < 6.5) & (outward > 0.0) & (outward < reach)
    return _Mined(numbers=numbers, relief=relief, tracks=tracks & ~world.bed & (numbers == 0), mines=mines)


def _pattern(rng: np.random.Generator, a: Floats, b: Floats, style: float, *, worn: bool) -> Floats:
    """Relief of a mine in about -1 to 1 from its own coordinates (metres): pits and heaps, or rows, or dug squares."""
    period = 40.0 + 22.0 * rng.random()
    phase_a = (a + 16.0 * smooth(rng, a, b, cell_y=75.0, cell_x=75.0)) / period + rng.random()
    phase_b = (b + 16.0 * smooth(rng, a, b, cell_y=75.0, cell_x=75.0)) / period + rng.random()
    heaps = 2.0 * rng.random((64, 64)) - 1.0
    cell = heaps[np.floor(2.0 * phase_a).astype(np.int64) % 64, np.floor(2.0 * phase_b).astype(np.int64) % 64]
    if style < 0.45:
        pattern = 1.1 * triangle(phase_a) * triangle(phase_b) + 0.5 * cell
    elif style < 0.75:
        pattern = 0.9 * triangle(phase_a) + 0.35 * cell
    else:
        pattern = cell
    if worn:  # slumped and silted up
        pattern = 0.3 * pattern + 0.8 * smooth(rng, a, b, cell_y=90.0, cell_x=90.0)
    return pattern + 0.25 * smooth(rng, a, b, cell_y=150.0, cell_x=150.0) + 0.15 * normal(rng, a.shape)


def _paint(world: _World, month: date) -> Floats:
    """All bands without sensor effects: float64 (band, y, x), bands as in BANDS."""
    rng = world.rng("sand")
    y, x = world.metres
    mines = _mined(world, month)
    mined = mines.numbers > 0
    spectra = _land(world, month, mines.tracks)

    # Height of the bed over the water; what is barely covered is still on the sand's path.
    over = world.height - _WATER_LEVEL[month.month - 1]
    river = world.bed & ~mined & (over <= -0.06)
    deep = np.interp((-0.06 - over)[river], [0.0, 0.12, 0.5], [0.0, 0.65, 1.0])
    spectra[:, river] = np.asarray(_SHALLOW_WATER)[:, None] * (1.0 - deep) + np.asarray(_DEEP_WATER)[:, None] * deep

    streaks = world.flow_noise(rng, 520.0, 60.0) + 0.5 * world.flow_noise(rng, 190.0, 26.0)
    grain = _fractal(rng, y, x, 45.0, octaves=2)
    shrubs = world.bed & ~mined & (world.height + 0.25 * streaks + 0.08 * grain > 0.72)
    bar = world.bed & ~mined & (over > -0.06) & ~shrubs
    # Gravel breaks up the smoothness here and there, without order.
    gravel = (0.9 * _fractal(rng, y, x, 420.0) - 0.25).clip(0.0, 0.6)
    natural = (over + 0.16 * streaks + 0.45 * gravel * grain)[bar]
    natural = natural + 0.025 * normal(rng, natural.shape)
    # Both ranked to the same even distribution over the path of sand: a pixel alone doesn't say which it is.
    place = np.zeros(world.grid.shape)
    place[bar] = rank(natural)
    place[mined] = rank(mines.relief[mined])
    sand = bar | mined
    spectra[:, sand] = _sand(place[sand])
    spectra[: len(params.S2_L2A_BANDS), sand] *= 1.0 + 0.06 * _fractal(rng, y, x, 400.0)[sand]
    return spectra


class _Cover:
    """What covers the ground: a share (y, x) of each class in every pixel, summing to 1, and its brightness."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shares: dict[tuple[float, ...], Floats] = {}
        self.brightness = np.ones(shape)

    def put(self, spectrum: tuple[float, ...], share: Floats, where: npt.NDArray[np.bool_] | None = None) -> None:
        """Covers ``share`` (y, x) of what is there with another class, everywhere or ``where`` only."""
        share = share.clip(0.0, 1.0) if where is None else np.where(where, share.clip(0.0, 1.0), 0.0)
        for other in self.shares.values():
            other *= 1.0 - share
        self.shares[spectrum] = self.shares.get(spectrum, 0.0) + share

    def spectra(self) -> Floats:
        """The pixels: float64 (band, y, x). Brightness changes reflectance, not backscatter, which is in dB."""
        spectra = np.empty((len(BANDS), *self.brightness.shape))
        for band in range(len(BANDS)):
            spectra[band] = sum(spectrum[band] * share for spectrum, share in self.shares.items())
        spectra[: len(params.S2_L2A_BANDS)] *= self.brightness
        return spectra


def _land(world: _World, month: date, tracks: npt.NDArray[np.bool_]) -> Floats:
    """Everything but sand and river: fields, trees, villages, roads and ponds; float64 (band, y, x)."""
    rng = world.rng("land")
    y, x = world.metres
    shape = world.grid.shape
    far = np.abs(world.across) - world.half_width
    cover = _Cover(shape)
    ones = np.ones(shape)
    year = (month.month - 1) / 12.0
    lush = float(0.5 + 0.5 * triangle(np.asarray(year - 0.25)))  # 0 in April, 1 in October

    # Parcels: a crooked grid, each row shifted, some parcels joined; each with a crop, its calendar and its tone.
    slope = rng.random() - 0.5
    crooked = 55.0 * smooth(rng, y, x, cell_y=450.0, cell_x=450.0)
    v = (y - slope * x + crooked) / (60.0 + 35.0 * rng.random())
    row = np.floor(v).astype(np.int64) % 256
    shifts, lengths = rng.random(256), 70.0 + 130.0 * rng.random(256)
    u = (x + slope * y + crooked) / lengths[row] + shifts[row]
    col = np.floor(u).astype(np.int64) % 256
    calendar, vigour, tone, soil = (layer[row, col] for layer in rng.random((4, 256, 256)))
    season = triangle(year - 0.20 - 0.5 * calendar * (calendar > 0.6))
    green = (0.35 + 0.6 * season + 0.35 * lush) * (0.35 + 0.75 * vigour)
    cover.put(_BARE_FIELD, ones)
    cover.put(_SOIL, soil)
    cover.put(_CROP, 0.9 * green)
    dry_grass = 0.25 + 0.3 * smooth(rng, y, x, cell_y=700.0, cell_x=700.0)
    cover.put(_RIPARIAN, dry_grass + 0.1 * lush)
    cover.brightness *= 0.84 + 0.32 * tone

    edge = np.minimum(u - np.floor(u), 1.0 - (u - np.floor(u))) * lengths[row]
    hedge = (edge < 8.0) & (shifts[(row + col) % 256] > 0.55)
    woods = _fractal(rng, y, x, 320.0, octaves=4)
    trees = 0.75 * (woods - 0.45).clip(0.0, 0.3) / 0.3 + 0.5 * hedge
    strip = 1.0 - far / (45.0 + 55.0 * (1.0 + _fractal(rng, y, x, 160.0)).clip(0.0, 2.0))
    trees = np.maximum(trees, np.where(far > 0.0, (1.6 * strip).clip(0.0, 0.85), 0.0))
    trees = trees * (0.8 + 0.35 * _fractal(rng, y, x, 45.0, octaves=2))
    cover.put(_FOREST, trees)

    # A road on either side with villages, and the tracks that lorries take from the mines to it.
    cover.put(_SOIL, 0.8 * ones, tracks)
    cover.brightness[tracks] = 1.2
    for side, road in world.roads.items():
        off_road = side * world.across - world.half_width - road
        cover.put(_SOIL, 0.75 * ones, np.abs(off_road) < 6.0)
        for _ in range(2):
            middle = world.along.min() + rng.random() * (world.along.max() - world.along.min())
            radius = 90.0 + 190.0 * rng.random()
            ragged = radius * (1.0 + 0.6 * smooth(rng, y, x, cell_y=110.0, cell_x=110.0))
            from_middle = world.along - middle
            village = (off_road * off_road + 0.5 * from_middle * from_middle < ragged * ragged) & (far > 60.0)
            cover.put(_FOREST, 0.35 + 0.25 * normal(rng, shape), village)
            density = smooth(rng, y, x, cell_y=28.0, cell_x=28.0) + 0.35 * normal(rng, shape)
            houses = village & (density > 0.12)
            cover.put(_BUILT, 0.7 + 0.2 * normal(rng, shape), houses)
            cover.brightness[houses] = (1.0 + 0.3 * normal(rng, shape)).clip(0.4, 2.0)[houses]

    # Shrubs on what is high enough to keep them.
    cover.put(_RIPARIAN, ones, world.bed)
    cover.put(_CROP, 0.2 + 0.5 * lush + 0.35 * _fractal(rng, y, x, 50.0), world.bed)
    cover.brightness *= 1.0 + 0.05 * normal(rng, shape)
    spectra = cover.spectra()

    # Ponds: the colours of flooded pits, round, with a smooth wet margin.
    for _ in range(10):
        middle_y, middle_x = rng.random() * y.max(), rng.random() * x.max()
        radius, squeeze = 25.0 + 50.0 * rng.random(), 0.5 + rng.random()
        dy, dx = y - middle_y, x - middle_x
        shore = radius * (1.0 + 0.45 * smooth(rng, y, x, cell_y=70.0, cell_x=70.0))
        inner = np.sqrt(squeeze * dy * dy + dx * dx / squeeze + 0.4 * dy * dx) / shore
        pond = (inner < 1.0) & (far > 30.0)
        spectra[:, pond] = _sand((0.3 * inner * inner)[pond])
    return spectra


def _sand(place: Floats) -> Floats:
    """Spectra (band, pixel) at places (pixel) on the path of sand."""
    return np.stack([np.interp(place, _SAND_PLACES, _SAND[:, band]) for band in range(len(BANDS))])


def _clouds(world: _World, month: date, synthetic: Synthetic) -> npt.NDArray[np.bool_]:
    """Where no image of the month was free of cloud: patches, none in most dry months."""
    rng = world.rng(month, "clouds")
    field = rank(_fractal(rng, *world.metres, 900.0).ravel()).reshape(world.grid.shape)
    # Gaps gather in some months; their mean is what was asked for.
    luck = rng.random()
    return field > 1.0 - min(4.0 * luck * luck * luck * synthetic.cloud_fraction, 0.95)


def _sources(site: Site, month: date, mission: str, days: tuple[int, ...]) -> tuple[SourceImage, ...]:
    """The images that a composite of the month is said to be made of; invented, like the rest."""
    return tuple(
        SourceImage(
            id=f"SYNTHETIC_{mission}_{month:%Y%m}{day:02d}_{site.site_id}",
            date=f"{month:%Y-%m}-{day:02d}",
            processing_baseline="05.09" if mission == "S2" else None,
        )
        for day in days
    )
