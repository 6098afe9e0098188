"""The embedded engine: runs Inngest functions in this process, on one SQLite file. For development, tests and demos.

In production, use Inngest Cloud or a self-hosted Inngest server.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import LocalEngine, RegistrationFailedError
    from .executor import Limits
    from .models import Request, Run, RunStatus, Step, StepAttempt, StepStatus
    from .store import Store

__all__ = [
    "Limits",
    "LocalEngine",
    "RegistrationFailedError",
    "Request",
    "Run",
    "RunStatus",
    "Step",
    "StepAttempt",
    "StepStatus",
    "Store",
]

_HOMES = {
    "LocalEngine": "engine",
    "RegistrationFailedError": "engine",
    "Limits": "executor",
    "Request": "models",
    "Run": "models",
    "RunStatus": "models",
    "Step": "models",
    "StepAttempt": "models",
    "StepStatus": "models",
    "Store": "store",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that the pytest plugin below this package costs nothing where it is not used, and so that a missing
    # extra is only missed by those who need it.
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f".{_HOMES[name]}", __name__)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the embedded engine needs {error.name}: pip install 'inngest-agents[local]'", name=error.name
        ) from error
    return getattr(module, name)
