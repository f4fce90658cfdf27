"""The exit handler's task: it reports how a run ended to a webhook."""

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("promote"), install_kfp_package=False)
def notify(pipeline: str, workspace: str, run: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Send the outcome as JSON to the webhook of the Secret. It never fails: a webhook that does not answer is one sentence.

    The Secret's keys are EOLGUL_WEBHOOK_URL, EOLGUL_WEBHOOK_TOKEN (a bearer token) and EOLGUL_WEBHOOK_KEY (it signs the body).

    Args:
        pipeline: The pipeline's name.
        workspace: Prefix (s3://) below which the run's tasks say how it ended.
        run: The run's id.
        status: What KFP says of the tasks' end.
    """
    from eolgul.steps import notification

    print(notification.report(pipeline, workspace, run, status.state or "", status.error_message or ""))
