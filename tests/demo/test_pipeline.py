"""What the demo shows of a pipeline's output, and the error it ends with."""

from __future__ import annotations

import pytest

from eolgul.demo.pipeline import PipelineOutput
from eolgul.demo.progress import Progress

OUTPUT = """\
17:33:40.736 - INFO - Running pipeline: 'face-recognition'
17:33:40.742 - INFO - Executing task 'extract'
    [KFP Executor INFO]: Looking for component `extract`
17:33:45.400 - INFO - Task 'extract' finished with status SUCCESS
17:33:45.401 - INFO - Task 'extract' outputs:
17:33:45.402 - INFO - Executing task 'align-plan'
17:33:45.515 - INFO - Task 'align-plan' finished with status SUCCESS
17:33:45.518 - INFO - Executing task 'align-part'
17:33:45.520 - INFO - Executing task 'align-part'
17:33:47.515 - INFO - Task 'align-part' finished with status SUCCESS
17:33:48.515 - INFO - Task 'align-part' finished with status SUCCESS
17:33:48.518 - INFO - Executing task 'align'
17:33:49.515 - INFO - Task 'align' finished with status SUCCESS
17:33:49.518 - INFO - Executing task 'train'
    epoch 1: loss 6.245
    a line of no interest
17:33:59.518 - INFO - Task 'train' finished with status SUCCESS
"""


def test_one_line_per_step_and_the_lines_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    reader = PipelineOutput(progress)
    for line in OUTPUT.splitlines():
        reader.read(line)
    reader.close()
    shown = [line.partition("] ")[2].strip() for line in capsys.readouterr().err.splitlines()]
    assert [line.partition(": done")[0] for line in shown] == [
        "extract",
        "extract",
        "align",
        "align",
        "train",
        "epoch 1: loss 6.245",
        "train",
    ]
    assert list(progress.seconds) == ["extract", "align", "train"]
    assert all(seconds >= 0 for seconds in progress.seconds.values())


def test_the_last_input_error_is_kept() -> None:
    reader = PipelineOutput(Progress())
    reader.read("17:33:40.742 - INFO - Executing task 'assemble'")
    reader.read("    eolgul.errors.InputError: kface: 3 people, expected at least 4")
    assert (reader.step, reader.error) == ("assemble", "kface: 3 people, expected at least 4")
