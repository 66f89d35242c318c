"""A checkpoint as a model of MLflow, which ``mlflow.pyfunc`` loads and ``mlflow models serve`` serves.

    mlflow.pyfunc.load_model("models:/reviews@w4a8").predict(table, params={"bitmap": "w4a8"})

MLflow offers three ways.  A ``PythonModel`` is pickled, and models from code copy a script that is run on loading;
either makes a store of models a store of programs.  The third, taken here, names a module that is installed: the model
holds a served folder (:mod:`qalof.serving.served`), and :func:`_load_pyfunc` of this module reads it.

A parameter of a request that the signature lacks is left out by MLflow, with a warning of its own in the log.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from qalof.errors import BadInputError
from qalof.serving.answers import ANSWERING, Answering
from qalof.serving.served import Request, ServedModel, request_of, write_served

REQUIRED = ("qalof", "mlflow", "torch", "transformers", "peft", "safetensors")
"""The packages that a model requires, each at the version that it was made with."""


class CheckpointModel:
    """What MLflow calls: tables in, tables out."""

    def __init__(self, folder: str) -> None:
        self.served = ServedModel(folder)

    def predict(self, table: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Answer each row of ``table``; see :class:`~qalof.serving.served.Request` for ``params``.

        Raises:
            MlflowException: the request is bad; a server answers it with status 400 and this one line.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self.served.predict(table.to_dict("records"), request_of(params))
        except BadInputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None
        return pd.DataFrame(found, columns=list(self.served.answering.outputs))


def _load_pyfunc(folder: str) -> CheckpointModel:
    """Load the model in a served folder; MLflow calls it by this name."""
    return CheckpointModel(folder)


def save_model(path: Path, checkpoint: Path, bitmap: str, task: str, mlflow_model: Any = None) -> None:
    """Write a checkpoint as a model of MLflow.

    Args:
        path: the folder, which must be new.
        checkpoint: the folder of the checkpoint.
        bitmap: the text of the bitmap at which it runs where a request names none.
        task: the name of the task of the checkpoint.
        mlflow_model: MLflow's description, which is filled; None makes one.

    Raises:
        BadInputError: see :func:`~qalof.serving.served.write_served`.
    """
    import mlflow

    answering = ANSWERING[task]
    with tempfile.TemporaryDirectory() as beside:
        served = Path(beside) / "served"
        write_served(served, checkpoint)
        mlflow.pyfunc.save_model(
            path=str(path), loader_module=__name__, data_path=str(served), mlflow_model=mlflow_model,
            signature=signature(answering, bitmap), input_example=pd.DataFrame([dict(answering.example)]),
            pip_requirements=requirements(), metadata={"bitmap": bitmap, "task": task},
        )  # fmt: skip


def signature(answering: Answering, bitmap: str) -> Any:
    """Describe columns and parameters, with ``bitmap`` as that parameter's default."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Map, ParamSchema, ParamSpec, Schema

    kinds: dict[str, Any] = {"probabilities": Map("double")}
    names: dict[type, str] = {str: "string", float: "double", int: "long"}
    default = replace(Request(), bitmap=bitmap)
    params = []
    for field in fields(default):
        value = getattr(default, field.name)
        if field.name == "max_new_tokens" and not answering.writes:
            continue
        if isinstance(value, tuple):
            params.append(ParamSpec(field.name, "string", [], (-1,)))
        else:
            kind = str if isinstance(value, str) else type(value)
            params.append(ParamSpec(field.name, names[kind], kind(value)))
    return ModelSignature(
        Schema([ColSpec("string", name) for name in answering.columns]),
        Schema([ColSpec(kinds.get(name, "string"), name) for name in answering.outputs]),
        ParamSchema(params),
    )


def requirements() -> list[str]:
    """Return the packages that a model requires, as pip names them."""
    return [f"{name}=={importlib.metadata.version(name)}" for name in REQUIRED]
