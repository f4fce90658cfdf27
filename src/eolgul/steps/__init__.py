"""The six steps at the places where their artifacts lie: paths or `s3://bucket/key`, in and out.

What a Kubeflow component and a command run alike. Each brings its inputs to the local disk, calls the step, publishes
what it made, and returns the facts that both print: artifact, digest, counts, seconds. `store` and `tasks` are what only
the components use: artifacts by content, and all sources of a run.
"""

from eolgul.steps.data import align, assemble, audit, check_alignment, export, extract
from eolgul.steps.models import calibrate, compare, evaluate, import_onnx, import_weights, train
from eolgul.steps.places import Facts, bring, reference, split_reference
from eolgul.steps.registry import choose_reference, promote, roll_back
from eolgul.steps.sources import PIPELINE_SELECTION, Extraction, check_lists, check_names, plan_extraction
from eolgul.steps.store import Job, Store, runs

__all__ = [
    "PIPELINE_SELECTION",
    "Extraction",
    "Facts",
    "Job",
    "Store",
    "align",
    "assemble",
    "audit",
    "bring",
    "calibrate",
    "check_alignment",
    "check_lists",
    "check_names",
    "choose_reference",
    "compare",
    "evaluate",
    "export",
    "extract",
    "import_onnx",
    "import_weights",
    "plan_extraction",
    "promote",
    "reference",
    "roll_back",
    "runs",
    "split_reference",
    "train",
]
