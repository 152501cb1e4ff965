"""Everything MLflow: where runs are kept, how they are fed, and how their models are found.

MLflow itself is imported at use; importing this package costs next to nothing.
"""

from jobs.tracking.backlog import Journal
from jobs.tracking.delivery import Delivery
from jobs.tracking.direct_client import DirectClient
from jobs.tracking.link import Link
from jobs.tracking.location import check_reachable, resolve_tracking_uri
from jobs.tracking.lookup import find_model
from jobs.tracking.origin import DatasetFacts, RunFacts
from jobs.tracking.process_client import ProcessClient
from jobs.tracking.redaction import redact, redact_text
from jobs.tracking.run import RunTracker
from jobs.tracking.store import Store, open_store
from jobs.tracking.ui import UserInterface, ui_command

__all__ = [
    "DatasetFacts",
    "Delivery",
    "DirectClient",
    "Journal",
    "Link",
    "ProcessClient",
    "RunFacts",
    "RunTracker",
    "Store",
    "UserInterface",
    "check_reachable",
    "find_model",
    "open_store",
    "redact",
    "redact_text",
    "resolve_tracking_uri",
    "ui_command",
]
