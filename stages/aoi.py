"""Areas of interest around the river sites, in leak-proof spatial groups.

Inputs: the region's sites.csv (a row a site) and its river geometry (lines or polygons, any CRS).
Outputs: data/aoi/aoi.parquet (schemas.Aoi): the AOI, UTM grid, spatial group and fold of every site.
"""

from collections import Counter

from sandwatch.aoi import Aoi, build, read_sites
from sandwatch.params import StageParams
from sandwatch.rivers import Rivers
from sandwatch.schemas import Aoi as AoiTable
from sandwatch.split import Split
from sandwatch.stage import Input, Output, progress, run, workers


def main(*, sites: Input, rivers: Input, aoi: Output) -> None:
    """Turns sites into areas of interest."""
    params = StageParams.load("aoi")
    listed = read_sites(sites)
    progress(f"aoi: {len(listed)} sites, rivers from {rivers.name}")
    table = build(listed, Rivers(rivers), aoi=params[Aoi], split_params=params[Split], workers=workers())
    AoiTable.write(table, aoi)
    counts = Counter(table["fold"])
    progress(
        f"aoi: {table['area_km2'].sum():.0f} km2 in {table['group'].nunique()} groups; sites "
        + ", ".join(f"{fold} {counts[fold]}" for fold in sorted(counts))
    )


if __name__ == "__main__":
    run(main)
