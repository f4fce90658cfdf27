"""The pipelines made of the components: compile, run locally, submit."""
