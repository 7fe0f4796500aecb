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

import math
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from sandwatch import params
from sandwatch.errors import InputError
from sandwatch.grid import RESOLUTION_M, Grid
from sandwatch.imagery import Composite, Raster, Site, SourceImage
from sandwatch.imagery.noise import Floats, generator, normal, rank, smooth, triangle

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
"""Mines open from here on, counted in months."""
_MIN_MINE_PX = 12
"""A mine of which fewer pixels stand out of the water isn't seen at all."""


@dataclass(frozen=True, kw_only=True)
class Mine:
    """A sand mine in one month, as it truly is.

    Attributes:
        number: its value in the array of :meth:`Painter.truth`, from 1.
        faint: small or abandoned: a careful annotator would mark it with low confidence.
        small: so small that an annotator may miss it.
    """

    number: int
    faint: bool
    small: bool


@dataclass(frozen=True, kw_only=True)
class Painter:
    """A source of imagery (``sandwatch.imagery.Source``) that also knows where the mines are.

    Attributes:
        rivers: centrelines, EPSG:4326; the longest stretch within a site's grid becomes its river.
        bands: which bands to paint.
        synthetic: seed and cloudiness.
    """

    rivers: BaseGeometry
    bands: params.Bands
    synthetic: params.Synthetic

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

    def _radar(
        self, world: _World, spectra: Floats, rng: np.random.Generator, site: Site, month: date
    ) -> Raster:
        s1 = spectra[[BANDS.index(band) for band in self.bands.s1]]
        # A month's mean of a few images: speckle of about 1 dB, near enough normal in dB.
        s1 = np.rint((s1 + 1.0 * normal(rng, s1.shape)) * 100.0) / 100.0
        return Raster(pixels=s1.astype(np.float32), source_images=_sources(site, month, "S1", days=(6, 18)))

    def truth(self, site: Site, month: date) -> tuple[npt.NDArray[np.int32], list[Mine]]:
        """The mines of ``site`` in the month that begins with ``month``, as far as they stand out of the water.

        Returns:
            int32 (y, x) on the site's grid, 0 where there is no mine, else the number of one; and the mines in it.

        Raises:
            InputError: as when called.
        """
        numbers, mines, _ = _mined(_World(site, self.rivers, self.synthetic.seed), month)
        return numbers, mines


