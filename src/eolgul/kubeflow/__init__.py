"""What the package asks of a Kubeflow cluster: runs, pipeline versions and schedules of its Pipelines API, and TrainJobs."""
