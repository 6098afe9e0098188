"""The baseline as a row: what the comparison itself gives for no difference at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import measure

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.workloads import Workload


class Plain:
    """The SDK's own `Runner`."""

    name = "Runner (plain)"
    durability = "none"
    packages: tuple[str, ...] = ()
    kept: tuple[Workload, ...] = ()

    async def start(self, directory: Path) -> None:
        """Nothing to start."""

    async def run(self, prompt: str) -> str:
        """Run in this process."""
        return await measure.plain(prompt)

    async def one_of_many(self, prompt: str) -> str:
        """The same."""
        return await self.run(prompt)

    async def stop(self) -> None:
        """Nothing to stop."""

    def notes(self) -> dict[str, str]:
        """Nothing to add."""
        return {}

    async def state(self, prompt: str) -> int | None:
        """Nothing is kept."""
        return None


if __name__ == "__main__":
    measure.main(lambda plan: Plain())
