"use strict";
// BentoML brings Swagger UI; its own page around it loads a tracker, so this one is ours.
(async () => {
  const spec = await (await fetch("/openapi.json")).json();
  spec.servers = [{ url: "/" }];
  SwaggerUIBundle({ spec, dom_id: "#swagger", deepLinking: true, presets: [SwaggerUIBundle.presets.apis] });
})();
