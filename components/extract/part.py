"""Step 1 in parts: the task of the pipeline's loop, before `component.extract` puts their results together."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import dsl

from eolgul.components import documented, image
from eolgul.extract.config import ExtractConfig


@dsl.component(base_image=image("extract"), install_kfp_package=False)
@documented(ExtractConfig)
def extract_part(
    share: str,
    sources: List[str],  # noqa: UP006
    workspace: str,
    run: str,
    kind: str = "auto",
    name: str = "",
    max_pairs_lost: float = 0.1,
    selection: str = "",
    identity_from: str = "",
    depth: int = 0,
    identities: str = "",
    without_identities: str = "",
    min_images: int = 1,
    max_identities: int = 0,
    max_images_per_identity: int = 0,
    part: str = "",
    reader: str = "own",
    root: str = "",
    color: str = "rgb",
    aligned: bool = False,
    any_size: bool = False,
    verify: bool = False,
    workers: int = 2,
) -> str:
    """Write one share of every source's shards. With one share there is nothing to do here: `extract` makes the whole.

    Args:
        sources: Places of what to learn from.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.

    Returns:
        The share of each raw source, in order, as a JSON list of references; "" for a source with nothing to do.
    """
    import json

    from eolgul.extract.config import ExtractConfig
    from eolgul.steps import tasks
    from eolgul.steps.store import Store

    return json.dumps(tasks.extract_part_of(Store(workspace, run), sources, ExtractConfig.from_parameters(locals())))
