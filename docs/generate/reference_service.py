"""Reference pages about the service: settings, metrics, HTTP API and codes."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from reference_text import paragraphs, table

# Environment variables that are no field of a settings class.
VARIABLES = {
    "EOLGUL_API_KEY": "The API key that `eolgul verify --url` and the Python client send.",
    "EOLGUL_SIGNING_KEY_FILE": "The private key that `eolgul promote` signs with (as `--signing-key`).",
    "EOLGUL_SIGNING_FOLDER": "A folder with the private key as `key`, or without it: how a pod of the pipeline finds the key.",
    "EOLGUL_POD_LIMITS": "Sizes of the pods' volumes, which a compiled pipeline tells its first task; not for people.",
    "EOLGUL_WEBHOOK_URL": "Address that the end of a pipeline's run is reported to: from the Secret of a pod, or of a local run.",
    "EOLGUL_WEBHOOK_TOKEN": "Bearer token for that address.",
    "EOLGUL_MODEL_REGISTRY_TOKEN": "Bearer token for the Model Registry of `promote --model-registry`.",
    "EOLGUL_WEBHOOK_KEY": "Key by which the report is signed (HMAC-SHA-256).",
    "EOLGUL_EMBEDDINGS": "The folder in which `eolgul evaluate` keeps computed embeddings for later runs.",
    "EOLGUL_DETECTOR": "A folder with MTCNN's networks as ONNX, exported before, so that `extract` and `align` need no torch.",
    "EOLGUL_MXNET_PYTHON": "The Python with mxnet, for `eolgul extract --reader mxnet` (default: `.venv-mxnet`).",
    "EOLGUL_IMAGE_PREFIX": "Registry and folder of a compiled pipeline's images, such as `registry.example/eolgul`. There is no default.",
    "EOLGUL_IMAGES": "JSON file `{step: image by digest}`, as `make push` writes it; goes before the prefix and the tag.",
    "EOLGUL_IMAGE_TAG": "The tag of a compiled pipeline's images (default: this version).",
    "EOLGUL_TRAIN_GPUS": "GPUs that a compiled pipeline requests for training (default: 1; 0: none).",
    "EOLGUL_END_WITH_PARENT": "Set by a process for its children, so that they end with it; not for people.",
    "EOLGUL_SHARED": "The folder in which tests and benchmarks look for research data.",
}


def settings() -> str:
    """Every environment variable."""
    from eolgul.pipelines.pods import PodSettings
    from eolgul.serving.settings import Settings
    from eolgul.storage import S3Settings

    lines = ["# Settings", "", "Every setting is an environment variable."]
    for title, cls, intro in (
        ("The service", Settings, "Read when `eolgul serve` starts. `EOLGUL_REGISTRY` or `EOLGUL_MODEL` is required."),
        ("S3", S3Settings, "Read by every command and by the service when a place begins with `s3://`."),
        (
            "The pipeline's pods",
            PodSettings,
            "Read when the pipeline is compiled or submitted; [parameters of a run](../kubeflow.md) are the rest.",
        ),
    ):
        prefix = cls.model_config.get("env_prefix", "")
        rows = []
        for name, item in cls.model_fields.items():
            default = item.get_default(call_default_factory=False)
            shown = "one per core" if item.default_factory else "" if default is None else f"`{default}`"
            if isinstance(default, Path):
                shown = f"`{str(default).replace(str(Path.home()), '~')}`"
            if type(default).__name__ == "SecretStr" or default == "":
                shown = ""
            kind = _type(str(item.annotation))
            rows.append((f"`{prefix}{name}`".upper(), kind, shown, paragraphs(item.description or "")))
        lines += ["", f"## {title}", "", intro, "", *table(("variable", "type", "default", "meaning"), rows)]
    rows = [(f"`{name}`", text) for name, text in VARIABLES.items()]
    lines += ["", "## Other variables", "", *table(("variable", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def _type(annotation: str) -> str:
    """A field's type in words: `Literal['on', 'off']` as `on` or `off`, `pathlib.Path | None` as `Path`."""
    if words := re.findall(r"'(\w+)'", annotation.partition("Literal[")[2]):
        return " or ".join(f"`{word}`" for word in words)
    name = re.sub(r"<class '|'>", "", annotation).partition(" |")[0].rpartition(".")[2]
    return f"`{name}`"


def metrics() -> str:
    """Every metric that `/metrics` shows of ours."""
    rows = [
        (f"`{name}`", kind, ", ".join(f"`{label}`" for label in labels), text)
        for name, kind, labels, text in metric_rows()
    ]
    intro = (
        "`GET /metrics` answers in OpenMetrics' or Prometheus' text format, as `Accept` asks for: the sum over all worker processes,"
        " `process_…` included (written every five seconds by each). Labels come from fixed lists; no path, name or digest of a"
        " picture is one. A histogram has `_bucket`, `_sum` and `_count`; one with buckets below 0 only `_bucket`, as OpenMetrics asks."
    )
    return "\n".join(["# Metrics", "", intro, "", *table(("metric", "type", "labels", "meaning"), rows)]) + "\n"


