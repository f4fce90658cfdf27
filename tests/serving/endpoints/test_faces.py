"""The real service over HTTP: verdicts, embeddings, cache, metrics, pages."""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from support.serving import People, Service, png

from eolgul.faces.template import align_face
from eolgul.model.package import ModelPackage

Fresh = Callable[[bytes], bytes]


def test_verify_answers_with_everything_it_promises(service: Service, people: People, package: ModelPackage) -> None:
    response = service.verify(people.a1, people.a1)
    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["verdict"] == "same"
    assert answer["similarity"] == pytest.approx(1.0, abs=1e-5)
    assert answer["model"] == package.digest
    assert answer["synthetic"] is True
    assert answer["threshold"] == 0.9
    assert answer["false_match_rate"] == answer["false_match_rate_floor"] == pytest.approx(1 / 1225)
    assert answer["cached"] in ([False, False], [True, True])
    assert set(answer["timings_ms"]) >= {"cache", "total"}
    width, height = Image.open(io.BytesIO(people.a1)).size
    for face in answer["faces"]:
        assert face["size"] == [width, height]
        assert face["box"][0] < face["box"][2] and face["box"][1] < face["box"][3]
        assert len(face["landmarks"]) == 5 and 0.5 < face["detection_score"] <= 1


def test_similarity_is_the_cosine_of_the_embeddings_and_decides(service: Service, people: People) -> None:
    answer = service.verify(people.a1, people.b1).json()
    left, right = (np.array(service.embed(image).json()["embedding"]) for image in (people.a1, people.b1))
    assert np.linalg.norm(left) == pytest.approx(1.0, abs=1e-5)
    assert answer["similarity"] == pytest.approx(float(left @ right), abs=1e-5)
    assert answer["similarity"] < 0.999  # an embedding that ignores its input would give 1
    assert answer["verdict"] == ("same" if answer["similarity"] >= answer["threshold"] else "different")


def independent_embedding(image: bytes, landmarks: object, package: ModelPackage) -> np.ndarray:
    """The embedding by hand: PIL pixels, RGB, (p - 127.5) / 127.5, mirror added, and ONNX Runtime with no help."""
    pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
    face = align_face(pixels, np.array(landmarks, np.float32))
    tensor = (face.astype(np.float32).transpose(2, 0, 1)[np.newaxis] - 127.5) / 127.5
    session = onnxruntime.InferenceSession(str(package.path / "model.onnx"))
    total = sum(session.run(None, {"faces": np.ascontiguousarray(view)})[0][0] for view in (tensor, tensor[..., ::-1]))
    return np.asarray(total / np.linalg.norm(total))


def test_channel_order_from_file_to_embedding(service: Service, people: People, package: ModelPackage) -> None:
    swapped = png(Image.merge("RGB", Image.open(io.BytesIO(people.a1)).convert("RGB").split()[::-1]))
    answers = [service.embed(image).json() for image in (people.a1, swapped)]
    for image, answer in zip((people.a1, swapped), answers, strict=True):
        expected = independent_embedding(image, answer["landmarks"], package)
        np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    right_way, wrong_way = (np.array(answer["embedding"]) for answer in answers)
    by_hand_swapped = independent_embedding(swapped, answers[0]["landmarks"], package)
    assert right_way @ by_hand_swapped < 0.995  # so a swap anywhere on the way would be seen
    assert right_way @ wrong_way < 0.995


def test_second_time_comes_from_the_cache_and_the_metrics_say_so(
    service: Service, people: People, fresh: Fresh
) -> None:
    left, right = fresh(people.a1), fresh(people.a2)
    before = {outcome: service.metric("eolgul_cache_total", outcome=outcome) for outcome in ("hit", "miss")}
    verdicts = service.metric("eolgul_similarity_bucket", le="+Inf")
    embeds = service.metric("eolgul_stage_seconds_count", stage="embed")
    first, second = service.verify(left, right).json(), service.verify(left, right).json()
    assert first["cached"] == [False, False] and second["cached"] == [True, True]
    for answer in (first, second):
        for measured in ("cached", "timings_ms"):
            del answer[measured]
    assert first == second
    assert service.metric("eolgul_cache_total", outcome="hit") == before["hit"] + 2
    assert service.metric("eolgul_cache_total", outcome="miss") == before["miss"] + 2
    assert service.metric("eolgul_stage_seconds_count", stage="embed") == embeds + 2
    assert service.metric("eolgul_similarity_bucket", le="+Inf") == verdicts + 2
    assert service.metric("eolgul_requests_total", route="/v1/verify", status="200") >= 2
    assert service.metric("eolgul_request_seconds_count", route="/v1/verify") >= 2


def test_model_info(service: Service, package: ModelPackage) -> None:
    answer = service.client.get("/v1/models/current").json()
    assert answer["digest"] == package.digest and answer["backbone"] == "patches" and answer["synthetic"] is True
    assert service.metric("eolgul_model_info", digest=package.digest, backbone="patches", synthetic="true") == 1


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health(service: Service, path: str) -> None:
    assert service.client.get(path).status_code == 200


def test_unknown_paths_do_not_grow_the_metrics(service: Service) -> None:
    for number in range(5):
        assert service.client.get(f"/nowhere/{number}").json()["code"] == "not_found"
    text = service.client.get("/metrics").text
    assert "nowhere" not in text and 'route="other"' in text


