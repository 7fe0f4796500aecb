"""Which labels count: one judge for all sources.

Everything that a row holds ends in exactly one place. An object that was drawn is kept, or is counted in the
``polygons`` of exactly one row of the quarantine. The rules, in this order:

======================  ================================================================================================
malformed_row           the raw row can't be read
no_label                nobody left a label on the image
unknown_observation     no name of the row is an obs_id of the scenes' manifest
scene_missing           the observation's scene was skipped by ``export``
label_skipped           the annotator skipped the image
not_done                the label's workflow status is not among ``annotations.done_statuses``
excluded                ``exclusions.csv`` names the label: with pixels ``ignore``, where it has no polygon, or where
                        another label of the image is left
several_labels          of another project than ``annotations.labelbox_project`` names, if it names one; or more than
                        one label is left and ``annotations.consensus`` doesn't choose this one
duplicate_observation   an earlier row was already kept for the observation
activity_missing        the activity question has no answer that ``annotations.activity_answers`` knows
activity_contradicts_polygons
                        mines are said and none is drawn, or the other way round
======================  ================================================================================================

Those reject a label with all that was drawn; the others reject one drawn object:

======================  ================================================================================================
unknown_class           not of the class ``annotations.mine_class``
excluded                ``exclusions.csv`` names it, or with pixels ``other`` its label
duplicate_feature_id    its id was kept before
geometry_missing, geometry_not_polygon, geometry_invalid
                        see ``canonical.py``
outside_scene           it doesn't touch its scene
confidence_missing      the confidence question has no answer that ``annotations.confidence_answers`` knows
======================  ================================================================================================

**No false negatives.** A pixel of a kept observation that no kept polygon covers teaches "no mine". So where a mine was
drawn and its polygon can't be used, keeping the rest of the observation would teach a falsehood: the observation is
withheld whole, its other polygons counted under ``observation_incomplete``. Some rejections do no such harm and leave
the rest kept: another class is no mine, a polygon outside the scene covers no pixel of it, and of a polygon that is
there twice one stays. Not so a polygon that would lie in its scene with longitude and latitude swapped, or with another
sign (:data:`SLIPS`): it is a mine there. Where mines were said and no polygon is left, the observation is withheld too,
rather than turned into a negative.

**Exclusions.** A feature with pixels ``other`` is proven to be no mine: it is dropped, whatever its geometry, and the
rest stays. Where all mines of an observation are proven to be none, it is a negative: that is what was found out. A
feature with pixels ``ignore`` may be a mine: its area goes to ``ignored``, where no pixel teaches anything unless a
kept polygon covers it, and the rest stays, as a negative around that area where no other polygon is left. If its
geometry can't be used, nobody knows which pixels to ignore, and the observation is withheld as above. A label id with
``ignore`` takes out all that a person left on an image: the polygons, and the word that there is no other mine. So the
observation is withheld whole, as it is where the label is a negative. Excluded labels leave before one is chosen: where
another person's is left, that one speaks for every pixel. Of a feature that is kept with its label, its own line in the
file goes before its label's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from sandwatch.annotations.answers import LOW_HIGH, meaning
from sandwatch.annotations.canonical import UnusableGeometryError, canonical, canonical_row, read_polygon
from sandwatch.annotations.exclusions import Exclusion
from sandwatch.annotations.params import Annotations
from sandwatch.annotations.record import Drawn, Label, MalformedError, Row, guarded
from sandwatch.geometry import WGS84, reproject
from sandwatch.origin import kind_of
from sandwatch.text import alike

EMPTY = shapely.Polygon()
LONGEST_NAME = 255
"""Characters of a file's name."""
SLIPS: dict[str, Callable[[Any], Any]] = {
    "longitude and latitude swapped": lambda xy: xy[:, ::-1],
    "the sign of its longitude turned": lambda xy: xy * (-1.0, 1.0),
    "the sign of its latitude turned": lambda xy: xy * (1.0, -1.0),
}
"""What happens to coordinates on their way: a polygon that lies in its scene after one of these was drawn there."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the rules need of an observation's rasters.

    Attributes:
        site_id, date: of the observation.
        crs: the scene's UTM zone, ``EPSG:326xx`` or ``EPSG:327xx``.
        place: where the scene lies, in that zone.
        missing: why the pixels to learn from are not there, None where they are.
    """

    site_id: str
    date: str
    crs: str
    place: BaseGeometry
    missing: str | None


