"use strict";
// Swagger UI comes with BentoML. BentoML's own page for it loads a tracker, so this page replaces that one.
(async () => {
  const spec = await (await fetch("../openapi.json")).json();
  spec.servers = [{ url: new URL("..", location.href).pathname }];
  SwaggerUIBundle({ spec, dom_id: "#swagger", deepLinking: true, presets: [SwaggerUIBundle.presets.apis] });
})();