def test_metrics_come_in_the_format_asked_for(service: Service) -> None:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

    asked = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"
    for accept, media_type in {
        "application/openmetrics-text": "application/openmetrics-text; version=1.0.0",
        asked: "application/openmetrics-text; version=1.0.0",
        "*/*": "text/plain; version=0.0.4",
        "": "text/plain; version=0.0.4",
        "nonsense;;q=x": "text/plain; version=0.0.4",
    }.items():
        answer = service.client.get("/metrics", headers={"accept": accept})
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(media_type), accept
        assert answer.headers["vary"] == "Accept" and answer.text.endswith("# EOF\n") == ("openmetrics" in media_type)
    families = {
        family.name for family in parse_openmetrics(service.client.get("/metrics", headers={"accept": asked}).text)
    }
    assert {"eolgul_requests", "eolgul_request_seconds", "process_cpu_seconds", "process_open_fds"} <= families


def test_pages(service: Service) -> None:
    assert (
        service.client.get("/").headers["location"] == "ui/"
    )  # relative, so that it stays below the prefix of a proxy
    page = service.client.get("/ui/")
    assert page.status_code == 200 and "Content-Security-Policy" in page.headers
    assert "the report of the test" in service.client.get("/ui/report.html").text
    assert service.client.get("/report", follow_redirects=True).status_code == 200
    assert service.client.get("/ui/../../etc/passwd").status_code == 404


def test_openapi_describes_the_forms(service: Service) -> None:
    document = service.client.get("/docs.json").json()
    form = document["paths"]["/v1/verify"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image1", "image2"]
    assert form["properties"]["image1"]["format"] == "binary"
    answer = document["paths"]["/v1/verify"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "false_match_rate" in document["components"]["schemas"][answer["$ref"].rpartition("/")[2]]["properties"]
    refusal = document["paths"]["/v1/verify"]["post"]["responses"]["422"]["content"]["application/problem+json"]
    assert refusal["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]


def test_a_jpeg_turned_by_exif_is_seen_upright(service: Service, people: People) -> None:
    upright = Image.open(io.BytesIO(people.a1)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn by 90 degrees clockwise to see it
    buffer = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    answer = service.verify(people.a1, buffer.getvalue()).json()
    assert answer["faces"][1]["size"] == list(upright.size)
    assert answer["verdict"] == "same"


def test_raw_body_and_base64_are_the_same_picture(service: Service, people: People) -> None:
    form = service.embed(people.a1).json()["embedding"]
    raw = service.client.post("/v1/embed", content=people.a1, headers={"content-type": "image/png"}).json()
    text = service.client.post("/v1/embed", json={"image": base64.b64encode(people.a1).decode()}).json()
    assert raw["embedding"] == text["embedding"] == form


def test_base64_as_encoders_write_it(service: Service, people: People) -> None:
    plain = base64.b64encode(people.a1).decode()
    forms = {
        "data URL": f"data:image/png;base64,{plain}",
        "data URL with parameters": f"DATA:image/png;name=a.png;base64,{plain}",
        "lines": base64.encodebytes(people.a1).decode(),
        "MIME lines": base64.encodebytes(people.a1).decode().replace("\n", "\r\n"),
        "URL-safe": base64.urlsafe_b64encode(people.a1).decode(),
        "no padding": plain.rstrip("="),
        "data URL of lines, URL-safe, no padding": "data:;base64,"
        + base64.urlsafe_b64encode(people.a1).decode().rstrip("=")
        + "\n",
    }
    expected = service.client.post("/v1/embed", json={"image": plain}).json()["embedding"]
    for name, text in forms.items():
        answer = service.client.post("/v1/embed", json={"image": text})
        assert answer.status_code == 200 and answer.json()["embedding"] == expected, name
    for text, why in {
        f"data:image/png,{plain}": "a data: URL without base64",
        f"{plain[:40]}%{plain[40:]}": "it has '%' at character 41",
        f"{plain[:40]}가{plain[40:]}": "it has '가' at character 41",
        f"{plain[:40]}=={plain[40:]}": "it has '=' at character 41",
        f"{plain}AAAAA": "",
        "AAAAA": "it ends in the middle of a byte",
    }.items():
        problem = service.client.post("/v1/embed", json={"image": text})
        assert problem.status_code == 422 and problem.json()["code"] == "not_an_image"
        assert why in problem.json()["detail"]


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_refused_with_a_sentence(service: Service, people: People, coding: str) -> None:
    packed = gzip.compress(people.a1)
    answer = service.client.post(
        "/v1/embed", content=packed, headers={"content-type": "image/png", "content-encoding": coding}
    )
    assert answer.status_code == 415 and answer.json()["code"] == "unsupported_format"
    assert "compressed already" in answer.json()["detail"]


def test_one_against_many(service: Service, people: People) -> None:
    files = [("image", people.a1), *(("others", data) for data in (people.a1, b"no picture", people.b1))]
    answer = service.client.post("/v1/verify/many", files=files).json()
    same, broken, other = answer["results"]
    assert same["comparison"]["verdict"] == "same" and broken["problem"]["code"] == "not_an_image"
    assert other["comparison"]["similarity"] == pytest.approx(service.verify(people.a1, people.b1).json()["similarity"])
    assert [one["index"] for one in answer["results"]] == [0, 1, 2]
    crowd = [("image", people.a1), *[("others", people.b1)] * 33]
    assert service.client.post("/v1/verify/many", files=crowd).status_code in (400, 413)


def test_detect_shows_every_face_and_the_chosen_one(service: Service, people: People) -> None:
    left, right = (Image.open(io.BytesIO(data)).convert("RGB") for data in (people.a1, people.b1))
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    answer = service.client.post("/v1/detect", files={"image": png(both)}).json()
    assert len(answer["faces"]) == 2 and sum(face["chosen"] for face in answer["faces"]) == 1
    for face in answer["faces"]:
        assert face["quality"]["inter_eye_distance"] > 20 and abs(face["quality"]["yaw"]) < 30
    empty = service.client.post("/v1/detect", files={"image": png(Image.new("RGB", (200, 200)))})
    assert (empty.status_code, empty.json()["faces"]) == (200, [])
