"""Everything MLflow: where runs are kept, how they are fed, and how their models are found.

MLflow itself is imported at use; importing this package costs next to nothing.
"""

from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, resolve_tracking_uri
from sumgrad.jobs.support.redaction import redact, redact_text
from sumgrad.jobs.tracking.delivery import Delivery
from sumgrad.jobs.tracking.direct_client import DirectClient
from sumgrad.jobs.tracking.link import Link
from sumgrad.jobs.tracking.lookup import find_model
from sumgrad.jobs.tracking.metadata import DatasetMetadata, RunMetadata
from sumgrad.jobs.tracking.outbox import Journal
from sumgrad.jobs.tracking.process_client import ProcessClient
from sumgrad.jobs.tracking.run_tracker import RunTracker
from sumgrad.jobs.tracking.store import Store, open_store
from sumgrad.jobs.tracking.ui import UserInterface, ui_command

__all__ = [
    "DatasetMetadata",
    "Delivery",
    "DirectClient",
    "Journal",
    "Link",
    "ProcessClient",
    "RunMetadata",
    "RunTracker",
    "Store",
    "UserInterface",
    "check_tracking_reachable",
    "find_model",
    "open_store",
    "redact",
    "redact_text",
    "resolve_tracking_uri",
    "ui_command",
]
