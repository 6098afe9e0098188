"""What the SDK's loop logs is said once, and not again on each replay of what led to it.

What code inside a step logs is left alone: it runs once.
"""

from __future__ import annotations

import logging

from agents.logger import logger as sdk_logger

from inngest_agents.scope import current_journal


def _is_news(_: logging.LogRecord) -> bool:
    journal = current_journal()
    return journal is None or not journal.is_driven or journal.driver.makes_news


sdk_logger.addFilter(_is_news)
