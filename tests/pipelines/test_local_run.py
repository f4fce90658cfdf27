"""What a local run leaves behind in its process."""

from __future__ import annotations

import builtins

from kfp.local.logging_utils import indented_print

from eolgul.pipelines.local_run import own_print


def test_print_is_as_before_when_tasks_ended_in_another_order_than_they_began() -> None:
    before = builtins.print
    with own_print():
        first, second = indented_print(), indented_print()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert builtins.print is not before  # what KFP leaves; if this fails, `own_print` can go
    assert builtins.print is before