class _World:
    """What of a site doesn't change from month to month. All arrays (y, x) on its grid, lengths in metres.

    Attributes:
        metres: (y, x) coordinates of pixel centres, from the grid's top left corner down and right.
        along, across: along the channel from its upper end, and across it, positive to the left.
        half_width: of the river bed, between its banks.
        height: of the bed over its deepest point, as a share of the banks' height (above 1 beyond them).
        bed: whether a pixel is river bed.
    """

    def __init__(self, site: Site, rivers: BaseGeometry, seed: int) -> None:
        self.site, self.seed = site, seed
        grid = site.grid
        self.grid = grid
        y, x = np.mgrid[0 : grid.height, 0 : grid.width].astype(np.float64)
        self.metres = (y + 0.5) * RESOLUTION_M, (x + 0.5) * RESOLUTION_M
        self.channel, bend = self._channel(_centreline(site, rivers))
        self.along, self.across, nearest = self._river_coordinates()
        rng = self.rng("bed")
        width = 165.0 + 60.0 * rng.random()
        line = np.zeros_like(self.channel[:, 0]), np.arange(len(self.channel)) * RESOLUTION_M
        half_width = width * (1.0 + 0.28 * smooth(rng, *line, cell_y=1.0, cell_x=700.0))
        # The deepest line swings to the outer bank of each bend, so that the bar grows on the inner one.
        deepest = half_width * (0.55 * bend + 0.15 * smooth(rng, *line, cell_y=1.0, cell_x=500.0)).clip(-0.65, 0.65)
        self.half_width = half_width[nearest]
        ragged = 14.0 * smooth(rng, *self.metres, cell_y=60.0, cell_x=60.0)
        self.bed = np.abs(self.across) < self.half_width + ragged
        offset = (self.across - deepest[nearest]) / self.half_width
        bars = 0.30 * self._flow_noise(rng, 420.0, 75.0) + 0.12 * self._flow_noise(rng, 170.0, 35.0)
        self.height = 0.75 * offset * offset / (0.35 + np.abs(offset)) + bars

    def rng(self, *names: object) -> np.random.Generator:
        return generator(self.seed, self.site.site_id, *names)

    def _flow_noise(self, rng: np.random.Generator, length: float, width: float) -> Floats:
        """Noise drawn out along the flow."""
        return smooth(rng, self.across, self.along, cell_y=width, cell_x=length)

    def _channel(self, line: Floats) -> tuple[Floats, Floats]:
        """The meandering channel's middle, a point each 10 m, (point, (y, x)); and how far it swings there, -1 to 1."""
        rng = self.rng("channel")
        steps = np.arange(len(line)) * RESOLUTION_M
        swing = smooth(rng, np.zeros_like(steps), steps, cell_y=1.0, cell_x=900.0)
        swing = swing + 0.25 * smooth(rng, np.zeros_like(steps), steps, cell_y=1.0, cell_x=350.0)
        normal_y, normal_x = _normals(line)
        return line + 190.0 * swing[:, None] * np.stack([normal_y, normal_x], axis=1), swing

    def _river_coordinates(self) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
        from scipy.spatial import cKDTree

        y, x = self.metres
        _, nearest = cKDTree(self.channel).query(np.stack([y.ravel(), x.ravel()], axis=1))
        nearest = nearest.reshape(y.shape).astype(np.int64)
        normal_y, normal_x = _normals(self.channel)
        dy, dx = y - self.channel[nearest, 0], x - self.channel[nearest, 1]
        across = dy * normal_y[nearest] + dx * normal_x[nearest]
        along = nearest * RESOLUTION_M + dy * -normal_x[nearest] + dx * normal_y[nearest]
        return along, across, nearest


def _centreline(site: Site, rivers: BaseGeometry) -> Floats:
    """The site's river as a point each 10 m, (point, (y, x)) in metres from the grid's corner, drawn on beyond the grid."""
    import pyproj
    import shapely

    grid = site.grid
    inverse = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    frame = box(*inverse.transform_bounds(*grid.bounds))
    stretches = [g for g in shapely.get_parts(rivers.intersection(frame)) if g.geom_type == "LineString"]
    if not stretches:
        raise InputError(
            f"rivers near site {site.site_id}",
            got=f"{rivers.geom_type} without a line across the site's grid",
            expected="the river's centreline as a line, which is what the synthetic source paints along",
            fix="give lines in the region's river file, or use imagery.source: files",
        )
    longest = max(stretches, key=lambda stretch: stretch.length)
    forward = pyproj.Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    x, y = forward.transform(*np.asarray(longest.coords).T)
    # Rounded to the centimetre, so that no last bit of the projection's trigonometry lives on.
    points = np.rint(np.stack([grid.top - np.asarray(y), np.asarray(x) - grid.left], axis=1) * 100.0) / 100.0
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
    total = np.zeros_like(y)
    for octave in range(octaves):
        scale = 2.0**octave
        total = total + smooth(rng, y, x, cell_y=cell / scale, cell_x=cell / scale) / scale
    return total


