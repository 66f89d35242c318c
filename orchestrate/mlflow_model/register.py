"""``qalof register``: one version of a registered model for each chosen bitmap of a checkpoint.

MLflow's client is used, for the same reasons as in :mod:`orchestrate.runs.mlflow_tracker`.  A version says by its tags
which checkpoint and which bitmap it is of, so what is registered already is found instead of being registered twice.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrate.jobs.shared.checkpoint import open_checkpoint
from orchestrate.mlflow_model.flavor import save_model
from orchestrate.runs.layout import TRACKING
from orchestrate.runs.mlflow_store import check_root, open_store, unusable
from orchestrate.runs.mlflow_values import texts
from qalof.bitmap import Bitmap
from qalof.bitmap_names import short_name, summary
from qalof.checkpoint.opening import OpenCheckpoint
from qalof.cost import cost_of
from qalof.digests import content_digest
from qalof.errors import BadInputError
from qalof.files import MANIFEST, digest, read_json
from qalof.reading import is_file

IDENTITY = "qalof.identity"
"""The tag of a version that says what it is of: a digest of checkpoint and bitmap."""
_NAME = re.compile(r"[^/:]+")
_ALIAS = re.compile(r"(?!latest$|[vV]\d+$)[\w-]{1,255}")


@dataclass(frozen=True)
class Point:
    """A bitmap that is to be registered, and its alias."""

    bitmap: Bitmap
    alias: str


def register(
    checkpoint: Path, name: str, bitmaps: Sequence[str], aliases: Sequence[str] = (), *, root: Path = Path("runs"),
    uri: str | None = None, experiment: str = "qalof",
) -> dict[str, Any]:  # fmt: skip
    """Register ``checkpoint`` once for each bitmap.

    Args:
        checkpoint: the folder of a trained checkpoint.
        name: the name of the registered model, which is made where it is missing.
        bitmaps: any form of :meth:`Bitmap.parse`, such as ``runs/search/front.json#average_bits=4.5``.
        aliases: one per bitmap; none at all gives each that of :func:`default_alias`.
        root: the folder of the record where there is no server.
        uri: the URI of a tracking server.
        experiment: the experiment that holds the models.

    Returns:
        The name, and per bitmap its version, alias, id and address, and whether it is new.

    Raises:
        BadInputError: a name, alias or bitmap is bad, the checkpoint cannot be served, or the store cannot be used.
    """
    _check_name(name)
    if uri is None:
        check_root(root)
    opened = open_checkpoint(str(checkpoint))
    points = _points(opened, bitmaps, aliases)
    client, experiment_id, place = open_store(root, uri, experiment)
    try:
        with _global_store(place):
            _model(client, name)
            rows = [_registered(client, experiment_id, name, checkpoint, opened, point) for point in points]
    except BadInputError:
        raise
    except Exception as error:
        raise unusable(place, error) from None
    return {"name": name, "versions": rows}


@contextmanager
def _global_store(place: str) -> Iterator[None]:
    """Make a store MLflow's own for the length of the block: its registry of models in SQLite looks models up there,
    whatever client asks.
    """
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(place)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def default_alias(bitmap: Bitmap) -> str:
    """Return a bitmap's own name where an alias can be that, otherwise its id, after ``bitmap-``."""
    own = short_name(bitmap)
    return f"bitmap-{own if _ALIAS.fullmatch(own) else bitmap.id}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInputError(f"--name must be a text without / and :, got {name!r}; reviews-sp for example")


def _points(opened: OpenCheckpoint, bitmaps: Sequence[str], aliases: Sequence[str]) -> list[Point]:
    if aliases and len(aliases) != len(bitmaps):
        raise BadInputError(
            f"--alias must be given once per bitmap, or never: got {len(aliases)} for {len(bitmaps)}; in their order"
        )
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            raise BadInputError(
                f"--alias must have letters, digits, _ and - alone, and be neither latest nor v1: got {alias!r}"
            )
    if len(set(aliases)) < len(aliases):
        raise BadInputError(f"--alias must differ from bitmap to bitmap: got {', '.join(aliases)}")
    model = opened.model
    parsed = [Bitmap.parse(bitmap, model.site_names) for bitmap in bitmaps]
    for bitmap in parsed:
        with model.at(bitmap):  # what cannot run is refused before anything is written
            pass
    return [Point(b, aliases[i] if aliases else default_alias(b)) for i, b in enumerate(parsed)]


def _model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _registered(
    client: Any, experiment_id: str, name: str, checkpoint: Path, opened: OpenCheckpoint, point: Point
) -> dict[str, Any]:
    identity = content_digest(digest(checkpoint / MANIFEST), str(point.bitmap))
    quoted = name.replace("'", "''")
    known = [v for v in client.search_model_versions(f"name = '{quoted}'") if v.tags.get(IDENTITY) == identity]
    version = known[0] if known else _new_version(client, experiment_id, name, checkpoint, opened, point, identity)
    client.set_registered_model_alias(name, point.alias, version.version)
    return {
        "version": int(version.version), "alias": point.alias, "bitmap": str(point.bitmap), "id": point.bitmap.id,
        "uri": f"models:/{name}@{point.alias}", "new": not known,
    }  # fmt: skip


def _new_version(
    client: Any, experiment_id: str, name: str, checkpoint: Path, opened: OpenCheckpoint, point: Point, identity: str
) -> Any:
    from mlflow.models import Model

    bitmap, sites, task = point.bitmap, opened.model.sites, opened.task.name
    said, bits = summary(bitmap, sites), cost_of(bitmap, sites).average_bits
    facts = {"bitmap": str(bitmap), "bitmap_id": bitmap.id, "bitmap_summary": said, "average_bits": f"{bits:.4g}"}
    tags = texts(facts)
    run_id = _run_of(client, checkpoint)
    logged = client.create_logged_model(experiment_id, name, run_id, tags, {"task": task}, "qalof")
    folder = Path(tempfile.mkdtemp())
    try:
        described = Model(artifact_path=logged.artifact_location, model_uuid=logged.model_id, run_id=run_id,
                          model_id=logged.model_id)  # fmt: skip
        save_model(folder / "model", checkpoint, str(bitmap), task, described)
        client.log_model_artifacts(logged.model_id, str(folder / "model"))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    client.finalize_logged_model(logged.model_id, "READY")
    return client.create_model_version(
        name, f"models:/{logged.model_id}", run_id, {**tags, "task": task, IDENTITY: identity},
        description=f"{task} at {short_name(bitmap)}: {said}", model_id=logged.model_id,
    )  # fmt: skip


def _run_of(client: Any, checkpoint: Path) -> str | None:
    """Find the run that trained a checkpoint, where this store has it."""
    from mlflow.exceptions import MlflowException

    file = checkpoint.parent / TRACKING
    if not is_file(file):
        return None
    run_id = read_json(file, "tracking file").get("run")
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException:
        return None