def scenes_of(manifest: pd.DataFrame) -> dict[str, Scene]:
    """Scenes by obs_id, from the table ``schemas.Scenes``. A skipped picture for annotators (rgb) is no loss."""
    scenes: dict[str, Scene] = {}
    learnt: Any = manifest[manifest["product"] != "rgb"]
    for row in learnt.itertuples():
        a, _, left, _, e, top = (float(value) for value in row.transform.split(","))
        missing = f"{row.product}: {row.detail}" if row.status == "skipped" else None
        if row.obs_id in scenes:
            missing = scenes[row.obs_id].missing or missing
        scenes[row.obs_id] = Scene(
            site_id=row.site_id,
            date=row.date,
            crs=row.crs,
            place=shapely.box(left, top + e * row.height_px, left + a * row.width_px, top),
            missing=missing,
        )
    return scenes


@dataclass(kw_only=True)
class _Shape:
    """What a drawn object's geometry is in degrees and in its scene's zone, or why it is none."""

    geometry: BaseGeometry = EMPTY
    projected: BaseGeometry = EMPTY
    repaired: bool = False
    error: UnusableGeometryError | None = None


class _RejectedError(Exception):
    """A drawn object is unfit. ``harmless``: without it the rest of its observation still tells the truth."""

    def __init__(self, reason: str, detail: str, *, harmless: bool = False) -> None:
        self.reason, self.harmless = reason, harmless
        super().__init__(detail)


class _IgnoredError(Exception):
    """A drawn object is excluded, and the ground under it is not to be learnt from."""

    def __init__(self, geometry: BaseGeometry, detail: str) -> None:
        self.geometry = geometry
        super().__init__(detail)