def _mined(world: _World, month: date) -> tuple[npt.NDArray[np.int32], list[Mine], Floats]:
    """The mines above water: numbers (y, x), the mines, and their relief (y, x), which is pits below 0, heaps above."""
    rng = world.rng("mines")
    now = month.year * 12 + month.month - 1
    y, x = world.metres
    numbers = np.zeros(world.grid.shape, dtype=np.int32)
    relief = np.zeros(world.grid.shape)
    above_water = ~world.bed | (world.height > _WATER_LEVEL[month.month - 1])
    mines: list[Mine] = []
    wanted = 0 if rng.random() < 0.12 else 6 + int(rng.integers(5))
    taken: list[tuple[float, float, float]] = []
    normal_y, normal_x = _normals(world.channel)
    for _ in range(400):
        # Every mine draws the same number of deviates whether it is used or not: mines don't move with the month.
        at, side, aside, length, breadth, turn = rng.random(6)
        opened, worked, notch, style = rng.random(4)
        if len(taken) == wanted:
            break
        index = int(at * len(world.channel))
        radius = 110.0 + 130.0 * length * length
        wide = radius * (0.42 + 0.3 * breadth)
        offset = (1.0 if side < 0.5 else -1.0) * (60.0 + 190.0 * aside)
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
        shape_rng = world.rng("mine", number)
        age = now - (_FIRST_MONTH + int(opened * 30.0))
        if age < 0:
            continue
        grown = min(1.0, 0.7 + 0.02 * age)
        faint = worked < 0.25 and age > 10
        # Along and across the mine, whose axis turns by up to 35 degrees from the river's.
        slope = 1.4 * (turn - 0.5)
        cos, sin = 1.0 / math.sqrt(1.0 + slope * slope), slope / math.sqrt(1.0 + slope * slope)
        axis_y, axis_x = -normal_x[index] * cos + normal_y[index] * sin, normal_y[index] * cos + normal_x[index] * sin
        window = (slice(row - margin, row + margin + 1), slice(col - margin, col + margin + 1))
        dy, dx = y[window] - centre_y, x[window] - centre_x
        a, b = dy * axis_y + dx * axis_x, dy * axis_x - dx * axis_y
        inside = (np.abs(a) < radius * grown) & (np.abs(b) < wide * grown)
        if notch < 0.6:  # a corner is missing
            inside &= ~((a > radius * (0.1 + 0.5 * notch)) & (b > wide * (notch - 0.1)))
        if notch > 0.4:  # a corner is cut off at a slant
            inside &= a - b < (radius + wide) * (0.55 + 0.3 * notch)
        inside &= above_water[window]
        small = int(inside.sum()) < 90
        if int(inside.sum()) < _MIN_MINE_PX:
            continue
        pattern = _pattern(shape_rng, a, b, style)
        if faint:
            pattern = 0.35 * pattern + 0.9 * smooth(shape_rng, a, b, cell_y=90.0, cell_x=90.0)
        numbers[window][inside] = number
        relief[window][inside] = pattern[inside]
        mines.append(Mine(number=number, faint=faint or small, small=small))
    return numbers, mines, relief


def _pattern(rng: np.random.Generator, a: Floats, b: Floats, style: float) -> Floats:
    """Relief of a mine in about -1 to 1 from its own coordinates (metres): pits and heaps, or rows, or dug squares."""
    warp = 6.0 * smooth(rng, a, b, cell_y=80.0, cell_x=80.0)
    period = 42.0 + 20.0 * rng.random()
    phase_a, phase_b = (a + warp) / period + rng.random(), (b + warp) / period + rng.random()
    if style < 0.45:
        pattern = 1.2 * triangle(phase_a) * triangle(phase_b) + 0.25 * triangle(phase_a)
    elif style < 0.75:
        pattern = triangle(phase_a) + 0.25 * triangle(0.5 * phase_b)
    else:
        cells = 2.0 * rng.random((64, 64)) - 1.0
        pattern = cells[np.floor(2.0 * phase_a).astype(np.int64) % 64, np.floor(2.0 * phase_b).astype(np.int64) % 64]
    return pattern + 0.18 * normal(rng, a.shape)


