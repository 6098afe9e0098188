"""The pytest fixture `inngest_engine`, there as soon as the package is installed.

```python
def test_my_function(inngest_engine):
    inngest_engine.serve(client, [my_function])
    run = inngest_engine.run("app/started", {"x": 1})
    assert run.output == 2
```

Every test gets an engine of its own with an empty state. A failed attempt is repeated after 10 ms, not after half a
minute; override the fixture `inngest_engine_options` for other settings (those of `LocalEngine`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

# pytest imports this module in every project that has the package installed: nothing else may be imported here.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .engine import LocalEngine


@pytest.fixture
def inngest_engine_options() -> dict[str, Any]:
    """Arguments of the `LocalEngine` that `inngest_engine` starts."""
    return {"backoff": 0.01}


@pytest.fixture
def inngest_engine(inngest_engine_options: dict[str, Any]) -> Iterator[LocalEngine]:
    """A running embedded engine with an empty state."""
    from .engine import LocalEngine

    with LocalEngine(**inngest_engine_options) as engine:
        yield engine