class Judge:
    """Judges rows one after another; its lists are the rows of the four tables.

    Attributes:
        labels, observations, ignored, quarantine: rows of ``schemas.Labels`` (but for the hashes of their canonical
            rows, which are made all at once), ``Observations``, ``Ignored`` and ``Quarantine``.
        repaired: feature ids of kept polygons whose geometry had to be repaired.
        projects: of kept labels, at their source.
        matched: ids among the excluded that some row has, whatever became of it.
    """

    def __init__(self, params: Annotations, scenes: dict[str, Scene], excluded: Mapping[str, Exclusion]) -> None:
        self._params, self._scenes, self._excluded = params, scenes, excluded
        self._such = min(scenes, default="")
        self._seen: set[str] = set()
        self._kept: dict[str, dict[str, Any]] = {}
        self.labels: list[dict[str, Any]] = []
        self.observations: list[dict[str, Any]] = []
        self.ignored: list[dict[str, Any]] = []
        self.quarantine: list[dict[str, Any]] = []
        self.matched: set[str] = set()
        self.repaired: list[str] = []
        self.projects: set[str] = set()

    def malformed(self, row_id: str, error: MalformedError, row_sha256: str) -> None:
        """Rejects a raw row that could not be read."""
        self._reject(row_id, row_sha256, "malformed_row", str(error), polygons=error.drawn)

    def row(self, row: Row, row_sha256: str) -> None:
        """Judges one row; where a value of it can't be judged, it is rejected whole."""
        before = len(self.quarantine)
        try:
            with guarded(lambda: sum(len(label.drawn) for label in row.labels)):
                self._row(row, row_sha256)
        except MalformedError as error:
            del self.quarantine[before:]
            name = next(iter(row.names), None)
            self._reject(row.row_id, row_sha256, "malformed_row", str(error), obs_id=name, polygons=error.drawn)

    def _row(self, row: Row, row_sha256: str) -> None:
        ids = {drawn.feature_id for label in row.labels for drawn in label.drawn}
        ids |= {label.label_id for label in row.labels}
        "".join(ids).encode()  # a table can't hold, nor a person type, half a character
        self.matched |= self._excluded.keys() & ids
        obs_id = next((name for name in row.names if name in self._scenes), None)
        name = obs_id or next(iter(row.names), None)
        reject = functools.partial(self._reject, row.row_id, row_sha256, obs_id=name)
        if not row.labels:
            reject("no_label", row.empty)
        elif obs_id is None:
            for label in row.labels:
                reject("unknown_observation", self._stranger(name), label=label)
        elif missing := self._scenes[obs_id].missing:
            for label in row.labels:
                reject("scene_missing", missing, label=label)
        elif only := self._only(row.labels, reject):
            mines = len(self._mines(only))
            if obs_id in self._seen:
                reject("duplicate_observation", "an earlier row of the snapshot was kept", label=only)
            elif only.mines is None:
                reject("activity_missing", f"no known answer to {self._params.activity_question!r}", label=only)
            elif only.mines != (mines > 0):
                said = "mines" if only.mines else "no mines"
                reject("activity_contradicts_polygons", f"{said} are said, {mines} drawn", label=only)
            else:
                self._observation(only, obs_id, row_sha256, reject)

    def _only(self, labels: tuple[Label, ...], reject: Callable[..., None]) -> Label | None:
        """The one label that counts; rejects the others."""
        fit = []
        for label in labels:
            if label.skipped:
                reject("label_skipped", "skipped by the annotator", label=label)
            elif not label.done:
                reject("not_done", f"workflow status {label.workflow_status}", label=label)
            elif label.project and self._params.labelbox_project not in ("", label.project):
                said = f"of project {label.project}, annotations.labelbox_project is {self._params.labelbox_project}"
                reject("several_labels", said, label=label)
            else:
                fit.append(label)
        left = [label for label in fit if label.label_id not in self._excluded]
        for label in fit:
            exclusion = self._excluded.get(label.label_id)
            if exclusion is not None and (left or exclusion.pixels == "ignore" or not self._mines(label)):
                reject("excluded", str(exclusion), label=label)
                fit = [other for other in fit if other is not label]
        chosen = fit
        if len(fit) > 1 and self._params.consensus == "selected":
            chosen = [label for label in fit if label.selected]
        elif len(fit) > 1 and self._params.consensus == "latest":
            chosen = [max(fit, key=lambda label: (label.updated_at or "", label.label_id))]
        only = chosen[0] if len(chosen) == 1 else None
        outcome = f"chooses {only.label_id}" if only else "chooses none"
        projects = sorted({label.project for label in fit if label.project})
        if len(projects) > 1:
            outcome += f"; of projects {', '.join(projects)}: annotations.labelbox_project can name one"
        for label in fit:
            if label is not only:
                reject("several_labels", f"{len(fit)}; consensus {self._params.consensus} {outcome}", label=label)
        return only

    def _observation(self, label: Label, obs_id: str, row_sha256: str, reject: Callable[..., None]) -> None:
        """Keeps the observation with its usable polygons, or withholds it."""
        scene = self._scenes[obs_id]
        kept: dict[str, dict[str, Any]] = {}
        ignored: list[dict[str, Any]] = []
        repaired, lost = [], []
        for drawn, shape in zip(label.drawn, self._shapes(label.drawn, scene), strict=True):
            try:
                usable = self._polygon(drawn, shape, obs_id, scene, self._exclusion(drawn, label))
                self._refuse_duplicate(usable, kept)
            except _IgnoredError as error:
                reject("excluded", str(error), label=label, drawn=drawn)
                ignored.append({"feature_id": drawn.feature_id, "obs_id": obs_id, "geometry": error.geometry})
            except _RejectedError as error:
                reject(error.reason, str(error), label=label, drawn=drawn)
                lost += [] if error.harmless else [f"{drawn.feature_id} {error.reason}"]
            else:
                kept[drawn.feature_id] = usable
                repaired += [drawn.feature_id] if shape.repaired else []
        if label.mines and not (kept or ignored or lost or self._disproved(label)):
            lost = ["mines are said, and no polygon is left"]
        if lost:
            reject("observation_incomplete", "; ".join(lost), label=label, polygons=len(kept))
            return
        self._seen.add(obs_id)
        self.projects |= {label.project} if label.project else set()
        self._kept.update(kept)
        self.repaired += repaired
        self.ignored += ignored
        shared = {
            "obs_id": obs_id,
            "label_id": label.label_id,
            "origin": kind_of([self._params.source]),
            "created_by": label.created_by,
            "workflow_status": label.workflow_status,
        }
        history = {
            "created_at": label.created_at,
            "updated_at": label.updated_at,
            "reviews": label.reviews,
            "row_sha256": row_sha256,
        }
        self.labels += [shared | history | usable for usable in kept.values()]
        self.observations.append(
            shared
            | {
                "site_id": scene.site_id,
                "date": scene.date,
                "has_mines": bool(kept),
                "polygons": len(kept),
                "snapshot": self._params.snapshot,
            }
        )

    def _mines(self, label: Label) -> list[Drawn]:
        return [drawn for drawn in label.drawn if self._is_mine(drawn)]

    def _is_mine(self, drawn: Drawn) -> bool:
        return drawn.class_name == self._params.mine_class or alike(drawn.class_name) == alike(self._params.mine_class)

    def _stranger(self, name: str | None) -> str:
        """What to say of a name that no observation has: the one that it holds, or what names are like."""
        file = (name or "").rpartition("/")[2][:LONGEST_NAME]
        known = next((file[:end] for end in range(len(file), 0, -1) if file[:end] in self._scenes), None)
        hint = f"{known!r}, with which it begins, is" if known else f"names there are like {self._such!r}"
        return f"{name!r} is not in the manifest of scenes; {hint}"

    def _exclusion(self, drawn: Drawn, label: Label) -> Exclusion | None:
        return self._excluded.get(drawn.feature_id) or self._excluded.get(label.label_id)

    def _disproved(self, label: Label) -> bool:
        """Whether every mine of it is proven to be none."""
        exclusions = [self._exclusion(drawn, label) for drawn in self._mines(label)]
        return all(exclusion is not None and exclusion.pixels == "other" for exclusion in exclusions)

    def _refuse_duplicate(self, usable: dict[str, Any], kept: dict[str, dict[str, Any]]) -> None:
        """Refuses an id that is taken, in this observation (``kept``) or an earlier one."""
        before = (kept if usable["feature_id"] in kept else self._kept).get(usable["feature_id"])
        if before is not None:
            same = _content(before) == _content(usable)
            raise _RejectedError(
                "duplicate_feature_id", f"kept before, with {'the same' if same else 'another'} content", harmless=same
            )

    def _shapes(self, drawn: Sequence[Drawn], scene: Scene) -> list[_Shape]:
        """The shapes of what was drawn on a scene, projected at once: one by one takes five times as long."""
        shapes = []
        for one in drawn:
            try:
                geometry, repaired = read_polygon(one.geometry, self._params.max_vertices)
            except UnusableGeometryError as error:
                shapes.append(_Shape(error=error))
            else:
                shapes.append(_Shape(geometry=geometry, repaired=repaired))
        readable = [shape for shape in shapes if shape.error is None]
        geometries = np.fromiter((shape.geometry for shape in readable), dtype=object, count=len(readable))
        for shape, projected in zip(readable, reproject(geometries, WGS84, scene.crs), strict=True):
            shape.projected = projected
        return shapes

    def _polygon(
        self, drawn: Drawn, shape: _Shape, obs_id: str, scene: Scene, exclusion: Exclusion | None
    ) -> dict[str, Any]:
        """What a usable polygon adds to its row of ``Labels``."""
        if not self._is_mine(drawn):
            raise _RejectedError("unknown_class", f"class {drawn.class_name!r}", harmless=True)
        if exclusion is not None and exclusion.pixels == "other":
            raise _RejectedError("excluded", str(exclusion), harmless=True)
        if shape.error is not None:
            missing = shape.error.reason == "geometry_missing" and drawn.no_geometry
            raise _RejectedError(shape.error.reason, f"{shape.error}, but {missing}" if missing else str(shape.error))
        geometry, projected = shape.geometry, shape.projected
        if not (all(map(math.isfinite, projected.bounds)) and projected.intersects(scene.place)):
            longitude, latitude = geometry.representative_point().coords[0]
            said, slip = f"lies at longitude {longitude:.4f}, latitude {latitude:.4f}", _slip(geometry, scene)
            said += f"; with {slip} it would lie in its scene: correct it" if slip else ""
            raise _RejectedError("outside_scene", said, harmless=slip is None)
        if exclusion is not None:
            raise _IgnoredError(geometry, str(exclusion))
        area_m2 = round(projected.area, 1)
        if area_m2 <= 0:
            raise _RejectedError("geometry_invalid", "an area below 0.05 m2")
        confidence = meaning(self._params.confidence_answers, drawn.answer, LOW_HIGH)
        if confidence is None:
            said = f"{self._params.confidence_question}: {drawn.answer!r}"
            if drawn.answer is not None:
                said += f", where annotations.confidence_answers has {', '.join(self._params.confidence_answers)}"
            elif drawn.no_answer:
                said += f", but {drawn.no_answer}"
            raise _RejectedError("confidence_missing", said)
        return {
            "feature_id": drawn.feature_id,
            "obs_id": obs_id,
            "class_name": self._params.mine_class,
            "confidence": confidence,
            "area_m2": area_m2,
            "geometry": geometry,
        }

    def _reject(
        self,
        row_id: str,
        row_sha256: str,
        reason: str,
        detail: str,
        *,
        obs_id: str | None = None,
        label: Label | None = None,
        drawn: Drawn | None = None,
        polygons: int | None = None,
    ) -> None:
        """Adds a row to the quarantine; it counts ``polygons``, else one for ``drawn``, else all of ``label``."""
        if polygons is None:
            polygons = 1 if drawn else len(label.drawn) if label else 0
        self.quarantine.append(
            {
                "row_id": _written(row_id),
                "obs_id": _written(obs_id),
                "label_id": _written(label.label_id) if label else None,
                "feature_id": _written(drawn.feature_id) if drawn else None,
                "polygons": polygons,
                "reason": reason,
                "detail": _written(detail),
                "row_sha256": row_sha256,
            }
        )


def _slip(geometry: BaseGeometry, scene: Scene) -> str | None:
    """Which of :data:`SLIPS` brings a polygon into its scene."""
    for name, move in SLIPS.items():
        moved = shapely.transform(geometry, move)
        west, south, east, north = moved.bounds
        if west >= -180 and east <= 180 and south >= -90 and north <= 90:
            projected = reproject(moved, WGS84, scene.crs)
            if all(map(math.isfinite, projected.bounds)) and projected.intersects(scene.place):
                return name
    return None


def _content(usable: dict[str, Any]) -> bytes:
    """The canonical row of a label."""
    return canonical_row(
        usable["feature_id"],
        usable["obs_id"],
        usable["class_name"],
        usable["confidence"],
        canonical(usable["geometry"]),
    )


def _written(text: str | None) -> str | None:
    """The text as a table can hold it: halves of characters, which JSON may escape, stay escaped."""
    return text and text.encode("utf-8", "backslashreplace").decode()
