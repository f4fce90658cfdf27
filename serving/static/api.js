"use strict";
// BentoML brings Swagger UI and the OpenAPI document; its own page around them loads a tracker, and its description
// is an advertisement with pictures from elsewhere, so both are replaced here.
(async () => {
  const spec = await (await fetch("/docs.json")).json();
  spec.info = {
    title: "eolgul",
    version: "v1",
    description: "Are two photos of one person? Errors are `application/problem+json` documents (RFC 9457) with a stable `code`: "
      + "no_face, several_faces, too_small, not_an_image, unsupported_format, too_large, missing_field, busy, model_not_ready. "
      + "`GET /v1/models/current` says which model answers.",
  };
  spec.servers = [{ url: "/" }];
  SwaggerUIBundle({ spec, dom_id: "#swagger", deepLinking: true, presets: [SwaggerUIBundle.presets.apis] });
})();
