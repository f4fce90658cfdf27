"""`eolgul demo`: raw data, the pipeline, a registry, the service and its verdicts, in one command on one machine."""

from eolgul.demo.options import DemoOptions
from eolgul.demo.run import run

__all__ = ["DemoOptions", "run"]