def _paint(world: _World, month: date) -> Floats:
    """All bands without sensor effects: float64 (band, y, x), bands as in BANDS."""
    level = _WATER_LEVEL[month.month - 1]
    rng = world.rng("sand")
    y, x = world.metres
    numbers, _, relief = _mined(world, month)
    mined = numbers > 0
    spectra = _land(world, month)

    # Height of the bed over the water; what is barely covered is still on the sand's path.
    over = world.height - level
    river = world.bed & ~mined & (over <= -0.06)
    depth = ((-0.06 - over) / 0.5).clip(0.0, 1.0)
    share = np.interp(depth[river], [0.0, 0.25, 1.0], [0.0, 0.65, 1.0])[None]
    spectra[:, river] = np.asarray(_SHALLOW_WATER)[:, None] * (1.0 - share) + np.asarray(_DEEP_WATER)[:, None] * share

    patches = _fractal(rng, world.across, world.along, 160.0)
    bar = world.bed & ~mined & (over > -0.06)
    grown_over = bar & (world.height > 0.62) & (patches + 0.4 * _fractal(rng, y, x, 60.0) > 0.25)
    bar &= ~grown_over
    natural = (over + 0.22 * patches + 0.06 * _fractal(rng, y, x, 50.0))[bar]
    natural = natural + 0.02 * normal(rng, natural.shape)
    # Both ranked to the same even distribution over the path of sand: a pixel alone doesn't say which it is.
    place = np.zeros(world.grid.shape)
    place[bar] = rank(natural)
    place[mined] = rank(relief[mined])
    sand = bar | mined
    tint = 1.0 + 0.06 * _fractal(rng, y, x, 400.0)[sand]
    for band in range(len(BANDS)):
        spectra[band, sand] = np.interp(place[sand], _SAND_PLACES, _SAND[:, band])
        if band < len(params.S2_L2A_BANDS):
            spectra[band, sand] *= tint
    return spectra


def _mix(one: Floats, other: Floats, share: Floats) -> Floats:
    return one * (1.0 - share) + other * share


def _lit(spectra: Floats, brightness: Floats) -> Floats:
    """``spectra`` (band, 1 or y, 1 or x) with reflectance times ``brightness`` (y, x), and backscatter, in dB, as it is."""
    optical = len(params.S2_L2A_BANDS)
    unlit = np.broadcast_to(spectra[optical:], (len(spectra) - optical, *brightness.shape))
    return np.concatenate([spectra[:optical] * brightness, unlit])