def metric_rows() -> list[tuple[str, str, tuple[str, ...], str]]:
    """Name, type, labels and documentation of every metric of the service."""
    from eolgul.serving import metrics as served

    rows = []
    for value in vars(served).values():
        if hasattr(value, "describe") and hasattr(value, "_labelnames"):
            [family] = value.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            rows.append((name, family.type, tuple(value._labelnames), family.documentation))
    return sorted(rows)


def openapi() -> dict[str, Any]:
    """The API's own description, with the pages that are part of it."""
    from eolgul.serving.app import application
    from eolgul.serving.endpoints import pages as web_pages

    app = application()
    web_pages.add_to(app)
    description: dict[str, Any] = app.openapi()
    return description


def http() -> str:
    """Every endpoint of the API and the shape of each answer."""
    description = openapi()
    lines = [
        "# HTTP API",
        "",
        f"{description['info']['description']} The running service has the same description at `/openapi.json`. How to call"
        " it, and what a key may do: [the API](../api.md).",
    ]
    for path, methods in description["paths"].items():
        for method, call in methods.items():
            lines += [
                "",
                f"## `{method.upper()} {path}`",
                "",
                paragraphs(call.get("description") or call.get("summary", "")),
            ]
            rows = []
            for item in call.get("parameters", []):
                meaning = item.get("description") or item["schema"].get("description", "")
                rows.append((f"`{item['name']}`", item["in"], _kind(item["schema"]), paragraphs(meaning)))
            if rows:
                lines += ["", *table(("parameter", "in", "type", "meaning"), rows)]
            bodies: dict[str, list[str]] = {}
            for media, body in call.get("requestBody", {}).get("content", {}).items():
                bodies.setdefault(_body(body["schema"]), []).append(f"`{media}`")
            for names, media_types in bodies.items():
                lines += ["", f"Body as {' or '.join(media_types)}: {names}"]
            shapes: dict[str, list[str]] = {}
            for status, item in sorted(call["responses"].items()):
                contents = [
                    _kind(content["schema"]) for content in item.get("content", {}).values() if "schema" in content
                ]
                shapes.setdefault(" or ".join(contents), []).append(status)
            answers = [f"{', '.join(statuses)} {shape}".strip() for shape, statuses in shapes.items()]
            lines += ["", f"Answers: {'; '.join(answers)}"]
    lines += ["", "## Shapes"]
    for name, schema in description["components"]["schemas"].items():
        lines += ["", f"### {name}", "", paragraphs(schema.get("description", ""))]
        required = schema.get("required", [])
        rows = [(f"`{key}`", _kind(item), "" if key in required else "may be absent", paragraphs(item.get("description", "")))
                for key, item in schema.get("properties", {}).items()]  # fmt: skip
        if rows:
            lines += ["", *table(("field", "type", "", "meaning"), rows)]
    return "\n".join(lines) + "\n"


def _body(schema: dict[str, Any]) -> str:
    """The fields of a request's body, or its kind when it has none."""
    required = schema.get("required", [])
    fields = schema.get("properties", {}).items()
    names = [f"`{name}`{'' if name in required else ' (optional)'}: {_kind(item)}" for name, item in fields]
    return "; ".join(names) or _kind(schema)


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words, with links to the shapes of the page."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(item) for item in schema[key])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        items = schema.get("items") or (schema.get("prefixItems") or [{}])[0]
        return f"list of {_kind(items)}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    words = {"string": {"binary": "file", "date-time": "time"}.get(schema.get("format", ""), "text")}
    kind = schema.get("type", "any")
    return "base64" if schema.get("contentEncoding") else words.get(kind, str(kind))


def codes() -> str:
    """The codes of problem documents and of rejected images."""
    from eolgul.errors import Reason
    from eolgul.serving.problems import PROBLEMS

    rows = [(f"`{code}`", str(status), title) for code, (status, title) in PROBLEMS.items()]
    lines = [
        "# Error and rejection codes",
        "",
        "## Problems of the service",
        "",
        "An error is a problem document (RFC 9457) with one of these codes. Codes are never renamed.",
        "",
        *table(("code", "status", "title"), rows),
    ]
    meanings = _members(Reason)
    rows = [
        (f"`{item}`", meanings.get(item.name, ""), "yes" if item.is_acquisition_failure else "no") for item in Reason
    ]
    lines += [
        "",
        "## Rejected images",
        "",
        "Why an input is in `rejected.parquet` and not in a FaceDataset. The last column says whether it counts for the"
        " [failure-to-acquire rate](../numbers.md).",
        "",
        *table(("code", "meaning", "failure to acquire"), rows),
    ]
    return "\n".join(lines) + "\n"


def _members(cls: type) -> dict[str, str]:
    """The string literal after each member of an enumeration."""
    tree = ast.parse(inspect.getsource(cls))
    assert isinstance(tree.body[0], ast.ClassDef)
    texts, last = {}, ""
    for node in tree.body[0].body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            last = node.targets[0].id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            texts[last] = paragraphs(str(node.value.value))
    return texts
