"""Uploading a pipeline: made once, a version for each source, nothing half-made left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.kubeflow import Kubeflow
from support.places import ROOT

from eolgul import __version__
from eolgul.errors import InputError
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.runs import Compiled
from eolgul.kubeflow.versions import revision, upload


def test_the_first_upload_makes_the_pipeline_and_the_next_a_version(
    server: Kubeflow, connection: Connection, pipeline: Compiled
) -> None:
    first = upload(connection, pipeline, None, version_name="abc")
    assert first == {
        "pipeline": "small", "version": "abc", "pipeline_id": "p-1", "pipeline_version_id": "v-1", "uploaded": True,
        "link": f"{server.address}/#/pipelines/details/p-1/version/v-1",
    }  # fmt: skip
    second = upload(connection, pipeline, None, version_name="def")
    assert (second["pipeline_id"], second["pipeline_version_id"]) == ("p-1", "v-2")
    assert [one["display_name"] for one in server.versions] == ["abc", "def"]


def test_the_same_source_is_uploaded_once(server: Kubeflow, connection: Connection, pipeline: Compiled) -> None:
    upload(connection, pipeline, None, version_name="abc")
    again = upload(connection, pipeline, None, version_name="abc")
    assert (again["pipeline_version_id"], again["uploaded"]) == ("v-1", False)
    assert len(server.versions) == 1


def test_another_pipeline_under_a_versions_name_is_refused(
    server: Kubeflow, connection: Connection, pipeline: Compiled
) -> None:
    upload(connection, pipeline, None, version_name="abc")
    other = Compiled([dict(pipeline.documents[0]) | {"sdkVersion": "kfp-9"}, *pipeline.documents[1:]])
    with pytest.raises(InputError, match="pipeline small has another version abc: give a name with --version-name"):
        upload(connection, other, None, version_name="abc")


def test_a_refused_version_leaves_no_empty_pipeline(
    server: Kubeflow, connection: Connection, pipeline: Compiled
) -> None:
    with pytest.raises(InputError, match="shared pipeline upload denied"):
        upload(connection, pipeline, None, version_name="refused")
    assert not server.pipelines
    upload(connection, pipeline, None, version_name="abc")
    with pytest.raises(InputError, match="denied"):
        upload(connection, pipeline, None, version_name="refused")
    assert server.pipelines  # it was there before


def test_name_and_namespace(server: Kubeflow, connection: Connection, pipeline: Compiled) -> None:
    server.multi_user = True
    upload(connection, pipeline, "mine", version_name="abc", name="faces")
    assert server.pipelines["p-1"]["display_name"] == "faces" and server.pipelines["p-1"]["namespace"] == "mine"


@pytest.mark.process
def test_the_revision_is_gits_or_the_packages_version(tmp_path: Path) -> None:
    if (ROOT / ".git").exists():
        assert 7 <= len(revision(ROOT).removesuffix("-dirty")) <= 40
    assert revision(tmp_path) == __version__