def _land(world: _World, month: date) -> Floats:
    """Everything beyond the sand: fields, trees, villages, roads and ponds; float64 (band, y, x)."""
    rng = world.rng("land")
    y, x = world.metres
    shape = world.grid.shape
    spectra_of = {
        name: np.asarray(values, dtype=np.float64)[:, None, None]
        for name, values in {
            "forest": _FOREST, "riparian": _RIPARIAN, "soil": _SOIL, "bare": _BARE_FIELD, "crop": _CROP, "built": _BUILT
        }.items()
    }
    far = np.abs(world.across) - world.half_width

    # Parcels: a crooked grid, every other row shifted, each parcel with its crop's calendar.
    slope = rng.random() - 0.5
    u = (x + slope * y + 40.0 * smooth(rng, y, x, cell_y=500.0, cell_x=500.0)) / 130.0
    v = (y - slope * x + 40.0 * smooth(rng, y, x, cell_y=500.0, cell_x=500.0)) / 85.0
    row = np.floor(v).astype(np.int64)
    shifts = rng.random(256)
    u = u + shifts[row % 256]
    col = np.floor(u).astype(np.int64)
    table = rng.random((4, 128, 128))
    calendar, vigour, tone, fallow = (layer[row % 128, col % 128] for layer in table)
    season = triangle((month.month - 1) / 12.0 - 0.15 + 0.35 * (calendar > 0.55) + 0.2 * calendar)
    green = ((season + 0.35) * (0.4 + 0.6 * vigour)).clip(0.0, 1.0) * (fallow > 0.2)
    ground = _mix(spectra_of["bare"], spectra_of["soil"], fallow)
    land = _lit(_mix(ground, spectra_of["crop"], 0.85 * green), 0.8 + 0.4 * tone)
    wet = 0.5 - 0.5 * triangle(np.asarray((month.month - 1) / 12.0 + 0.42))
    land = _mix(land, spectra_of["riparian"], 0.25 + 0.2 * wet + np.zeros(shape))

    hedge = (np.minimum(u - col, 1.0 - (u - col)) * 130.0 < 7.0) & (shifts[(row + col) % 256] > 0.45)
    clumps = _fractal(rng, y, x, 220.0) > 0.62
    bank = (far > 0.0) & (far < 60.0 + 60.0 * smooth(rng, y, x, cell_y=150.0, cell_x=150.0))
    trees = hedge | clumps | bank
    share = np.where(trees, 0.35 + 0.5 * rng.random(), 0.0) + 0.12 * _fractal(rng, y, x, 40.0) * trees
    land = _mix(land, spectra_of["forest"], share.clip(0.0, 0.95))
    grass = world.bed
    land = np.where(grass, _mix(spectra_of["riparian"], spectra_of["crop"], 0.35 * wet + np.zeros(shape)), land)

    # A road on either side, and villages on it.
    wander = 60.0 * smooth(rng, np.zeros_like(y), world.along, cell_y=1.0, cell_x=900.0)
    for side in (-1.0, 1.0):
        kept_off = 420.0 + 320.0 * rng.random()
        road = np.abs(side * world.across - world.half_width - kept_off - wander) < 6.0
        land = np.where(road, _lit(spectra_of["soil"], np.full(shape, 1.15)), land)
        for _ in range(3):
            middle = rng.random() * world.along.max()
            radius = 110.0 + 170.0 * rng.random()
            dy = side * world.across - world.half_width - kept_off - wander
            edge = radius * (1.0 + 0.5 * smooth(rng, y, x, cell_y=120.0, cell_x=120.0))
            village = (dy * dy + 0.5 * (world.along - middle) ** 2 < edge * edge) & (far > 40.0)
            houses = village & (normal(rng, shape) > 0.2)
            land = np.where(village, _mix(land, spectra_of["forest"], 0.4 + np.zeros(shape)), land)
            bright = _lit(spectra_of["built"], 1.0 + 0.22 * normal(rng, shape))
            land = np.where(houses, _mix(land, bright, 0.85 + np.zeros(shape)), land)

    land = _lit(land, 1.0 + 0.05 * normal(rng, shape))
    # Ponds: the colours of flooded pits, round, with a smooth wet margin.
    for _ in range(14):
        middle_y, middle_x = rng.random() * y.max(), rng.random() * x.max()
        radius, squeeze = 25.0 + 55.0 * rng.random(), 0.5 + rng.random()
        dy, dx = y - middle_y, x - middle_x
        edge = radius * (1.0 + 0.45 * smooth(rng, y, x, cell_y=70.0, cell_x=70.0))
        inner = np.sqrt(squeeze * dy * dy + dx * dx / squeeze + 0.4 * dy * dx) / edge
        pond = (inner < 1.0) & (far > 30.0)
        place = (0.35 * inner * inner)[pond]
        for band in range(len(BANDS)):
            land[band, pond] = np.interp(place, _SAND_PLACES, _SAND[:, band])
    return land


def _clouds(world: _World, month: date, synthetic: params.Synthetic) -> npt.NDArray[np.bool_]:
    """Where no image of the month was free of cloud: patches, none in most dry months."""
    rng = world.rng(month, "clouds")
    field = rank(_fractal(rng, *world.metres, 900.0).ravel()).reshape(world.grid.shape)
    # Gaps gather in a third of the months, so that their mean is what was asked for.
    share = 3.0 * synthetic.cloud_fraction if rng.random() < 1.0 / 3.0 else 0.0
    return field > 1.0 - min(share, 0.95)


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
