// Draws the API from the document of this host. Requests go to this host only.
window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: "/api/openapi.json",
    dom_id: "#page",
    deepLinking: true,
    docExpansion: "none",
    filter: true,
    // It would ask another host whether the document is right.
    validatorUrl: null,
    // Neither a name nor a password stays in the browser.
    persistAuthorization: false,
    requestSnippetsEnabled: true,
    tryItOutEnabled: true,
  });
});
